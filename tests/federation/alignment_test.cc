#include "federation/alignment.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/counter_rng.h"
#include "federation/alignment_baselines.h"

namespace fedmoe {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

constexpr AlignmentStrategy kAll[] = {AlignmentStrategy::kNone,       AlignmentStrategy::kFull,
                                      AlignmentStrategy::kRandom,     AlignmentStrategy::kStatic,
                                      AlignmentStrategy::kRoundRobin, AlignmentStrategy::kGreedy,
                                      AlignmentStrategy::kLoadOnly,   AlignmentStrategy::kBalanced};

// Clients "c00", "c01", ... with neutral fitness and no history.
AlignmentProblem Problem(std::vector<int> capacity, int experts) {
  AlignmentProblem problem;
  for (std::size_t c = 0; c < capacity.size(); ++c) {
    problem.clients.push_back((c < 10 ? "c0" : "c") + std::to_string(c));
  }
  problem.fitness =
      Eigen::MatrixXd::Constant(static_cast<Eigen::Index>(capacity.size()), experts, 1.0 / experts);
  problem.capacity = std::move(capacity);
  problem.load = ExpertLoad::Of(experts);
  problem.seed = 5;
  return problem;
}

AlignmentPlan Plan(const AlignmentProblem& problem, AlignmentStrategy strategy) {
  AlignmentMemory memory;
  auto plan = Align(problem, {.strategy = strategy}, memory);
  EXPECT_TRUE(plan.ok()) << plan.status().ToString();
  return std::move(plan).value();
}

std::set<AssignmentReason> Reasons(const AlignmentPlan& plan) {
  std::set<AssignmentReason> reasons;
  for (const Assignment& assignment : plan.assignments) reasons.insert(assignment.reason);
  return reasons;
}

void Record(ExpertLoad& load, const AlignmentPlan& plan, const LoadOptions& options) {
  const std::vector<std::int64_t> assignments(plan.load.begin(), plan.load.end());
  RecordRound(load, assignments, std::vector<double>(assignments.size(), 0.0), options);
}

TEST(Align, GivesEveryClientItsCapacityInEveryStrategyButNoneAndFull) {
  const AlignmentProblem problem = Problem({1, 2, 3, 0, 4, 8}, 8);
  for (const AlignmentStrategy strategy : kAll) {
    SCOPED_TRACE(AlignmentStrategyName(strategy));
    const AlignmentPlan plan = Plan(problem, strategy);
    std::vector<int> load(8, 0);
    for (int c = 0; c < 6; ++c) {
      const std::vector<ExpertIndex> experts = plan.ExpertsOf(c);
      EXPECT_EQ(std::set<ExpertIndex>(experts.begin(), experts.end()).size(), experts.size());
      EXPECT_TRUE(std::is_sorted(experts.begin(), experts.end()));
      int expected = problem.capacity[static_cast<std::size_t>(c)];
      if (strategy == AlignmentStrategy::kNone) expected = 0;
      if (strategy == AlignmentStrategy::kFull) expected = 8;
      EXPECT_EQ(static_cast<int>(experts.size()), expected) << "client " << c;
      for (const ExpertIndex expert : experts) ++load[static_cast<std::size_t>(expert)];
    }
    EXPECT_EQ(plan.load, load);
    EXPECT_EQ(plan.strategy, strategy);
  }
}

TEST(Align, IsAFunctionOfItsArguments) {
  const AlignmentProblem problem = Problem({1, 2, 3, 2, 4, 1}, 8);
  for (const AlignmentStrategy strategy : kAll) {
    const AlignmentPlan first = Plan(problem, strategy);
    const AlignmentPlan second = Plan(problem, strategy);
    for (int c = 0; c < 6; ++c) EXPECT_EQ(first.ExpertsOf(c), second.ExpertsOf(c));
  }
}

TEST(Align, ReportsObjectiveCvCoverageAndTheFloor) {
  AlignmentProblem problem = Problem({2, 2}, 4);
  problem.fitness << 0.5, 0.25, 0.125, 0.125,  //
      0.5, 0.375, 0.0, 0.125;
  const AlignmentPlan plan = Plan(problem, AlignmentStrategy::kGreedy);
  EXPECT_THAT(plan.ExpertsOf(0), ElementsAre(0, 1));
  EXPECT_THAT(plan.ExpertsOf(1), ElementsAre(0, 1));
  EXPECT_THAT(plan.load, ElementsAre(2, 2, 0, 0));
  EXPECT_EQ(plan.objective, 0.5 + 0.25 + 0.5 + 0.375);
  EXPECT_EQ(plan.cv, 1.0);  // mean 1, deviation 1
  EXPECT_EQ(plan.floor_cv, 0.0);
  EXPECT_EQ(plan.coverage, 0.5);
  EXPECT_EQ(plan.assignments[1].fitness, 0.25);
  EXPECT_THAT(Reasons(plan), ElementsAre(AssignmentReason::kFitness));
}

TEST(Align, WithoutClientsGivesAnEmptyPlan) {
  for (const AlignmentStrategy strategy : kAll) {
    const AlignmentPlan plan = Plan(Problem({}, 3), strategy);
    EXPECT_THAT(plan.assignments, IsEmpty());
    EXPECT_THAT(plan.load, ElementsAre(0, 0, 0));
    EXPECT_EQ(plan.coverage, 0.0);
  }
}

TEST(Align, NamesWhatIsWrongWithTheProblem) {
  AlignmentMemory memory;
  const auto message = [&](const AlignmentProblem& problem) {
    return Align(problem, {}, memory).status().ToString();
  };
  AlignmentProblem problem = Problem({1, 2}, 4);
  problem.capacity = {1};
  EXPECT_EQ(message(problem), "INVALID_ARGUMENT: 1 capacities for 2 clients");
  problem.capacity = {1, 5};
  EXPECT_EQ(message(problem), "INVALID_ARGUMENT: capacity of client 'c01' is 5, must be 0 to 4");
  problem.capacity = {-1, 2};
  EXPECT_EQ(message(problem), "INVALID_ARGUMENT: capacity of client 'c00' is -1, must be 0 to 4");
  problem = Problem({1, 2}, 4);
  problem.clients = {"b", "a"};
  EXPECT_EQ(message(problem),
            "INVALID_ARGUMENT: client 'a' comes after 'b', clients must be sorted and unique");
  problem = Problem({1, 2}, 4);
  problem.fitness = Eigen::MatrixXd::Zero(2, 3);
  EXPECT_EQ(message(problem),
            "INVALID_ARGUMENT: the fitness is 2 x 3, must be 2 clients x 4 experts");
  problem = Problem({1, 2}, 4);
  problem.fitness(1, 2) = NAN;
  EXPECT_EQ(message(problem), "INVALID_ARGUMENT: fitness of client 'c01' is not finite");
  problem = Problem({1, 2}, 4);
  problem.load = ExpertLoad{};
  EXPECT_EQ(message(problem), "INVALID_ARGUMENT: the load history has no experts");
  problem = Problem({1, 2}, 4);
  problem.layers = 3;
  EXPECT_EQ(message(problem),
            "INVALID_ARGUMENT: the load history has 4 experts, must be a multiple of 3 layers, at "
            "least 1");
  problem = Problem({1, 2}, 4);
  problem.round = 0;
  EXPECT_EQ(message(problem), "INVALID_ARGUMENT: round is 0, must be at least 1");
}

TEST(Align, HasOneReasonForEachBaseline) {
  const AlignmentProblem problem = Problem({2, 2, 2}, 4);
  EXPECT_THAT(Reasons(Plan(problem, AlignmentStrategy::kNone)), IsEmpty());
  EXPECT_THAT(Reasons(Plan(problem, AlignmentStrategy::kFull)),
              ElementsAre(AssignmentReason::kFull));
  EXPECT_THAT(Reasons(Plan(problem, AlignmentStrategy::kRandom)),
              ElementsAre(AssignmentReason::kRandom));
  EXPECT_THAT(Reasons(Plan(problem, AlignmentStrategy::kStatic)),
              ElementsAre(AssignmentReason::kPinned));
  EXPECT_THAT(Reasons(Plan(problem, AlignmentStrategy::kRoundRobin)),
              ElementsAre(AssignmentReason::kRotation));
  EXPECT_THAT(Reasons(Plan(problem, AlignmentStrategy::kLoadOnly)),
              ElementsAre(AssignmentReason::kLoad));
}

TEST(Strategies, HaveNamesThatParse) {
  for (const AlignmentStrategy strategy : kAll) {
    const auto parsed = ParseAlignmentStrategy(AlignmentStrategyName(strategy));
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(*parsed, strategy);
  }
  EXPECT_EQ(ParseAlignmentStrategy("ballanced").status().ToString(),
            "INVALID_ARGUMENT: unknown alignment strategy 'ballanced', known are none, full, "
            "random, static, round_robin, greedy, load_only, balanced");
}

TEST(AssignmentReasons, HaveNames) {
  EXPECT_STREQ(AssignmentReasonName(AssignmentReason::kFitness), "fitness");
  EXPECT_STREQ(AssignmentReasonName(AssignmentReason::kBalance), "balance");
  EXPECT_STREQ(AssignmentReasonName(AssignmentReason::kRandom), "random");
  EXPECT_STREQ(AssignmentReasonName(AssignmentReason::kPinned), "pinned");
  EXPECT_STREQ(AssignmentReasonName(AssignmentReason::kRotation), "rotation");
  EXPECT_STREQ(AssignmentReasonName(AssignmentReason::kLoad), "load");
  EXPECT_STREQ(AssignmentReasonName(AssignmentReason::kFull), "full");
  EXPECT_STREQ(AssignmentReasonName(AssignmentReason::kExplored), "explored");
}

TEST(Balanced, SaysWhichPairsTheBoundsMoved) {
  // All three want expert 0 most; the second can best do without it, then the third.
  AlignmentProblem problem = Problem({1, 1, 1}, 3);
  problem.fitness << 0.9, 0.05, 0.05,  //
      0.5, 0.45, 0.05,                 //
      0.6, 0.1, 0.3;
  const AlignmentPlan plan = Plan(problem, AlignmentStrategy::kBalanced);
  ASSERT_EQ(plan.assignments.size(), 3U);
  EXPECT_EQ(plan.assignments[0].expert, 0);
  EXPECT_EQ(plan.assignments[1].expert, 1);
  EXPECT_EQ(plan.assignments[2].expert, 2);
  EXPECT_EQ(plan.assignments[0].reason, AssignmentReason::kFitness);
  EXPECT_EQ(plan.assignments[1].reason, AssignmentReason::kBalance);
  EXPECT_EQ(plan.assignments[2].reason, AssignmentReason::kBalance);
  EXPECT_EQ(plan.cv, 0.0);
  EXPECT_THAT(plan.bounds.lower, ElementsAre(1, 1, 1));
  EXPECT_THAT(plan.bounds.upper, ElementsAre(1, 1, 1));
  EXPECT_EQ(plan.relaxed, 0);
}

TEST(Balanced, WidensTheBoundsByAsLittleAsItMust) {
  // Target 1 shifted by the deficits: expert 0 should get 3 of the 3 assignments and the others 0.
  AlignmentProblem problem = Problem({2, 1}, 3);
  problem.load.deficit = {2.0, -1.0, -1.0};
  const AlignmentPlan plan = Plan(problem, AlignmentStrategy::kBalanced);
  // Two clients at most hold expert 0, so one assignment must go elsewhere: one step.
  EXPECT_EQ(plan.relaxed, 1);
  EXPECT_THAT(plan.bounds.lower, ElementsAre(1, 0, 0));
  EXPECT_THAT(plan.bounds.upper, ElementsAre(2, 1, 1));
}

TEST(Balanced, SpreadsClientsWithoutFeedbackOverThePairsOfExperts) {
  // 24 clients of 2 of 8 experts, all alike: the load is even, and who gets what must not follow
  // the order of the clients.
  const AlignmentPlan plan =
      Plan(Problem(std::vector<int>(24, 2), 8), AlignmentStrategy::kBalanced);
  std::set<std::vector<ExpertIndex>> pairs;
  for (int c = 0; c < 24; ++c) pairs.insert(plan.ExpertsOf(c));
  EXPECT_EQ(plan.cv, 0.0);
  EXPECT_GE(pairs.size(), 12U) << "of 28 pairs";
}

TEST(Balanced, BreaksTiesAlikeInEveryRoundAndNeverAgainstFitness) {
  AlignmentProblem problem = Problem({1, 1, 1, 1}, 4);
  const AlignmentPlan first = Plan(problem, AlignmentStrategy::kBalanced);
  problem.round = 2;
  const AlignmentPlan second = Plan(problem, AlignmentStrategy::kBalanced);
  for (int c = 0; c < 4; ++c) EXPECT_EQ(first.ExpertsOf(c), second.ExpertsOf(c));
  // The least advantage that 2^-40 of the largest can express decides, for every pair.
  for (int c = 0; c < 4; ++c) {
    for (int e = 0; e < 4; ++e) {
      AlignmentProblem tilted = problem;
      tilted.fitness(c, e) += 0x1.0p-41;
      EXPECT_THAT(Plan(tilted, AlignmentStrategy::kBalanced).ExpertsOf(c), ElementsAre(e));
    }
  }
}

// With slack 0 every round's load lies within one of the exact share of all rounds so far, so the
// cumulative CV is the integer floor's wherever the bounds could be met.
TEST(Balanced, KeepsTheCumulativeLoadAtTheIntegerFloor) {
  constexpr std::uint64_t kSeed = 3;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  CounterRng rng(kSeed);
  for (int trial = 0; trial < 20; ++trial) {
    AlignmentProblem problem = Problem({1, 2, 3, 2, 1, 2}, 7);
    problem.seed = kSeed;
    std::int64_t total = 0;
    for (problem.round = 1; problem.round <= 25; ++problem.round) {
      for (Eigen::Index i = 0; i < problem.fitness.size(); ++i) {
        problem.fitness(i) = rng.NextUniform();
      }
      const AlignmentPlan plan = Plan(problem, AlignmentStrategy::kBalanced);
      ASSERT_EQ(plan.relaxed, 0);
      total += 11;
      Record(problem.load, plan, {});
      ASSERT_NEAR(CoefficientOfVariation(std::span<const std::int64_t>(problem.load.assignments)),
                  IntegerFloorCv(total, 7), 1e-12)
          << "trial " << trial << ", round " << problem.round;
    }
  }
}

TEST(Balanced, MakesUpForALoadThatBecameUneven) {
  AlignmentProblem problem = Problem(std::vector<int>(8, 2), 8);
  // One round in which expert 0 got two more and expert 1 two fewer than the others.
  const LoadOptions options;
  RecordRound(problem.load, std::vector<std::int64_t>{4, 0, 2, 2, 2, 2, 2, 2},
              std::vector<double>(8, 0.0), options);
  const AlignmentPlan plan = Plan(problem, AlignmentStrategy::kBalanced);
  EXPECT_THAT(plan.load, ElementsAre(0, 4, 2, 2, 2, 2, 2, 2));
  Record(problem.load, plan, options);
  EXPECT_EQ(CoefficientOfVariation(std::span<const std::int64_t>(problem.load.assignments)), 0.0);
}

TEST(Greedy, GivesEachClientItsFittest) {
  AlignmentProblem problem = Problem({1, 2}, 3);
  problem.fitness << 0.1, 0.2, 0.7,  //
      0.3, 0.4, 0.3;
  problem.fitness(1, 0) = 0.31;
  const AlignmentPlan plan = Plan(problem, AlignmentStrategy::kGreedy);
  EXPECT_THAT(plan.ExpertsOf(0), ElementsAre(2));
  EXPECT_THAT(plan.ExpertsOf(1), ElementsAre(0, 1));
}

TEST(Greedy, SpreadsTiesOverTheExperts) {
  const AlignmentPlan plan = Plan(Problem(std::vector<int>(32, 1), 4), AlignmentStrategy::kGreedy);
  EXPECT_EQ(plan.coverage, 1.0);
}

TEST(Random, DrawsAnewEachRoundAndUniformly) {
  AlignmentProblem problem = Problem({2, 2, 2}, 4);
  std::vector<int> counts(4, 0);
  std::set<std::vector<ExpertIndex>> seen;
  for (problem.round = 1; problem.round <= 400; ++problem.round) {
    const AlignmentPlan plan = Plan(problem, AlignmentStrategy::kRandom);
    seen.insert(plan.ExpertsOf(0));
    for (const ExpertIndex expert : plan.ExpertsOf(0)) ++counts[static_cast<std::size_t>(expert)];
  }
  EXPECT_EQ(seen.size(), 6U) << "all pairs of 4 experts";
  // 200 expected of each, deviation 10: six of them either way.
  for (const int count : counts) EXPECT_NEAR(count, 200, 60);
}

TEST(Random, OfAClientDoesNotDependOnTheOthers) {
  const AlignmentPlan together = Plan(Problem({2, 2, 2}, 8), AlignmentStrategy::kRandom);
  const AlignmentPlan alone = Plan(Problem({2}, 8), AlignmentStrategy::kRandom);
  EXPECT_EQ(together.ExpertsOf(0), alone.ExpertsOf(0));
}

TEST(LoadOnly, FillsTheLeastLoadedWhateverTheFitness) {
  AlignmentProblem problem = Problem({1, 2}, 4);
  problem.load.assignments = {5, 1, 3, 4};
  problem.fitness.col(0).setConstant(100.0);
  const AlignmentPlan plan = Plan(problem, AlignmentStrategy::kLoadOnly);
  EXPECT_THAT(plan.ExpertsOf(0), ElementsAre(1));  // 1 -> 2 assignments
  EXPECT_THAT(plan.ExpertsOf(1), ElementsAre(1, 2));
}

TEST(LoadOnly, IsEvenWithinTheRound) {
  const AlignmentPlan plan =
      Plan(Problem({3, 3, 3, 3, 3}, 7), AlignmentStrategy::kLoadOnly);  // 15 over 7
  EXPECT_DOUBLE_EQ(plan.cv, plan.floor_cv);
}

}  // namespace
}  // namespace fedmoe
