// Alignment by prices against the exact flow, an independent linear programme and brute force.
#include "federation/price_solver.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <optional>
#include <set>
#include <thread>

#include <glpk.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/counter_rng.h"
#include "federation/alignment.h"
#include "federation/alignment_bound.h"
#include "federation/bound_conflict.h"

namespace fedmoe {
namespace {

using testing::DoubleNear;
using testing::ElementsAre;
using testing::HasSubstr;

// How fitness may look; each breaks another solver.
enum class Shape {
  kSmooth,   // all different
  kSkewed,   // every client wants the same few experts
  kGrouped,  // groups of clients with the very same row
  kNeutral,  // no feedback at all: all equal
  kSparse,   // zeros but for one expert a client
  kNegative,
};
constexpr Shape kShapes[] = {Shape::kSmooth,  Shape::kSkewed, Shape::kGrouped,
                             Shape::kNeutral, Shape::kSparse, Shape::kNegative};

AlignmentProblem MakeProblem(int clients, int experts, Shape shape, std::uint64_t seed) {
  CounterRng rng(MixKey({seed, static_cast<std::uint64_t>(shape)}));
  AlignmentProblem problem;
  problem.seed = seed;
  problem.fitness = FitnessMatrix::Constant(clients, experts, 1.0 / experts);
  problem.load = ExpertLoad::Of(experts);
  for (int c = 0; c < clients; ++c) {
    std::string name = std::to_string(c);
    problem.clients.push_back("c" + std::string(7 - name.size(), '0') + name);
    problem.capacity.push_back(
        static_cast<int>(rng.NextBelow(static_cast<std::uint64_t>(std::min(experts, 6) + 1))));
    CounterRng group(MixKey({seed, static_cast<std::uint64_t>(c % 5)}));
    for (int e = 0; e < experts; ++e) {
      double& fitness = problem.fitness(c, e);
      if (shape == Shape::kSmooth) fitness = rng.NextUniform();
      if (shape == Shape::kSkewed) fitness = rng.NextUniform() + 5.0 / (1.0 + e);
      if (shape == Shape::kGrouped) fitness = group.NextUniform();
      if (shape == Shape::kSparse) fitness = e == c % experts / 2 ? 1.0 : 0.0;
      if (shape == Shape::kNegative) fitness = -rng.NextUniform() - (e < 3 ? 0.0 : 2.0);
    }
  }
  return problem;
}

AlignmentPlan Solve(const AlignmentProblem& problem, AlignmentSolver solver, double slack,
                    AlignmentMemory* memory = nullptr, ParallelFor parallel = {}) {
  AlignmentMemory fresh;
  AlignmentOptions options;
  options.load.slack = slack;
  options.solver = solver;
  options.parallel = std::move(parallel);
  auto plan = Align(problem, options, memory != nullptr ? *memory : fresh);
  EXPECT_TRUE(plan.ok()) << plan.status().ToString();
  return std::move(plan).value();
}

void ExpectFeasible(const AlignmentProblem& problem, const AlignmentPlan& plan) {
  std::vector<int> held(problem.clients.size(), 0);
  std::set<std::pair<int, ExpertIndex>> pairs;
  for (const Assignment& assignment : plan.assignments) {
    ++held[static_cast<std::size_t>(assignment.client)];
    EXPECT_TRUE(pairs.insert({assignment.client, assignment.expert}).second) << "each once";
  }
  EXPECT_EQ(held, problem.capacity);
  for (std::size_t e = 0; e < plan.load.size(); ++e) {
    EXPECT_GE(plan.load[e], plan.bounds.lower[e]) << "expert " << e;
    EXPECT_LE(plan.load[e], plan.bounds.upper[e]) << "expert " << e;
  }
}

TEST(Prices, EqualTheExactFlowOnEveryShape) {
  for (const Shape shape : kShapes) {
    for (std::uint64_t seed = 1; seed <= 8; ++seed) {
      SCOPED_TRACE("shape " + std::to_string(static_cast<int>(shape)) + " seed " +
                   std::to_string(seed));
      const double slack = seed % 2 == 0 ? 0.0 : 0.3;
      const AlignmentProblem problem =
          MakeProblem(20 + static_cast<int>(seed) * 9, 3 + static_cast<int>(seed), shape, seed);
      const AlignmentPlan exact = Solve(problem, AlignmentSolver::kExact, slack);
      const AlignmentPlan prices = Solve(problem, AlignmentSolver::kPrices, slack);
      ExpectFeasible(problem, exact);
      ExpectFeasible(problem, prices);
      EXPECT_EQ(exact.bounds.lower, prices.bounds.lower);
      const double scale = std::max(1.0, std::abs(exact.objective));
      EXPECT_NEAR(prices.objective, exact.objective, 1e-8 * scale);
      // Both carry a proof of it.
      EXPECT_LE(exact.gap, 1e-9);
      EXPECT_LE(prices.gap, 1e-7);
      EXPECT_GE(exact.bound, exact.objective - 1e-9 * scale);
      EXPECT_GE(prices.bound, prices.objective - 1e-9 * scale);
    }
  }
}

// The greatest sum F x by the simplex method of GLPK, on the relaxation, whose vertices are whole.
double LinearProgramme(const AlignmentProblem& problem, const LoadBounds& bounds) {
  glp_term_out(GLP_OFF);
  glp_prob* lp = glp_create_prob();
  glp_set_obj_dir(lp, GLP_MAX);
  const int clients = static_cast<int>(problem.fitness.rows());
  const int experts = static_cast<int>(problem.fitness.cols());
  glp_add_rows(lp, clients + experts);
  glp_add_cols(lp, clients * experts);
  const auto bound_row = [&](int row, int lower, int upper) {
    glp_set_row_bnds(lp, row, lower == upper ? GLP_FX : GLP_DB, lower, upper);
  };
  for (int c = 0; c < clients; ++c) {
    const int units = problem.capacity[static_cast<std::size_t>(c)];
    bound_row(c + 1, units, units);
  }
  for (int e = 0; e < experts; ++e) {
    bound_row(clients + e + 1, bounds.lower[static_cast<std::size_t>(e)],
              bounds.upper[static_cast<std::size_t>(e)]);
  }
  for (int c = 0; c < clients; ++c) {
    for (int e = 0; e < experts; ++e) {
      const int column = c * experts + e + 1;
      glp_set_col_bnds(lp, column, GLP_DB, 0.0, 1.0);
      glp_set_obj_coef(lp, column, problem.fitness(c, e));
      const int rows[] = {0, c + 1, clients + e + 1};
      const double ones[] = {0.0, 1.0, 1.0};
      glp_set_mat_col(lp, column, 2, rows, ones);
    }
  }
  EXPECT_EQ(glp_simplex(lp, nullptr), 0);
  EXPECT_EQ(glp_get_status(lp), GLP_OPT);
  const double objective = glp_get_obj_val(lp);
  glp_delete_prob(lp);
  return objective;
}

TEST(Prices, EqualAnIndependentLinearProgramme) {
  for (const Shape shape : kShapes) {
    for (const double slack : {0.0, 0.25}) {
      SCOPED_TRACE("shape " + std::to_string(static_cast<int>(shape)));
      const AlignmentProblem problem = MakeProblem(60, 9, shape, 77);
      const AlignmentPlan prices = Solve(problem, AlignmentSolver::kPrices, slack);
      const AlignmentPlan exact = Solve(problem, AlignmentSolver::kExact, slack);
      const double best = LinearProgramme(problem, prices.bounds);
      const double scale = std::max(1.0, std::abs(best));
      EXPECT_NEAR(prices.objective, best, 1e-7 * scale);
      EXPECT_NEAR(exact.objective, best, 1e-7 * scale);
      EXPECT_NEAR(prices.bound, best, 1e-6 * scale);
    }
  }
}

TEST(Prices, MeetEveryBoundOfALargeCohort) {
  for (const Shape shape : kShapes) {
    SCOPED_TRACE("shape " + std::to_string(static_cast<int>(shape)));
    const AlignmentProblem problem = MakeProblem(40000, 12, shape, 5);
    const AlignmentPlan plan = Solve(problem, AlignmentSolver::kPrices, 0.0);
    ExpectFeasible(problem, plan);
    EXPECT_EQ(plan.relaxed, 0);
    EXPECT_LE(plan.gap, 1e-6);
    EXPECT_NEAR(plan.cv, plan.floor_cv, 1e-12);
  }
}

TEST(Prices, AreTheSameForAnyNumberOfThreads) {
  const AlignmentProblem problem = MakeProblem(3000, 16, Shape::kSkewed, 9);
  const ParallelFor backwards = [](int parts, const std::function<void(int)>& body) {
    std::vector<std::jthread> threads;
    for (int part = parts - 1; part >= 0; --part) threads.emplace_back(body, part);
  };
  const AlignmentPlan serial = Solve(problem, AlignmentSolver::kPrices, 0.0);
  const AlignmentPlan parallel = Solve(problem, AlignmentSolver::kPrices, 0.0, nullptr, backwards);
  EXPECT_EQ(serial.prices, parallel.prices);
  EXPECT_EQ(serial.objective, parallel.objective);
  EXPECT_EQ(serial.bound, parallel.bound);
  for (int c = 0; c < 3000; ++c) ASSERT_EQ(serial.ExpertsOf(c), parallel.ExpertsOf(c));
}

TEST(Prices, BeginWithThoseOfTheLastRound) {
  AlignmentProblem problem = MakeProblem(4000, 16, Shape::kSkewed, 3);
  AlignmentMemory memory;
  const AlignmentPlan first = Solve(problem, AlignmentSolver::kPrices, 0.0, &memory);
  EXPECT_EQ(memory.prices, first.prices);
  EXPECT_GT(first.sweeps, 2) << "found cold";
  const AlignmentPlan again = Solve(problem, AlignmentSolver::kPrices, 0.0, &memory);
  EXPECT_EQ(again.sweeps, 1) << "nothing changed";
  EXPECT_NEAR(again.objective, first.objective, 1e-9 * first.objective);
  // Prices of another world do no harm.
  memory.prices.assign(16, 1e300);
  memory.prices[3] = -1e300;
  const AlignmentPlan misled = Solve(problem, AlignmentSolver::kPrices, 0.0, &memory);
  ExpectFeasible(problem, misled);
  EXPECT_NEAR(misled.objective, first.objective, 1e-8 * first.objective);
}

TEST(DualBound, IsAboveEveryPlanWhateverThePrices) {
  CounterRng rng(21);
  const AlignmentProblem problem = MakeProblem(40, 6, Shape::kSmooth, 4);
  const AlignmentPlan plan = Solve(problem, AlignmentSolver::kExact, 0.2);
  std::vector<std::vector<ExpertIndex>> lists;
  for (int c = 0; c < 40; ++c) lists.push_back(plan.ExpertsOf(c));
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<double> prices;
    for (int e = 0; e < 6; ++e) prices.push_back(rng.NextNormal());
    EXPECT_GE(DualBound(problem, lists, plan.bounds, prices, {}), plan.objective - 1e-9);
  }
}

TEST(DualBound, OfAPlanWithoutBoundsIsTheGreedyObjective) {
  const AlignmentProblem problem = MakeProblem(30, 30, Shape::kSmooth, 4);
  AlignmentMemory memory;
  const auto greedy = Align(problem, {.strategy = AlignmentStrategy::kGreedy}, memory);
  const auto random = Align(problem, {.strategy = AlignmentStrategy::kRandom}, memory);
  ASSERT_TRUE(greedy.ok() && random.ok());
  EXPECT_NEAR(greedy->gap, 0.0, 1e-12);
  EXPECT_NEAR(random->bound, greedy->objective, 1e-9);
  EXPECT_NEAR(random->gap, 1.0 - random->objective / greedy->objective, 1e-12);
}

// Whether loads within the bounds exist that the clients can give, by trying all of them: a set of
// clients gives a load if, filled one by one with the experts that lack most, nothing is left.
bool CanGive(std::vector<int> capacity, std::vector<int> load) {
  std::sort(capacity.rbegin(), capacity.rend());
  for (const int units : capacity) {
    std::sort(load.rbegin(), load.rend());
    for (int i = 0; i < units; ++i) {
      if (load[static_cast<std::size_t>(i)] == 0) return false;
      --load[static_cast<std::size_t>(i)];
    }
  }
  return std::all_of(load.begin(), load.end(), [](int left) { return left == 0; });
}

bool AnyLoad(const std::vector<int>& capacity, const std::vector<int>& lower,
             const std::vector<int>& upper, std::vector<int> load) {
  if (load.size() == lower.size()) return CanGive(capacity, load);
  const std::size_t e = load.size();
  for (int units = lower[e]; units <= upper[e]; ++units) {
    load.push_back(units);
    if (AnyLoad(capacity, lower, upper, load)) return true;
    load.pop_back();
  }
  return false;
}

TEST(BoundConflict, EqualsBruteForceAndItsNumbersHold) {
  CounterRng rng(8);
  int conflicts = 0;
  for (int trial = 0; trial < 3000; ++trial) {
    SCOPED_TRACE("trial " + std::to_string(trial));
    const std::size_t experts = 2 + rng.NextBelow(3);
    const std::size_t clients = 1 + rng.NextBelow(4);
    std::vector<int> capacity, lower, upper;
    for (std::size_t c = 0; c < clients; ++c) {
      capacity.push_back(static_cast<int>(rng.NextBelow(experts + 1)));
    }
    for (std::size_t e = 0; e < experts; ++e) {
      lower.push_back(static_cast<int>(rng.NextBelow(3)));
      upper.push_back(lower.back() + static_cast<int>(rng.NextBelow(3)));
    }
    const auto conflict = FindBoundConflict(capacity, lower, upper);
    ASSERT_EQ(conflict.has_value(), !AnyLoad(capacity, lower, upper, {}));
    if (!conflict) continue;
    ++conflicts;
    // What it says can be checked by hand: the bounds' sum, and what clients give to that many.
    const int size = static_cast<int>(conflict->experts.size());
    std::int64_t bound = 0;
    for (const ExpertIndex e : conflict->experts) {
      bound += (conflict->lower ? lower : upper)[static_cast<std::size_t>(e)];
    }
    EXPECT_EQ(conflict->bound, bound);
    std::int64_t possible = 0;
    for (const int units : capacity) {
      possible += conflict->lower ? std::min(units, size)
                                  : std::max(0, units - (static_cast<int>(experts) - size));
    }
    EXPECT_EQ(conflict->possible, possible);
    EXPECT_TRUE(conflict->lower ? bound > possible : bound < possible) << conflict->ToString();
  }
  EXPECT_GE(conflicts, 500);
}

AlignmentProblem Impossible() {
  AlignmentProblem problem = MakeProblem(3, 3, Shape::kSmooth, 1);
  problem.capacity = {3, 1, 0};
  problem.load.deficit = {2.0, -1.0, -1.0};  // expert 0 is owed one client more than can hold any
  return problem;
}

TEST(Balanced, NamesTheBoundsThatConflictWhenItMayNotRelaxThem) {
  AlignmentMemory memory;
  AlignmentOptions options;
  options.relax_bounds = false;
  EXPECT_EQ(Align(Impossible(), options, memory).status().ToString(),
            "FAILED_PRECONDITION: no plan meets the load bounds: expert 0 must have at least 3 "
            "clients (its lower bound), and the clients' capacity gives it at most 2; raise "
            "alignment.slack or set alignment.relax_bounds to true");
}

TEST(Balanced, TellsTheConflictThatItRelaxed) {
  for (const AlignmentSolver solver : {AlignmentSolver::kExact, AlignmentSolver::kPrices}) {
    const AlignmentPlan plan = Solve(Impossible(), solver, 0.0);
    EXPECT_EQ(plan.relaxed, 1);
    EXPECT_THAT(plan.conflict, HasSubstr("expert 0 must have at least 3 clients"));
    EXPECT_THAT(plan.bounds.lower, ElementsAre(2, 0, 0));
  }
}

TEST(Balanced, ChoosesTheSolverBySize) {
  EXPECT_EQ(Solve(MakeProblem(512, 8, Shape::kSmooth, 1), AlignmentSolver::kAuto, 0.0).solver,
            AlignmentSolver::kExact);
  EXPECT_EQ(Solve(MakeProblem(513, 8, Shape::kSmooth, 1), AlignmentSolver::kAuto, 0.0).solver,
            AlignmentSolver::kPrices);
}

}  // namespace
}  // namespace fedmoe
