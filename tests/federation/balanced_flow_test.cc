#include "federation/balanced_flow.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <optional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/counter_rng.h"
#include "federation/alignment.h"

namespace fedmoe {
namespace {

using testing::ElementsAre;

using Lists = std::vector<std::vector<ExpertIndex>>;

FitnessMatrix Matrix(const std::vector<std::vector<double>>& rows) {
  FitnessMatrix matrix(static_cast<Eigen::Index>(rows.size()),
                       static_cast<Eigen::Index>(rows.front().size()));
  for (Eigen::Index r = 0; r < matrix.rows(); ++r) {
    for (Eigen::Index c = 0; c < matrix.cols(); ++c) {
      matrix(r, c) = rows[static_cast<std::size_t>(r)][static_cast<std::size_t>(c)];
    }
  }
  return matrix;
}

double Total(const FitnessMatrix& fitness, const Lists& lists) {
  double total = 0.0;
  for (std::size_t c = 0; c < lists.size(); ++c) {
    for (const ExpertIndex expert : lists[c])
      total += fitness(static_cast<Eigen::Index>(c), expert);
  }
  return total;
}

struct Problem {
  FitnessMatrix fitness;
  std::vector<int> capacity;
  std::vector<int> lower;
  std::vector<int> upper;
};

// The greatest total over every choice of expert sets, or none. Exponential, obviously right.
void Search(const Problem& problem, std::size_t client, std::vector<int>& load, double total,
            std::optional<double>& best) {
  if (client == problem.capacity.size()) {
    for (std::size_t e = 0; e < load.size(); ++e) {
      if (load[e] < problem.lower[e] || load[e] > problem.upper[e]) return;
    }
    if (!best || total > *best) best = total;
    return;
  }
  const auto experts = static_cast<unsigned>(load.size());
  for (unsigned set = 0; set < (1U << experts); ++set) {
    if (std::popcount(set) != problem.capacity[client]) continue;
    double gain = 0.0;
    for (unsigned e = 0; e < experts; ++e) {
      if ((set >> e & 1U) == 0) continue;
      ++load[e];
      gain += problem.fitness(static_cast<Eigen::Index>(client), e);
    }
    Search(problem, client + 1, load, total + gain, best);
    for (unsigned e = 0; e < experts; ++e) load[e] -= static_cast<int>(set >> e & 1U);
  }
}

std::optional<double> BruteForce(const Problem& problem) {
  std::optional<double> best;
  std::vector<int> load(problem.lower.size(), 0);
  Search(problem, 0, load, 0.0, best);
  return best;
}

void ExpectPlan(const Problem& problem, const Lists& lists) {
  ASSERT_EQ(lists.size(), problem.capacity.size());
  std::vector<int> load(problem.lower.size(), 0);
  for (std::size_t c = 0; c < lists.size(); ++c) {
    EXPECT_EQ(static_cast<int>(lists[c].size()), problem.capacity[c]);
    EXPECT_EQ(std::adjacent_find(lists[c].begin(), lists[c].end(), std::greater_equal<>()),
              lists[c].end())
        << "ascending, each once";
    for (const ExpertIndex expert : lists[c]) ++load[static_cast<std::size_t>(expert)];
  }
  for (std::size_t e = 0; e < load.size(); ++e) {
    EXPECT_GE(load[e], problem.lower[e]);
    EXPECT_LE(load[e], problem.upper[e]);
  }
}

Problem RandomProblem(CounterRng& rng) {
  Problem problem;
  const auto clients = static_cast<std::size_t>(3 + rng.NextBelow(2));
  const auto experts = static_cast<std::size_t>(3 + rng.NextBelow(2));
  problem.fitness.resize(static_cast<Eigen::Index>(clients), static_cast<Eigen::Index>(experts));
  // Few levels, all exact in binary, make ties and let sums be compared exactly.
  const std::uint64_t levels = 2 + rng.NextBelow(7);
  for (Eigen::Index i = 0; i < problem.fitness.size(); ++i) {
    problem.fitness(i) = (static_cast<double>(rng.NextBelow(levels)) - 2.0) / 8.0;
  }
  problem.fitness(0) = 1.0;
  for (std::size_t c = 0; c < clients; ++c) {
    problem.capacity.push_back(static_cast<int>(rng.NextBelow(experts + 1)));
  }
  for (std::size_t e = 0; e < experts; ++e) {
    problem.lower.push_back(static_cast<int>(rng.NextBelow(clients)));
    problem.upper.push_back(problem.lower.back() + static_cast<int>(rng.NextBelow(clients)));
  }
  return problem;
}

TEST(SolveBalanced, EqualsBruteForceOnRandomTinyCases) {
  constexpr std::uint64_t kSeed = 11;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  CounterRng rng(kSeed);
  int feasible = 0;
  int infeasible = 0;
  for (int trial = 0; trial < 2000; ++trial) {
    SCOPED_TRACE("trial " + std::to_string(trial));
    const Problem problem = RandomProblem(rng);
    const std::optional<double> best = BruteForce(problem);
    const auto plan =
        SolveBalanced(problem.fitness, problem.capacity, problem.lower, problem.upper);
    ASSERT_EQ(plan.ok(), best.has_value()) << plan.status().ToString();
    if (!best) {
      EXPECT_EQ(plan.status().code(), StatusCode::kFailedPrecondition);
      EXPECT_EQ(plan.status().message().rfind("no plan meets the load bounds", 0), 0U);
      ++infeasible;
      continue;
    }
    ++feasible;
    ExpectPlan(problem, *plan);
    ASSERT_EQ(Total(problem.fitness, *plan), *best);
    if (HasFailure()) return;
  }
  EXPECT_GE(feasible, 300);
  EXPECT_GE(infeasible, 300);
}

TEST(SolveBalanced, MovesTheClientThatLosesLeast) {
  // Both want expert 0; the second loses 0.1 by moving, the first 0.5.
  const auto plan = SolveBalanced(Matrix({{0.9, 0.4}, {0.8, 0.7}}), std::vector<int>{1, 1},
                                  std::vector<int>{1, 1}, std::vector<int>{1, 1});
  ASSERT_TRUE(plan.ok());
  EXPECT_THAT(*plan, ElementsAre(ElementsAre(0), ElementsAre(1)));
}

TEST(SolveBalanced, ChainsMovesOverSeveralClients) {
  // The plan 0, 1, 2 has to shift as a whole to let client 3 have expert 0, which alone suits it.
  const auto plan = SolveBalanced(
      Matrix(
          {{1.0, 0.9, 0.0, 0.0}, {0.0, 1.0, 0.9, 0.0}, {0.0, 0.0, 1.0, 0.9}, {1.0, 0.0, 0.0, 0.0}}),
      std::vector<int>(4, 1), std::vector<int>(4, 1), std::vector<int>(4, 1));
  ASSERT_TRUE(plan.ok());
  EXPECT_THAT(*plan, ElementsAre(ElementsAre(1), ElementsAre(2), ElementsAre(3), ElementsAre(0)));
}

TEST(SolveBalanced, MeetsALowerBoundAtAnyPrice) {
  const auto plan = SolveBalanced(Matrix({{1.0, -1000.0}, {1.0, -999.0}}), std::vector<int>{1, 1},
                                  std::vector<int>{0, 1}, std::vector<int>{2, 2});
  ASSERT_TRUE(plan.ok());
  EXPECT_THAT(*plan, ElementsAre(ElementsAre(0), ElementsAre(1)));
}

TEST(SolveBalanced, TakesEachClientsFittestWhereTheBoundsAreLoose) {
  const auto plan =
      SolveBalanced(Matrix({{0.1, 0.9, 0.8}, {0.2, 0.9, 0.1}}), std::vector<int>{2, 1},
                    std::vector<int>{0, 0, 0}, std::vector<int>{2, 2, 2});
  ASSERT_TRUE(plan.ok());
  EXPECT_THAT(*plan, ElementsAre(ElementsAre(1, 2), ElementsAre(1)));
}

TEST(SolveBalanced, NamesTheBoundsThatCannotBeMet) {
  const FitnessMatrix fitness = FitnessMatrix::Zero(4, 4);
  const std::vector<int> capacity{3, 3, 3, 3};
  const auto message = [&](std::vector<int> units, std::vector<int> lower, std::vector<int> upper) {
    return SolveBalanced(fitness, units, lower, upper).status().ToString();
  };
  EXPECT_EQ(message(capacity, {0, 0, 0, 0}, {4, 2, 2, 2}),
            "FAILED_PRECONDITION: no plan meets the load bounds: clients hold 12 assignments, the "
            "experts' upper bounds add up to 10");
  EXPECT_EQ(message(capacity, {4, 4, 3, 3}, {4, 4, 4, 4}),
            "FAILED_PRECONDITION: no plan meets the load bounds: clients hold 12 assignments, the "
            "experts' lower bounds add up to 14");
  EXPECT_EQ(message({4, 4, 0, 0}, {0, 0, 0, 3}, {4, 4, 4, 4}),
            "FAILED_PRECONDITION: no plan meets the load bounds: expert 3 can get at most 2 "
            "clients, its lower bound is 3");
  // Sums fit, but one client cannot hold an expert twice.
  EXPECT_EQ(
      message({4, 1, 0, 0}, {0, 0, 0, 0}, {3, 2, 0, 0}),
      "FAILED_PRECONDITION: no plan meets the load bounds: experts 2, 3 may have at most 0 clients "
      "together (their upper bounds), and the clients' capacity puts at least 2 on them");
}

TEST(SolveBalanced, RefusesWhatIsNoProblem) {
  const FitnessMatrix fitness = Matrix({{0.0, 1.0}});
  const std::vector<int> one{1};
  const std::vector<int> two{1, 1};
  EXPECT_EQ(SolveBalanced(fitness, two, two, two).status(),
            InvalidArgument("2 capacities for 1 clients"));
  EXPECT_EQ(SolveBalanced(fitness, one, one, two).status(),
            InvalidArgument("1 lower and 2 upper bounds for 2 experts"));
  EXPECT_EQ(SolveBalanced(fitness, std::vector<int>{3}, two, two).status(),
            InvalidArgument("capacity of client 0 is 3, must be 0 to 2"));
  EXPECT_EQ(SolveBalanced(Matrix({{0.0, NAN}}), one, two, two).status(),
            InvalidArgument("the fitness holds a number that is not finite"));
}

TEST(SolveTransportation, PrefersAmongEqualProfitsOnly) {
  // Both plans earn 2; the preference picks the crossed one, though in sum it is worth far more
  // than the least profit, it cannot buy any.
  ProfitMatrix profit = ProfitMatrix::Constant(2, 2, 1);
  ProfitMatrix preference = ProfitMatrix::Zero(2, 2);
  preference(0, 1) = 1000;
  const std::vector<int> one{1, 1};
  auto plan = SolveTransportation(profit, preference, one, one, one);
  ASSERT_TRUE(plan.ok());
  EXPECT_THAT(plan->experts, ElementsAre(ElementsAre(1), ElementsAre(0)));
  profit(0, 0) = 2;
  plan = SolveTransportation(profit, preference, one, one, one);
  ASSERT_TRUE(plan.ok());
  EXPECT_THAT(plan->experts, ElementsAre(ElementsAre(0), ElementsAre(1)));
}

TEST(IntegerProfits, ScaleTheLargestToTwoToTheForty) {
  const ProfitMatrix profit = IntegerProfits(Matrix({{-4.0, 1.0, 0.0}}));
  EXPECT_EQ(profit(0, 0), -(std::int64_t{1} << 40));
  EXPECT_EQ(profit(0, 1), std::int64_t{1} << 38);
  EXPECT_EQ(profit(0, 2), 0);
  EXPECT_EQ(IntegerProfits(Matrix({{0.0, 0.0}})), ProfitMatrix::Zero(1, 2));
}

}  // namespace
}  // namespace fedmoe
