// The dual of the alignment problem: one price an expert, found from the clients' choices.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/parallel.h"
#include "federation/alignment.h"
#include "kernels/price_sweep.h"

namespace fedmoe {

// Fitness in whole numbers, so that no sum depends on its order: round(F / max |F| * 2^36) * 2^16
// plus 16 bits by which equal fitness is told apart. Row-major, clients x experts.
struct ProfitRows {
  int clients = 0;
  int experts = 0;
  double unit = 0.0;  // of fitness, for one step of profit; 0 where all fitness is 0
  std::vector<std::int64_t> profit;

  std::span<const std::int64_t> Row(int client) const {
    const auto width = static_cast<std::size_t>(experts);
    return std::span(profit).subspan(static_cast<std::size_t>(client) * width, width);
  }
};
ProfitRows MakeProfitRows(const AlignmentProblem& problem, const ParallelFor& parallel);

// What the solvers share. The spans belong to the caller; bounds can be met (see
// FindBoundConflict).
struct Transportation {
  const ProfitRows& rows;
  std::span<const int> capacity;  // by client
  std::span<const int> lower;     // by expert
  std::span<const int> upper;
  const ParallelFor& parallel;
};

struct PriceSolution {
  std::vector<std::int64_t> price;  // by expert, in steps of profit
  std::int64_t window = 0;  // margins up to here were looked at last: how far off prices are
  std::vector<ChoiceMargin> margins;  // by client, at these prices
  int sweeps = 0;                     // over all clients; those over samples do not count
};

// Minimises  sum_c (sum of the k_c greatest of F[c] - p) + sum_e max(U_e p_e, L_e p_e)  over the
// prices p, almost. The function is convex; its gradient is the excess load, and its curvature is
// how many clients are about to change from one expert to another, read off the margins of the
// clients nearest to it: damped Newton steps, on growing samples of the clients before all of them.
// `start` are prices to begin with (warm), or empty. What is left to be done is small, and
// FlowRepair does it exactly.
PriceSolution SolvePrices(const Transportation& problem, std::span<const std::int64_t> start);

}  // namespace fedmoe
