// Alignment of models with several MoE layers: how the experts of a client are split, and that each
// layer's plan is the best for that split.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <optional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/counter_rng.h"
#include "federation/alignment.h"

namespace fedmoe {
namespace {

using testing::ElementsAre;

constexpr AlignmentStrategy kSplitting[] = {
    AlignmentStrategy::kRandom, AlignmentStrategy::kStatic,   AlignmentStrategy::kRoundRobin,
    AlignmentStrategy::kGreedy, AlignmentStrategy::kLoadOnly, AlignmentStrategy::kBalanced};

AlignmentProblem Problem(std::vector<int> capacity, int experts, int layers) {
  AlignmentProblem problem;
  for (std::size_t c = 0; c < capacity.size(); ++c) {
    problem.clients.push_back("c" + std::to_string(c));
  }
  problem.fitness = Eigen::MatrixXd::Constant(static_cast<Eigen::Index>(capacity.size()), experts,
                                              static_cast<double>(layers) / experts);
  problem.capacity = std::move(capacity);
  problem.load = ExpertLoad::Of(experts);
  problem.layers = layers;
  problem.seed = 5;
  return problem;
}

AlignmentPlan PlanWith(const AlignmentProblem& problem, AlignmentStrategy strategy,
                       AlignmentMemory& memory) {
  auto plan = Align(problem, {.strategy = strategy}, memory);
  EXPECT_TRUE(plan.ok()) << plan.status().ToString();
  return std::move(plan).value();
}

AlignmentPlan Plan(const AlignmentProblem& problem, AlignmentStrategy strategy) {
  AlignmentMemory memory;
  return PlanWith(problem, strategy, memory);
}

// Experts of a client in each layer.
std::vector<int> SplitOf(const AlignmentProblem& problem, const AlignmentPlan& plan, int client) {
  std::vector<int> split(static_cast<std::size_t>(problem.layers), 0);
  const int per_layer = static_cast<int>(problem.fitness.cols()) / problem.layers;
  for (const ExpertIndex expert : plan.ExpertsOf(client)) {
    ++split[static_cast<std::size_t>(expert / per_layer)];
  }
  return split;
}

AlignmentProblem RandomProblem(CounterRng& rng) {
  const int layers = 2;
  const int experts = layers * (2 + static_cast<int>(rng.NextBelow(2)));
  std::vector<int> capacity;
  for (int c = 0; c < 3; ++c) {
    capacity.push_back(static_cast<int>(rng.NextBelow(static_cast<std::uint64_t>(experts) + 1)));
  }
  AlignmentProblem problem = Problem(std::move(capacity), experts, layers);
  // Few levels, exact in binary: ties, and sums that compare exactly.
  for (Eigen::Index i = 0; i < problem.fitness.size(); ++i) {
    problem.fitness(i) = static_cast<double>(rng.NextBelow(8)) / 8.0;
  }
  problem.seed = rng.NextU64();
  return problem;
}

// The best total over all ways to give each client as many experts in each layer as `splits` says
// with the loads of a layer differing by one at most.
class BruteForce {
 public:
  BruteForce(const AlignmentProblem& problem, std::vector<std::vector<int>> splits)
      : problem_(problem),
        splits_(std::move(splits)),
        load_(static_cast<std::size_t>(problem.fitness.cols()), 0) {
    Search(0, 0.0);
  }
  std::optional<double> best() const { return best_; }

 private:
  int PerLayer() const { return static_cast<int>(problem_.fitness.cols()) / problem_.layers; }

  bool Even() const {
    for (int layer = 0; layer < problem_.layers; ++layer) {
      const auto begin = load_.begin() + layer * PerLayer();
      const auto [least, most] = std::minmax_element(begin, begin + PerLayer());
      if (*most - *least > 1) return false;
    }
    return true;
  }

  bool Fits(unsigned set, const std::vector<int>& split) const {
    for (int layer = 0; layer < problem_.layers; ++layer) {
      const unsigned mask = ((1U << PerLayer()) - 1U) << (layer * PerLayer());
      if (std::popcount(set & mask) != split[static_cast<std::size_t>(layer)]) return false;
    }
    return true;
  }

  void Search(std::size_t client, double total) {
    if (client == splits_.size()) {
      if (Even() && (!best_ || total > *best_)) best_ = total;
      return;
    }
    for (unsigned set = 0; set < (1U << load_.size()); ++set) {
      if (!Fits(set, splits_[client])) continue;
      double gain = 0.0;
      for (unsigned e = 0; e < load_.size(); ++e) {
        if ((set >> e & 1U) == 0) continue;
        ++load_[e];
        gain += problem_.fitness(static_cast<Eigen::Index>(client), e);
      }
      Search(client + 1, total + gain);
      for (unsigned e = 0; e < load_.size(); ++e) load_[e] -= static_cast<int>(set >> e & 1U);
    }
  }

  const AlignmentProblem& problem_;
  const std::vector<std::vector<int>> splits_;
  std::vector<int> load_;
  std::optional<double> best_;
};

TEST(AlignLayers, BalancedEqualsBruteForceOnRandomTinyCases) {
  constexpr std::uint64_t kSeed = 17;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  CounterRng rng(kSeed);
  for (int trial = 0; trial < 100; ++trial) {
    SCOPED_TRACE("trial " + std::to_string(trial));
    const AlignmentProblem problem = RandomProblem(rng);
    const AlignmentPlan plan = Plan(problem, AlignmentStrategy::kBalanced);
    std::vector<std::vector<int>> splits;
    for (int c = 0; c < 3; ++c) splits.push_back(SplitOf(problem, plan, c));
    EXPECT_EQ(plan.objective, BruteForce(problem, splits).best());
    EXPECT_EQ(plan.relaxed, 0);
  }
}

TEST(AlignLayers, SplitsEveryClientAndTheWholeEvenly) {
  constexpr std::uint64_t kSeed = 18;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  CounterRng rng(kSeed);
  for (int trial = 0; trial < 50; ++trial) {
    const AlignmentProblem problem = RandomProblem(rng);
    for (const AlignmentStrategy strategy : kSplitting) {
      SCOPED_TRACE("trial " + std::to_string(trial) + ", " + AlignmentStrategyName(strategy));
      const AlignmentPlan plan = Plan(problem, strategy);
      std::vector<int> totals(2, 0);
      for (int c = 0; c < 3; ++c) {
        const std::vector<ExpertIndex> experts = plan.ExpertsOf(c);
        EXPECT_EQ(static_cast<int>(experts.size()), problem.capacity[static_cast<std::size_t>(c)]);
        EXPECT_EQ(std::adjacent_find(experts.begin(), experts.end(), std::greater_equal<>()),
                  experts.end())
            << "ascending, each once";
        const std::vector<int> split = SplitOf(problem, plan, c);
        EXPECT_LE(std::abs(split[0] - split[1]), 1);
        for (std::size_t layer = 0; layer < 2; ++layer) totals[layer] += split[layer];
      }
      EXPECT_LE(std::abs(totals[0] - totals[1]), 1);
    }
  }
}

TEST(AlignLayers, GivesWhatIsLeftOverToOneLayerAfterTheOther) {
  const AlignmentProblem problem = Problem({1, 1, 4, 5, 1}, 12, 3);
  const AlignmentPlan plan = Plan(problem, AlignmentStrategy::kGreedy);
  EXPECT_THAT(SplitOf(problem, plan, 0), ElementsAre(1, 0, 0));
  EXPECT_THAT(SplitOf(problem, plan, 1), ElementsAre(0, 1, 0));
  EXPECT_THAT(SplitOf(problem, plan, 2), ElementsAre(1, 1, 2));
  EXPECT_THAT(SplitOf(problem, plan, 3), ElementsAre(2, 2, 1));
  EXPECT_THAT(SplitOf(problem, plan, 4), ElementsAre(0, 0, 1));
}

TEST(AlignLayers, ReportsFiguresOverAllExperts) {
  AlignmentProblem problem = Problem({2, 2}, 4, 2);
  problem.fitness << 0.75, 0.25, 0.125, 0.875,  //
      0.5, 0.5, 0.25, 0.75;
  const AlignmentPlan greedy = Plan(problem, AlignmentStrategy::kGreedy);
  EXPECT_THAT(greedy.ExpertsOf(0), ElementsAre(0, 3));
  EXPECT_EQ(greedy.ExpertsOf(1)[1], 3);
  const AlignmentPlan plan = Plan(problem, AlignmentStrategy::kBalanced);
  EXPECT_THAT(plan.ExpertsOf(0), ElementsAre(0, 3));
  EXPECT_THAT(plan.ExpertsOf(1), ElementsAre(1, 2));
  EXPECT_EQ(plan.objective, 0.75 + 0.875 + 0.5 + 0.25);
  EXPECT_EQ(plan.assignments[3].fitness, 0.25);
  EXPECT_EQ(plan.assignments[3].reason, AssignmentReason::kBalance);
  EXPECT_THAT(plan.load, ElementsAre(1, 1, 1, 1));
  EXPECT_EQ(plan.cv, 0.0);
  EXPECT_EQ(plan.floor_cv, 0.0);
  EXPECT_EQ(plan.coverage, 1.0);
  EXPECT_EQ(plan.bounds.target, 1.0);
  EXPECT_THAT(plan.bounds.lower, ElementsAre(1, 1, 1, 1));
  EXPECT_THAT(plan.bounds.upper, ElementsAre(1, 1, 1, 1));
}

TEST(AlignLayers, TakesEachLayersOwnHistory) {
  AlignmentProblem problem = Problem({1, 1}, 4, 2);
  problem.load.assignments = {9, 0, 0, 9};
  const AlignmentPlan plan = Plan(problem, AlignmentStrategy::kLoadOnly);
  EXPECT_THAT(plan.ExpertsOf(0), ElementsAre(1));
  EXPECT_THAT(plan.ExpertsOf(1), ElementsAre(2));
}

TEST(AlignLayers, TellsTiesApartDifferentlyInEachLayer) {
  const int experts = 64;
  const AlignmentProblem problem = Problem({2, 2, 2, 2, 2, 2}, 2 * experts, 2);
  const AlignmentPlan plan = Plan(problem, AlignmentStrategy::kGreedy);
  int alike = 0;
  for (int c = 0; c < 6; ++c) {
    const std::vector<ExpertIndex> held = plan.ExpertsOf(c);
    alike += held[0] + experts == held[1] ? 1 : 0;
  }
  EXPECT_LE(alike, 2) << "one in 64 each by chance";
}

TEST(AlignLayers, FullGivesAllAndNoneNothing) {
  const AlignmentProblem problem = Problem({1, 0}, 4, 2);
  const AlignmentPlan full = Plan(problem, AlignmentStrategy::kFull);
  EXPECT_THAT(full.ExpertsOf(0), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(full.ExpertsOf(1), ElementsAre(0, 1, 2, 3));
  EXPECT_TRUE(Plan(problem, AlignmentStrategy::kNone).assignments.empty());
}

TEST(AlignLayers, TheStaticPlanStaysAsItIsWhoeverElseIsThere) {
  AlignmentMemory memory;
  const AlignmentProblem all = Problem({1, 3, 1, 2}, 6, 2);
  const AlignmentPlan first = PlanWith(all, AlignmentStrategy::kStatic, memory);
  for (int c = 0; c < 4; ++c) {
    EXPECT_EQ(memory.pinned.at(all.clients[static_cast<std::size_t>(c)]), first.ExpertsOf(c));
  }
  // Without the first client the others have another index; their experts are the same.
  AlignmentProblem rest = Problem({3, 1, 2}, 6, 2);
  rest.clients = {"c1", "c2", "c3"};
  rest.round = 2;
  const AlignmentPlan second = PlanWith(rest, AlignmentStrategy::kStatic, memory);
  for (int c = 0; c < 3; ++c) EXPECT_EQ(second.ExpertsOf(c), first.ExpertsOf(c + 1));
  EXPECT_EQ(memory.pinned.at("c0"), first.ExpertsOf(0));
  // Another capacity keeps what it can of the plan.
  rest.capacity = {4, 1, 2};
  const std::vector<ExpertIndex> grown =
      PlanWith(rest, AlignmentStrategy::kStatic, memory).ExpertsOf(0);
  EXPECT_EQ(grown.size(), 4U);
  const std::vector<ExpertIndex> before = first.ExpertsOf(1);
  EXPECT_TRUE(std::includes(grown.begin(), grown.end(), before.begin(), before.end()));
}

TEST(AlignLayers, RelaxationIsTheMostOfAnyLayer) {
  AlignmentProblem problem = Problem({2, 2}, 4, 2);
  // Layer 1 asks for more of expert 2 than there are clients with room, and less of expert 3.
  problem.load.deficit = {0.0, 0.0, -2.0, -2.0};
  const AlignmentPlan plan = Plan(problem, AlignmentStrategy::kBalanced);
  EXPECT_EQ(plan.relaxed, 1);
  EXPECT_THAT(plan.load, ElementsAre(1, 1, 1, 1));
  EXPECT_THAT(plan.bounds.upper, ElementsAre(1, 1, 1, 1));
  EXPECT_THAT(plan.bounds.lower, ElementsAre(1, 1, 0, 0));
}

}  // namespace
}  // namespace fedmoe
