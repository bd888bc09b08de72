// The exact solver behind the balanced strategy, on integer profits.
#pragma once

#include <Eigen/Core>
#include <cstdint>
#include <span>
#include <vector>

#include "common/ids.h"
#include "common/result.h"
#include "federation/alignment.h"

namespace fedmoe {

using ProfitMatrix = Eigen::Matrix<std::int64_t, Eigen::Dynamic, Eigen::Dynamic>;

// round(F / max |F| * 2^40): sums of profits are exact, so the optimum depends on no rounding.
ProfitMatrix IntegerProfits(const FitnessMatrix& fitness);
// The fitness that one step of profit stands for; 0 if all fitness is 0.
double ProfitUnit(const FitnessMatrix& fitness);

struct TransportationPlan {
  std::vector<std::vector<ExpertIndex>> experts;  // by client, ascending
  // The optimal dual: by expert, in profit. 0 where the load is strictly between the bounds.
  std::vector<std::int64_t> price;
};

// Maximises the total profit, and among the plans with the greatest the total of `preference`
// (clients x experts too, or empty for none; below 2^40), under the constraints of SolveBalanced.
Result<TransportationPlan> SolveTransportation(const ProfitMatrix& profit,
                                               const ProfitMatrix& preference,
                                               std::span<const int> capacity,
                                               std::span<const int> lower,
                                               std::span<const int> upper);

}  // namespace fedmoe
