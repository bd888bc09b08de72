#include "federation/alignment_balanced.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <utility>

#include "federation/balanced_flow.h"
#include "federation/bound_conflict.h"
#include "federation/flow_repair.h"
#include "federation/price_solver.h"
#include "federation/weighted_alignment.h"

namespace fedmoe {
namespace {

// Widens the bounds by one client at a time until there is a plan. It ends: bounds of 0 and all
// clients exclude nothing.
Status MakeFeasible(const AlignmentProblem& problem, bool relax, AlignmentPlan& plan) {
  const int clients = static_cast<int>(problem.clients.size());
  for (plan.relaxed = 0;; ++plan.relaxed) {
    const auto conflict = FindBoundConflict(problem.capacity, plan.bounds.lower, plan.bounds.upper);
    if (!conflict) return Status::Ok();
    if (plan.conflict.empty()) plan.conflict = conflict->ToString();
    if (!relax) {
      return FailedPrecondition("no plan meets the load bounds: " + plan.conflict +
                                "; raise alignment.slack or set alignment.relax_bounds to true");
    }
    for (int& lower : plan.bounds.lower) lower = std::max(0, lower - 1);
    for (int& upper : plan.bounds.upper) upper = std::min(clients, upper + 1);
  }
}

Result<ExpertLists> Exact(const AlignmentProblem& problem, AlignmentPlan& plan) {
  const ProfitMatrix profit = IntegerProfits(problem.fitness);
  ProfitMatrix preference(profit.rows(), profit.cols());
  for (Eigen::Index c = 0; c < profit.rows(); ++c) {
    const PairPreferences ties(problem.seed, problem.clients[static_cast<std::size_t>(c)]);
    for (Eigen::Index e = 0; e < profit.cols(); ++e) {
      preference(c, e) = ties.Of(static_cast<ExpertIndex>(e));
    }
  }
  FEDMOE_ASSIGN_OR_RETURN(TransportationPlan solved,
                          SolveTransportation(profit, preference, problem.capacity,
                                              plan.bounds.lower, plan.bounds.upper));
  plan.solver = AlignmentSolver::kExact;
  const double unit = ProfitUnit(problem.fitness);
  plan.prices.clear();
  for (const std::int64_t price : solved.price) {
    plan.prices.push_back(static_cast<double>(price) * unit);
  }
  return std::move(solved.experts);
}

Result<ExpertLists> ByPrices(const AlignmentProblem& problem, const ParallelFor& parallel,
                             std::span<const double> last_prices, AlignmentPlan& plan) {
  const ProfitRows rows = MakeProfitRows(problem, parallel);
  const Transportation transportation{rows, problem.capacity, plan.bounds.lower, plan.bounds.upper,
                                      parallel};
  std::vector<std::int64_t> start;
  if (last_prices.size() == static_cast<std::size_t>(rows.experts) && rows.unit > 0.0) {
    // Prices beyond what any fitness can be worth say nothing.
    const double most = std::ldexp(1.0, 54);
    for (const double price : last_prices) {
      start.push_back(std::llround(std::clamp(price / rows.unit, -most, most)));
    }
  }
  const PriceSolution prices = SolvePrices(transportation, start);
  FEDMOE_ASSIGN_OR_RETURN(RepairedPlan repaired, RepairFlow(transportation, prices));
  plan.solver = AlignmentSolver::kPrices;
  plan.sweeps = prices.sweeps;
  plan.repairs = repaired.moves;
  plan.prices.clear();
  for (const std::int64_t price : repaired.price) {
    plan.prices.push_back(static_cast<double>(price) * rows.unit);
  }
  return std::move(repaired.experts);
}

bool AllTheSame(const std::vector<double>& weight) {
  return std::adjacent_find(weight.begin(), weight.end(), std::not_equal_to<>()) == weight.end();
}

ExpertLists ByWeight(const AlignmentProblem& problem, const AlignmentOptions& options,
                     AlignmentMemory& memory, AlignmentPlan& plan) {
  const std::vector<double> weight =
      problem.weight.empty() ? std::vector<double>(problem.clients.size(), 1.0) : problem.weight;
  plan.weighted_bounds = WeightedBoundsFor(problem.load, problem.capacity, weight, options.load);
  if (!problem.expert_bytes.empty()) {
    // Nobody need fill the room, so nothing can be asked of the sum.
    std::fill(plan.weighted_bounds.lower.begin(), plan.weighted_bounds.lower.end(), 0.0);
  }
  const WeightedProblem weighted{problem.fitness,
                                 problem.capacity,
                                 weight,
                                 plan.weighted_bounds.lower,
                                 plan.weighted_bounds.upper,
                                 problem.expert_bytes,
                                 problem.room_bytes,
                                 options.parallel};
  WeightedSolution solution = SolveWeighted(weighted, memory.prices);
  plan.solver = AlignmentSolver::kPrices;
  plan.bound = solution.bound;
  plan.sweeps = solution.steps;
  plan.repairs = solution.moves;
  plan.prices = std::move(solution.price);
  plan.weighted_load = std::move(solution.load);
  const double all = std::accumulate(plan.weighted_load.begin(), plan.weighted_load.end(), 0.0);
  plan.violation = all > 0.0 ? solution.violation / all : 0.0;
  memory.prices = plan.prices;
  return std::move(solution.experts);
}

}  // namespace

bool IsWeighted(const AlignmentProblem& problem) {
  return !problem.expert_bytes.empty() || !AllTheSame(problem.weight);
}

Result<ExpertLists> AlignBalanced(const AlignmentProblem& problem, const AlignmentOptions& options,
                                  AlignmentMemory& memory, AlignmentPlan& plan) {
  if (IsWeighted(problem)) return ByWeight(problem, options, memory, plan);
  plan.bounds = BoundsFor(problem.load, problem.capacity, options.load);
  FEDMOE_RETURN_IF_ERROR(MakeFeasible(problem, options.relax_bounds, plan));
  const bool exact =
      options.solver == AlignmentSolver::kExact ||
      (options.solver == AlignmentSolver::kAuto && problem.fitness.size() <= kExactPairs);
  FEDMOE_ASSIGN_OR_RETURN(
      ExpertLists lists,
      exact ? Exact(problem, plan) : ByPrices(problem, options.parallel, memory.prices, plan));
  memory.prices = plan.prices;
  return lists;
}

}  // namespace fedmoe
