// One client's choice where experts differ in size.
#pragma once

#include <span>
#include <vector>

#include "common/ids.h"

namespace fedmoe {

struct KnapsackChoice {
  std::vector<ExpertIndex> experts;  // by value a byte, greatest first
  double value = 0.0;                // of the experts
  double bound = 0.0;                // no choice is worth more; `value` where the search ended
};

// The set of at most `count` experts of the greatest value that fit into `room` together; those of
// no value are left out. Branch and bound over the experts by value a byte, at most `max_nodes`
// nodes; beyond them the best set found, and the fractional bound. `value` and `bytes` (above 0)
// have one entry an expert.
KnapsackChoice SolveKnapsack(std::span<const double> value, std::span<const double> bytes,
                             double room, int count, int max_nodes);

}  // namespace fedmoe
