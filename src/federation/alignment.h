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
  kBalanced,    // "balanced": the greatest total fitness under L_e <= load <= U_e, exact (min-cost
                // flow)
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

struct AlignmentOptions {
  AlignmentStrategy strategy = AlignmentStrategy::kBalanced;
  LoadOptions load;
};

struct AlignmentProblem {
  std::vector<ClientId> clients;  // sorted, unique
  std::vector<int> capacity;      // k_c, 0 to experts
  Eigen::MatrixXd fitness;        // clients x experts
  ExpertLoad load;                // history; its size is the number of experts
  int layers = 1;                 // MoE layers: each has the same number of the experts, in order
  std::uint64_t seed = 0;
  RoundNumber round = 1;
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
  double cv = 0.0;                      // of `load`
  double floor_cv = 0.0;                // the integer floor of the CV for the same total
  double coverage = 0.0;                // share of experts with at least one client
  LoadBounds bounds;                    // balanced only; as used, after any relaxation
  // Balanced: by how many clients bounds had to be widened to be feasible; the most of any layer.
  int relaxed = 0;

  // The experts of one client, ascending.
  std::vector<ExpertIndex> ExpertsOf(int client) const;
};

// What a strategy keeps between rounds: the static plan, grown as clients appear.
struct AlignmentMemory {
  std::map<ClientId, std::vector<ExpertIndex>> pinned;
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
// INVALID_ARGUMENT for sizes that do not match, experts that the layers do not divide, or capacity
// outside 0 to experts.
Result<AlignmentPlan> Align(const AlignmentProblem& problem, const AlignmentOptions& options,
                            AlignmentMemory& memory);

// The exact optimum of  max sum F x,  sum_e x[c,e] = k_c,  L_e <= sum_c x[c,e] <= U_e,  x in {0,1}:
// min-cost flow by successive shortest paths on costs rounded to 2^-40 of the largest |F|. Returns
// experts by client, ascending, or FAILED_PRECONDITION if no plan meets the bounds. (A
// transportation polytope: totally unimodular, so the flow is integral.)
Result<std::vector<std::vector<ExpertIndex>>> SolveBalanced(const Eigen::MatrixXd& fitness,
                                                            std::span<const int> capacity,
                                                            std::span<const int> lower,
                                                            std::span<const int> upper);

}  // namespace fedmoe
