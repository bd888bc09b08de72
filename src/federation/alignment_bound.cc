#include "federation/alignment_bound.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <vector>

namespace fedmoe {
namespace {

constexpr int kMaxParts = 64;
constexpr int kInsertionLimit = 20;

// The sum of these entries of `values` if no other is greater; else nothing. Overwrites them.
std::optional<double> SumIfGreatest(std::vector<double>& values,
                                    std::span<const ExpertIndex> entries) {
  double sum = 0.0;
  double least = std::numeric_limits<double>::infinity();
  for (const ExpertIndex e : entries) {
    double& value = values[static_cast<std::size_t>(e)];
    sum += value;
    least = std::min(least, value);
    value = -std::numeric_limits<double>::infinity();
  }
  bool greater = false;
  for (const double value : values) greater |= value > least;
  if (greater) return std::nullopt;
  return sum;
}

// The sum of the `count` greatest; reorders the values.
double SumOfGreatest(std::vector<double>& values, int count) {
  if (count <= 0) return 0.0;
  if (count <= kInsertionLimit) {
    double top[kInsertionLimit];
    int filled = 0;
    for (const double value : values) {
      if (filled == count && value <= top[count - 1]) continue;
      int at = filled < count ? filled++ : count - 1;
      for (; at > 0 && top[at - 1] < value; --at) top[at] = top[at - 1];
      top[at] = value;
    }
    return std::accumulate(top, top + filled, 0.0);
  }
  std::sort(values.begin(), values.end(), std::greater<>());
  return std::accumulate(values.begin(), values.begin() + count, 0.0);
}

}  // namespace

double DualBound(const AlignmentProblem& problem, std::span<const std::vector<ExpertIndex>> plan,
                 const LoadBounds& bounds, std::span<const double> prices,
                 const ParallelFor& parallel) {
  const auto experts = static_cast<std::size_t>(problem.fitness.cols());
  const std::int64_t clients = problem.fitness.rows();
  const int parts = static_cast<int>(std::clamp<std::int64_t>(clients / 256, 1, kMaxParts));
  std::vector<double> no_prices;
  if (prices.empty()) {
    no_prices.assign(experts, 0.0);
    prices = no_prices;
  }
  std::vector<double> sums(static_cast<std::size_t>(parts), 0.0);
  RunParts(parallel, parts, [&](int part) {
    std::vector<double> values(experts);
    double sum = 0.0;
    for (std::int64_t c = clients * part / parts; c < clients * (part + 1) / parts; ++c) {
      const std::vector<ExpertIndex>& held = plan[static_cast<std::size_t>(c)];
      if (held.empty()) continue;
      const double* row = problem.fitness.data() + static_cast<std::size_t>(c) * experts;
      const auto subtract = [&] {
        for (std::size_t e = 0; e < experts; ++e) values[e] = row[e] - prices[e];
      };
      subtract();
      if (const auto greatest = SumIfGreatest(values, held)) {
        sum += *greatest;
        continue;
      }
      subtract();
      sum += SumOfGreatest(values, static_cast<int>(held.size()));
    }
    sums[static_cast<std::size_t>(part)] = sum;
  });
  double bound = std::accumulate(sums.begin(), sums.end(), 0.0);
  for (std::size_t e = 0; e < bounds.upper.size(); ++e) {
    bound += std::max(bounds.upper[e] * prices[e], bounds.lower[e] * prices[e]);
  }
  return bound;
}

}  // namespace fedmoe
