// The aggregation kernel: out = sum over sources of weight * source, in source order.
#pragma once

#include <cstddef>
#include <span>

namespace fedmoe {

// out[i] = float(sum_s double(weights[s]) * double(sources[s][i])), the sum in source order, each
// product added to it with one rounding (fused), so the result is the same bits for any thread
// count and any tiling. Every source has out.size() values; sources with weight 0 are not read. No
// source: zeros. Not threaded; thread-safe.
void WeightedSum(std::span<const float* const> sources, std::span<const double> weights,
                 std::span<float> out);
// sums[i] += sum_s weights[s] * double(sources[s][i]), in source order: called for one group of
// sources after another on zeros, and rounded at the end, it gives the bits of WeightedSum over
// all. The rest as above.
void AccumulateWeighted(std::span<const float* const> sources, std::span<const double> weights,
                        std::span<double> sums);
// out[i] = float(sums[i]); both have the same size.
void RoundSums(std::span<const double> sums, std::span<float> out);
// The plain loop that the fast version is tested against.
void WeightedSumReference(std::span<const float* const> sources, std::span<const double> weights,
                          std::span<float> out);

// True if no value is NaN or infinite.
bool AllFinite(std::span<const float> values);

}  // namespace fedmoe
