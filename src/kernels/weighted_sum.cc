#include "kernels/weighted_sum.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/function_versions.h"
#include "kernels/weighted_sum_group.h"

namespace fedmoe {
namespace {

FEDMOE_FUNCTION_VERSIONS void Round(const double* sums, std::size_t count, float* out) {
  for (std::size_t i = 0; i < count; ++i) out[i] = static_cast<float>(sums[i]);
}

// 1 if any of `count` values has an exponent of all ones, else 0.
FEDMOE_FUNCTION_VERSIONS std::uint32_t AnyNonFinite(const float* values, std::size_t count) {
  constexpr std::uint32_t kExponent = 0x7F800000;
  std::uint32_t found = 0;
  for (std::size_t i = 0; i < count; ++i) {
    found |= static_cast<std::uint32_t>((std::bit_cast<std::uint32_t>(values[i]) & kExponent) ==
                                        kExponent);
  }
  return found;
}

// Values per tile: 8 KiB of sums stay in the first-level cache while all sources pass over them.
constexpr std::size_t kTile = 1024;
// Values between two looks at the result in AllFinite.
constexpr std::size_t kFiniteStride = 16'384;

// Adds elements [start, start + sums.size()) of the sources that have weight, in groups.
void AddTile(std::span<const float* const> sources, std::span<const double> weights,
             std::size_t start, std::span<double> sums) {
  std::array<const float*, kSumGroup> group;
  std::array<double, kSumGroup> group_weights;
  std::size_t count = 0;
  for (std::size_t s = 0; s < sources.size(); ++s) {
    if (weights[s] == 0.0) continue;
    group[count] = sources[s] + start;
    group_weights[count] = weights[s];
    if (++count < kSumGroup) continue;
    AddGroup(group.data(), group_weights.data(), count, sums.size(), sums.data());
    count = 0;
  }
  if (count > 0) AddGroup(group.data(), group_weights.data(), count, sums.size(), sums.data());
}

}  // namespace

void WeightedSum(std::span<const float* const> sources, std::span<const double> weights,
                 std::span<float> out) {
  std::array<double, kTile> sums;
  for (std::size_t start = 0; start < out.size(); start += kTile) {
    const std::size_t count = std::min(kTile, out.size() - start);
    std::fill_n(sums.begin(), count, 0.0);
    AddTile(sources, weights, start, std::span(sums).first(count));
    Round(sums.data(), count, out.data() + start);
  }
}

void AccumulateWeighted(std::span<const float* const> sources, std::span<const double> weights,
                        std::span<double> sums) {
  for (std::size_t start = 0; start < sums.size(); start += kTile) {
    const std::size_t count = std::min(kTile, sums.size() - start);
    AddTile(sources, weights, start, sums.subspan(start, count));
  }
}

void RoundSums(std::span<const double> sums, std::span<float> out) {
  Round(sums.data(), out.size(), out.data());
}

void WeightedSumReference(std::span<const float* const> sources, std::span<const double> weights,
                          std::span<float> out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    double sum = 0.0;
    for (std::size_t s = 0; s < sources.size(); ++s) {
      if (weights[s] != 0.0) sum = std::fma(weights[s], static_cast<double>(sources[s][i]), sum);
    }
    out[i] = static_cast<float>(sum);
  }
}

bool AllFinite(std::span<const float> values) {
  for (std::size_t start = 0; start < values.size(); start += kFiniteStride) {
    const std::size_t count = std::min(kFiniteStride, values.size() - start);
    if (AnyNonFinite(values.data() + start, count) != 0) return false;
  }
  return true;
}

}  // namespace fedmoe
