// From prices to a plan that meets every bound: the least costly changes to what clients take.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/result.h"
#include "federation/price_solver.h"

namespace fedmoe {

struct RepairedPlan {
  std::vector<std::vector<ExpertIndex>> experts;  // by client, ascending
  std::vector<std::int64_t> price;                // the dual's, after the repair
  std::int64_t moves = 0;                         // clients that changed one expert for another
  // Every path was proven shortest, so that the plan is optimal for the whole-number profits.
  bool exact = true;
};

// Gives each client its k_c experts of greatest profit less price, which is the optimum for the
// loads that this makes, and then moves one unit of load after another from experts with too much
// to experts with too little along shortest paths (successive shortest paths by Dijkstra on the
// E + 1 nodes of the experts and the outside; an arc is the client that loses least by the change).
// Only clients whose margin is within a window are looked at; it grows where paths need it.
// FAILED_PRECONDITION if the bounds cannot be met.
Result<RepairedPlan> RepairFlow(const Transportation& problem, const PriceSolution& prices);

}  // namespace fedmoe
