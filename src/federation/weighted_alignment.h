// Alignment where clients weigh differently in an expert's load, or experts differ in size: a
// generalised assignment problem, NP-hard, so prices and a repair, with the gap reported.
#pragma once

#include <span>
#include <vector>

#include "common/parallel.h"
#include "federation/alignment.h"

namespace fedmoe {

// Maximise  sum F x  over x in {0, 1},  lower_e <= sum_c w_c x[c,e] <= upper_e  and, for each
// client, either exactly k_c experts or, where sizes are given, at most k_c experts of at most its
// room together. The spans belong to the caller.
struct WeightedProblem {
  const FitnessMatrix& fitness;    // clients x experts
  std::span<const int> capacity;   // k_c, 0 to E
  std::span<const double> weight;  // by client, at least 0: what each of its experts gets
  std::span<const double> lower;   // by expert, in units of weight
  std::span<const double> upper;
  std::span<const double> expert_bytes;  // above 0; empty: sizes do not matter
  std::span<const double> room_bytes;    // by client; empty with expert_bytes
  const ParallelFor& parallel;
};

struct WeightedSolution {
  std::vector<std::vector<ExpertIndex>> experts;  // by client, ascending
  std::vector<double> price;                      // by expert, fitness for a unit of weight
  std::vector<double> load;                       // by expert, in units of weight
  // The dual's value at the best prices seen: no plan that meets the bounds has a greater sum.
  double bound = 0.0;
  double violation = 0.0;  // sum over experts of what the load is outside of its bounds
  int steps = 0;           // of the prices
  int moves = 0;           // of the repair
};

// Damped Newton steps on the dual, where each client takes what is best by F[c,e] - w_c price[e]
// (by that over size, where sizes are given; its bound is then the fractional one), then moves of
// one client's expert, those first that lose the least fitness for what they mend, until every
// bound is met or no move helps. `start` are prices to begin with, or empty. Deterministic; the
// same for any `parallel`. O(steps C E + moves C E).
WeightedSolution SolveWeighted(const WeightedProblem& problem, std::span<const double> start);

}  // namespace fedmoe
