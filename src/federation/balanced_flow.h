// The exact solver behind the balanced strategy, on integer profits.
#pragma once

#include <Eigen/Core>
#include <cstdint>
#include <span>
#include <vector>

#include "common/ids.h"
#include "common/result.h"

namespace fedmoe {

using ProfitMatrix = Eigen::Matrix<std::int64_t, Eigen::Dynamic, Eigen::Dynamic>;

// round(F / max |F| * 2^40): sums of profits are exact, so the optimum depends on no rounding.
ProfitMatrix IntegerProfits(const Eigen::MatrixXd& fitness);

// Maximises the total profit, and among the plans with the greatest the total of `preference`
// (clients x experts too, or empty for none; below 2^40), under the constraints of SolveBalanced.
Result<std::vector<std::vector<ExpertIndex>>> SolveTransportation(const ProfitMatrix& profit,
                                                                  const ProfitMatrix& preference,
                                                                  std::span<const int> capacity,
                                                                  std::span<const int> lower,
                                                                  std::span<const int> upper);

}  // namespace fedmoe
