// The inner loop of the aggregation: up to eight sources of float32 at once.
#pragma once

#include <cstddef>

namespace fedmoe {

inline constexpr std::size_t kSumGroup = 8;

// sums[i] = fma(weights[s], sources[s][i], sums[i]) for s = 0, then 1 and so on, `source_count` (1
// to kSumGroup) of them: each step rounds once, to float64.
void AddGroup(const float* const* sources, const double* weights, std::size_t source_count,
              std::size_t count, double* sums);

// out[i] = float(the same from 0.0). `stream`: past the caches where `out` is aligned
// to 16 bytes, for one that they would not keep; such writes are ordered before this returns.
void SumGroup(const float* const* sources, const double* weights, std::size_t source_count,
              std::size_t count, bool stream, float* out);

}  // namespace fedmoe
