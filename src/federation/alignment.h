// Alignment: which client trains which experts. One interface, many strategies, a reason for every
// pair.
#pragma once

#include <Eigen/Core>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "common/ids.h"
#include "common/parallel.h"
#include "common/result.h"
#include "federation/expert_load.h"

namespace fedmoe {

enum class AlignmentStrategy {
  kNone,        // "none": no experts; trunk and head only
  kFull,        // "full": every expert to every client, whatever its capacity
  kRandom,      // "random": each client k_c experts uniformly, anew each round
  kStatic,      // "static": one balanced random plan, kept
  kRoundRobin,  // "round_robin": consecutive experts, the start moving by a rotating stride
  kGreedy,      // "greedy": each client its k_c fittest
  kLoadOnly,    // "load_only": the experts with the least load so far, whatever the fitness
  kBalanced,    // "balanced": the greatest total fitness under L_e <= load <= U_e
};
Result<AlignmentStrategy> ParseAlignmentStrategy(const std::string& name);
const char* AlignmentStrategyName(AlignmentStrategy strategy);

// Why a client has an expert.
enum class AssignmentReason {
  kFitness,  // among the client's own k_c fittest
  kBalance,  // not among them: the load bounds moved it
  kRandom,
  kPinned,    // the static plan
  kRotation,  // round robin
  kLoad,      // least loaded
  kFull,
  kExplored,  // among the client's k_c best only thanks to the exploration bonus
};
const char* AssignmentReasonName(AssignmentReason reason);  // "fitness", "balance", ...

// How the balanced strategy is solved.
enum class AlignmentSolver {
  kAuto,    // "auto": exact up to kExactPairs pairs of client and expert, prices above
  kExact,   // "exact": min-cost flow, unit after unit
  kPrices,  // "prices": dual prices, warm from the last round, then a repair that meets every bound
};
const char* AlignmentSolverName(AlignmentSolver solver);
constexpr std::int64_t kExactPairs = 4096;

struct AlignmentOptions {
  AlignmentStrategy strategy = AlignmentStrategy::kBalanced;
  LoadOptions load;
  AlignmentSolver solver = AlignmentSolver::kAuto;
  // Bounds that cannot be met are widened by one client at a time; else they are an error.
  bool relax_bounds = true;
  // Lent by the caller; the plan does not depend on it. Empty: one thread.
  ParallelFor parallel = {};
};

// Clients x experts, a client's numbers side by side.
using FitnessMatrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

struct AlignmentProblem {
  std::vector<ClientId> clients;  // sorted, unique
  std::vector<int> capacity;      // k_c, 0 to experts
  FitnessMatrix fitness;          // clients x experts
  ExpertLoad load;                // history; its size is the number of experts
  int layers = 1;                 // MoE layers: each has the same number of the experts, in order
  std::uint64_t seed = 0;
  RoundNumber round = 1;
  // Balanced, optional. What an assignment of each client counts for in an expert's load, above 0
  // (tokens, in any unit); empty: all the same.
  std::vector<double> weight = {};
  // Balanced, optional, both or none: the size of each expert and the room of each client for all
  // of its experts; `capacity` is then only the most that it may get.
  std::vector<double> expert_bytes = {};
  std::vector<double> room_bytes = {};
};

struct Assignment {
  int client = 0;  // index into AlignmentProblem::clients
  ExpertIndex expert = 0;
  double fitness = 0.0;
  AssignmentReason reason = AssignmentReason::kFitness;
};

struct AlignmentPlan {
  AlignmentStrategy strategy = AlignmentStrategy::kBalanced;
  std::vector<Assignment> assignments;  // sorted by client, then expert
  std::vector<int> load;                // clients by expert
  double objective = 0.0;               // sum of fitness over assignments
  // No plan within the strategy's rules has a greater objective: the dual's value at `prices`.
  // Balanced: under the bounds used. Others: of any plan that gives each client as many experts.
  double bound = 0.0;
  double gap =
      0.0;          // (bound - objective) / |bound|: the plan is certainly that near to the optimum
  double cv = 0.0;  // of `load`
  double floor_cv = 0.0;  // the integer floor of the CV for the same total
  double coverage = 0.0;  // share of experts with at least one client
  LoadBounds bounds;      // balanced only; as used, after any relaxation
  // Balanced with weights or sizes: the bounds and the load in units of weight, and how much of the
  // load lies outside of the bounds, as a share of all. `bounds` is then empty.
  WeightedBounds weighted_bounds;
  std::vector<double> weighted_load;
  double violation = 0.0;
  // Balanced: by how many clients bounds had to be widened to be feasible; the most of any layer.
  int relaxed = 0;
  std::string conflict;  // balanced: the experts and bounds that could not be met before that
  std::vector<double>
      prices;  // balanced: of each expert, in fitness; 0 where its bounds do not bind
  AlignmentSolver solver = AlignmentSolver::kAuto;  // balanced: kExact or kPrices
  int sweeps = 0;                                   // prices: passes over all clients
  std::int64_t repairs = 0;                         // prices: clients moved after the last pass

  // The experts of one client, ascending. O(log assignments).
  std::vector<ExpertIndex> ExpertsOf(int client) const;
};

// What a strategy keeps between rounds: the static plan, grown as clients appear; the last prices.
struct AlignmentMemory {
  std::map<ClientId, std::vector<ExpertIndex>> pinned;
  std::vector<double> prices;  // by expert, in fitness; empty before the first balanced plan
};

// Deterministic. Equal fitness is told apart by a draw keyed (seed, client, expert), the same in
// every round, so that clients without feedback spread over the experts; what is left equal breaks
// by client order, then expert index. `full` ignores capacity, `none` gives nobody anything.
//
// With several layers the problem separates: each client's k_c is split over the layers as evenly
// as it goes, what is left over to the layers that have got the least so far, client after client,
// so that the layers' totals differ by one at most. Each layer is then solved for itself, with its
// own columns, history, draws and share of the memory. A client that the static plan already gives
// k_c experts keeps its split.
//
// With weights that differ, or with sizes, the problem is NP-hard: the plan is near the optimum, as
// `gap` says, and meets the bounds or not, as `violation` says.
//
// INVALID_ARGUMENT for sizes that do not match, experts that the layers do not divide, or capacity
// outside 0 to experts. FAILED_PRECONDITION for load bounds that cannot be met and may not be
// relaxed, with the experts and bounds that conflict.
Result<AlignmentPlan> Align(const AlignmentProblem& problem, const AlignmentOptions& options,
                            AlignmentMemory& memory);

// The exact optimum of  max sum F x,  sum_e x[c,e] = k_c,  L_e <= sum_c x[c,e] <= U_e,  x in {0,1}:
// min-cost flow by successive shortest paths on costs rounded to 2^-40 of the largest |F|. Returns
// experts by client, ascending, or FAILED_PRECONDITION if no plan meets the bounds. (A
// transportation polytope: totally unimodular, so the flow is integral.)
Result<std::vector<std::vector<ExpertIndex>>> SolveBalanced(const FitnessMatrix& fitness,
                                                            std::span<const int> capacity,
                                                            std::span<const int> lower,
                                                            std::span<const int> upper);

}  // namespace fedmoe
