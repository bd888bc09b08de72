// The inner loop of the aggregation over int8: up to eight sources at once, in whole units.
#pragma once

#include <cstddef>

namespace fedmoe {

// For `source_count` (1 to kSumGroup) sources in their order: sums[i] = fma(weight * scale, step,
// sums[i]) for the 64 elements of each of `units` int8 units, weight times scale rounded to
// float64.
void AddScaledGroup(const std::byte* const* sources, const double* weights,
                    std::size_t source_count, std::size_t units, double* sums);

// out[i] = float(the same from 0.0). `stream`: as for SumGroup().
void SumScaledGroup(const std::byte* const* sources, const double* weights,
                    std::size_t source_count, std::size_t units, bool stream, float* out);

// int8 units from int4 units, of the same values.
void WidenInt4(const std::byte* int4, std::size_t units, std::byte* int8);

}  // namespace fedmoe
