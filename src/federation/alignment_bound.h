// How good any plan can be: the dual of the alignment problem, in floating point, on the fitness
// itself.
#pragma once

#include <span>

#include "common/parallel.h"
#include "federation/alignment.h"

namespace fedmoe {

// sum_c (sum of the k_c greatest of F[c] - p) + sum_e max(U_e p_e, L_e p_e): by weak duality an
// upper bound of sum F x over all plans that meet `bounds`, whatever the prices p are. Without
// bounds and prices (both empty): the sum of the k_c greatest. k_c is the number of client c's
// experts in `plan`; they are looked at first, and where no other is greater, as in an optimal
// plan, nothing is sorted. `prices` has one entry an expert. The sum does not depend on `parallel`.
double DualBound(const AlignmentProblem& problem, std::span<const std::vector<ExpertIndex>> plan,
                 const LoadBounds& bounds, std::span<const double> prices,
                 const ParallelFor& parallel);

}  // namespace fedmoe
