// Alignment with unequal weights and sizes, against brute force on tiny problems.
#include "federation/weighted_alignment.h"

#include <bit>
#include <functional>
#include <optional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/counter_rng.h"
#include "federation/alignment.h"
#include "federation/knapsack.h"

namespace fedmoe {
namespace {

struct Instance {
  AlignmentProblem problem;
  double slack = 0.0;
};

Instance Random(CounterRng& rng, int clients, int experts, bool sizes) {
  Instance made;
  AlignmentProblem& problem = made.problem;
  problem.fitness.resize(clients, experts);
  problem.load = ExpertLoad::Of(experts);
  for (int c = 0; c < clients; ++c) {
    const std::string name = std::to_string(c);
    problem.clients.push_back("c" + std::string(6 - name.size(), '0') + name);
    problem.capacity.push_back(
        1 + static_cast<int>(rng.NextBelow(static_cast<std::uint64_t>(std::min(4, experts)))));
    problem.weight.push_back(0.5 + 3.0 * rng.NextUniform());
    if (sizes) problem.room_bytes.push_back(4.0 * rng.NextUniform());
    for (int e = 0; e < experts; ++e) problem.fitness(c, e) = rng.NextUniform();
  }
  for (int e = 0; sizes && e < experts; ++e) {
    problem.expert_bytes.push_back(0.5 + rng.NextUniform());
  }
  made.slack = 0.5 * rng.NextUniform();
  return made;
}

AlignmentPlan Solve(const Instance& instance) {
  AlignmentOptions options;
  options.load.slack = instance.slack;
  AlignmentMemory memory;
  auto plan = Align(instance.problem, options, memory);
  EXPECT_TRUE(plan.ok()) << plan.status().ToString();
  return std::move(plan).value();
}

// The greatest total over all plans within the plan's own bounds; none if there is none.
std::optional<double> BruteForce(const AlignmentProblem& problem, const WeightedBounds& bounds) {
  const auto experts = static_cast<unsigned>(problem.fitness.cols());
  std::optional<double> best;
  std::vector<double> load(experts, 0.0);
  const std::function<void(std::size_t, double)> search = [&](std::size_t client, double total) {
    if (client == problem.clients.size()) {
      for (unsigned e = 0; e < experts; ++e) {
        if (load[e] < bounds.lower[e] - 1e-12 || load[e] > bounds.upper[e] + 1e-12) return;
      }
      if (!best || total > *best) best = total;
      return;
    }
    for (unsigned set = 0; set < (1U << experts); ++set) {
      const int count = std::popcount(set);
      if (problem.room_bytes.empty() ? count != problem.capacity[client]
                                     : count > problem.capacity[client]) {
        continue;
      }
      double gain = 0.0;
      double bytes = 0.0;
      for (unsigned e = 0; e < experts; ++e) {
        if ((set >> e & 1U) == 0) continue;
        gain += problem.fitness(static_cast<Eigen::Index>(client), e);
        if (!problem.room_bytes.empty()) bytes += problem.expert_bytes[e];
      }
      if (!problem.room_bytes.empty() && bytes > problem.room_bytes[client]) continue;
      for (unsigned e = 0; e < experts; ++e) {
        if ((set >> e & 1U) != 0) load[e] += problem.weight[client];
      }
      search(client + 1, total + gain);
      for (unsigned e = 0; e < experts; ++e) {
        if ((set >> e & 1U) != 0) load[e] -= problem.weight[client];
      }
    }
  };
  search(0, 0.0);
  return best;
}

void ExpectConsistent(const AlignmentProblem& problem, const AlignmentPlan& plan) {
  std::vector<double> load(static_cast<std::size_t>(problem.fitness.cols()), 0.0);
  std::vector<int> held(problem.clients.size(), 0);
  std::vector<double> bytes(problem.clients.size(), 0.0);
  for (const Assignment& assignment : plan.assignments) {
    const auto c = static_cast<std::size_t>(assignment.client);
    const auto e = static_cast<std::size_t>(assignment.expert);
    load[e] += problem.weight[c];
    ++held[c];
    if (!problem.expert_bytes.empty()) bytes[c] += problem.expert_bytes[e];
  }
  double outside = 0.0;
  double all = 0.0;
  for (std::size_t e = 0; e < load.size(); ++e) {
    EXPECT_NEAR(load[e], plan.weighted_load[e], 1e-9);
    outside += std::max(
        {0.0, load[e] - plan.weighted_bounds.upper[e], plan.weighted_bounds.lower[e] - load[e]});
    all += load[e];
  }
  if (all > 0.0) {
    EXPECT_NEAR(plan.violation, outside / all, 1e-9);
  }
  for (std::size_t c = 0; c < held.size(); ++c) {
    if (problem.room_bytes.empty()) {
      EXPECT_EQ(held[c], problem.capacity[c]);
    } else {
      EXPECT_LE(held[c], problem.capacity[c]);
      EXPECT_LE(bytes[c], problem.room_bytes[c] + 1e-12);
    }
  }
}

class Weighted : public ::testing::TestWithParam<bool> {};

TEST_P(Weighted, IsWithinItsGapOfBruteForce) {
  CounterRng rng(GetParam() ? 31 : 30);
  int feasible = 0;
  int met = 0;
  double lost = 0.0;
  for (int trial = 0; trial < 300; ++trial) {
    SCOPED_TRACE("trial " + std::to_string(trial));
    const Instance instance = Random(rng, 5, 4, GetParam());
    const AlignmentPlan plan = Solve(instance);
    ExpectConsistent(instance.problem, plan);
    const auto best = BruteForce(instance.problem, plan.weighted_bounds);
    if (!best) continue;
    ++feasible;
    EXPECT_GE(plan.bound, *best - 1e-9) << "the certificate holds";
    if (plan.violation > 1e-9) continue;
    ++met;
    EXPECT_LE(plan.objective, *best + 1e-9);
    EXPECT_GE(plan.objective, (1.0 - plan.gap) * plan.bound - 1e-9);
    lost += 1.0 - plan.objective / *best;
    if (HasFailure()) return;
  }
  EXPECT_GE(feasible, 200);
  EXPECT_GE(met, feasible * 9 / 10) << "of " << feasible;
  EXPECT_LE(lost / met, 0.03) << "of the optimum, on average, for five clients";
}

INSTANTIATE_TEST_SUITE_P(CountsAndSizes, Weighted, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Sizes" : "Counts"; });

TEST(WeightedLarge, MeetsItsBoundsWithASmallGap) {
  CounterRng rng(7);
  Instance instance = Random(rng, 2000, 16, false);
  instance.slack = 0.0;
  const AlignmentPlan plan = Solve(instance);
  ExpectConsistent(instance.problem, plan);
  EXPECT_EQ(plan.violation, 0.0);
  EXPECT_LE(plan.gap, 2e-3);
  EXPECT_LE(CoefficientOfVariation(std::span<const double>(plan.weighted_load)), 0.01);
}

TEST(WeightedLarge, OfSizesMeetsItsBoundsWithASmallGap) {
  CounterRng rng(7);
  Instance instance = Random(rng, 1000, 12, true);
  instance.problem.fitness.leftCols(2).array() += 1.0;  // everybody wants these
  const AlignmentPlan plan = Solve(instance);
  ExpectConsistent(instance.problem, plan);
  EXPECT_GT(plan.prices[0], 0.0);
  EXPECT_GT(plan.prices[1], 0.0);
  EXPECT_EQ(plan.violation, 0.0);
  EXPECT_LE(plan.gap, 1e-2);
}

TEST(Knapsack, IsTheBestOfAllSets) {
  CounterRng rng(17);
  for (int trial = 0; trial < 300; ++trial) {
    const auto experts = static_cast<unsigned>(1 + rng.NextBelow(9));
    std::vector<double> value, bytes;
    for (unsigned e = 0; e < experts; ++e) {
      value.push_back(rng.NextUniform() - 0.2);
      bytes.push_back(0.2 + rng.NextUniform());
    }
    const double room = 3.0 * rng.NextUniform();
    const int count = static_cast<int>(rng.NextBelow(experts + 1));
    double best = 0.0;
    for (unsigned set = 0; set < (1U << experts); ++set) {
      double total = 0.0, used = 0.0;
      for (unsigned e = 0; e < experts; ++e) {
        if ((set >> e & 1U) == 0) continue;
        total += value[e];
        used += bytes[e];
      }
      if (used <= room && std::popcount(set) <= count) best = std::max(best, total);
    }
    const KnapsackChoice choice = SolveKnapsack(value, bytes, room, count, 100000);
    ASSERT_NEAR(choice.value, best, 1e-12) << "trial " << trial;
    ASSERT_NEAR(choice.bound, best, 1e-12) << "trial " << trial;
    const KnapsackChoice hasty = SolveKnapsack(value, bytes, room, count, 2);
    ASSERT_LE(hasty.value, best + 1e-12);
    ASSERT_GE(hasty.bound, best - 1e-12) << "still a bound";
  }
}

TEST(Weighted, EqualWeightsAreTheProblemOfCounts) {
  CounterRng rng(3);
  Instance instance = Random(rng, 40, 6, false);
  instance.problem.weight.assign(40, 2.5);
  const AlignmentPlan weighted = Solve(instance);
  instance.problem.weight.clear();
  const AlignmentPlan counts = Solve(instance);
  EXPECT_EQ(weighted.objective, counts.objective);
  EXPECT_EQ(weighted.solver, AlignmentSolver::kExact);
  EXPECT_TRUE(weighted.weighted_load.empty());
}

TEST(Weighted, BadWeightsAndSizesAreNamed) {
  CounterRng rng(3);
  const Instance good = Random(rng, 2, 3, true);
  const auto message = [&](auto change) {
    AlignmentProblem problem = good.problem;
    change(problem);
    AlignmentMemory memory;
    return Align(problem, {}, memory).status().ToString();
  };
  EXPECT_EQ(message([](auto& p) { p.weight.pop_back(); }),
            "INVALID_ARGUMENT: 1 weights for 2 clients");
  EXPECT_EQ(message([](auto& p) { p.weight[1] = 0.0; }),
            "INVALID_ARGUMENT: weight of client 'c000001' is 0.000000, must be above 0 and finite");
  EXPECT_EQ(
      message([](auto& p) { p.room_bytes.clear(); }),
      "INVALID_ARGUMENT: 3 expert sizes for 3 experts and 0 rooms for 2 clients; both or none");
  EXPECT_EQ(message([](auto& p) { p.room_bytes[0] = -1.0; }),
            "INVALID_ARGUMENT: room of client 'c000000' is -1.000000 bytes, must be at least 0");
  EXPECT_EQ(message([](auto& p) { p.expert_bytes[2] = 0.0; }),
            "INVALID_ARGUMENT: expert 2 is of 0.000000 bytes, must be above 0 and finite");
}

TEST(TokenLoad, DeficitsAreSharesOfTheTokensInAssignments) {
  ExpertLoad load = ExpertLoad::Of(2);
  LoadOptions options;
  options.unit = LoadUnit::kTokens;
  // Four assignments, two each, but three quarters of the tokens went to expert 0.
  RecordRound(load, std::vector<std::int64_t>{2, 2}, std::vector<double>{300.0, 100.0}, options);
  EXPECT_THAT(load.deficit, testing::ElementsAre(-1.0, 1.0));
  options.unit = LoadUnit::kClients;
  load = ExpertLoad::Of(2);
  RecordRound(load, std::vector<std::int64_t>{2, 2}, std::vector<double>{300.0, 100.0}, options);
  EXPECT_THAT(load.deficit, testing::ElementsAre(0.0, 0.0));
}

}  // namespace
}  // namespace fedmoe
