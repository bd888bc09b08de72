// How an alignment problem with several MoE layers comes apart into one for each layer, and how the
// layers' plans are joined. The problem has been validated.
#pragma once

#include <vector>

#include "federation/alignment.h"

namespace fedmoe {

// Of one client: how many experts it gets in each layer.
using LayerCapacity = std::vector<int>;

// By client. `pinned`, where given, keeps the split of the clients that it gives k_c experts.
std::vector<LayerCapacity> SplitCapacity(const AlignmentProblem& problem,
                                         const AlignmentMemory* pinned);

// One layer's part, its experts numbered from 0. Layer 0 has the problem's seed, the others one of
// their own, so that ties fall differently in each.
AlignmentProblem ProblemOfLayer(const AlignmentProblem& problem,
                                const std::vector<LayerCapacity>& split, int layer);
AlignmentMemory MemoryOfLayer(const AlignmentProblem& problem, const AlignmentMemory& memory,
                              int layer);

// The inverse, by layer. The plan has its assignments, bounds and relaxation, but no figures over
// all.
AlignmentMemory JoinMemories(const AlignmentProblem& problem,
                             const std::vector<AlignmentMemory>& layers);
AlignmentPlan JoinPlans(const AlignmentProblem& problem, const std::vector<AlignmentPlan>& layers);

}  // namespace fedmoe
