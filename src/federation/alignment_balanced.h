// The balanced strategy: the greatest total fitness under the load bounds, by the solver that suits
// the size.
#pragma once

#include "federation/alignment.h"
#include "federation/alignment_baselines.h"

namespace fedmoe {

// Whether weights or sizes make it another problem than the transportation problem of counts.
bool IsWeighted(const AlignmentProblem& problem);

// The experts of every client, ascending. Sets the plan's bounds, relaxation, conflict, prices and
// solver figures, and the memory's prices. The problem is one layer's, and has been validated.
Result<ExpertLists> AlignBalanced(const AlignmentProblem& problem, const AlignmentOptions& options,
                                  AlignmentMemory& memory, AlignmentPlan& plan);

}  // namespace fedmoe
