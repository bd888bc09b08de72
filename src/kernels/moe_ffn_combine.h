// The last step of both directions: the rows of a token's slots, summed in the order of its slots.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/expert_ops_rows.h"
#include "kernels/expert_routing.h"

namespace fedmoe {

inline constexpr std::int64_t kTokensPerChunk = 64;

inline std::int64_t TokenChunks(const ExpertRouting& routing) {
  return (routing.tokens + kTokensPerChunk - 1) / kTokensPerChunk;
}

// out [tokens, width] = sum over slots of factors[token, slot] times the slot's row of `rows`, for
// the tokens of a chunk; factors null: all 1. Tokens without a routed slot become 0.
template <typename T>
void CombineChunk(const ExpertRouting& routing, std::int64_t chunk, std::int64_t width,
                  const T* rows, const T* factors, T* out) {
  const std::int64_t end = std::min(routing.tokens, (chunk + 1) * kTokensPerChunk);
  for (std::int64_t token = chunk * kTokensPerChunk; token < end; ++token) {
    T* const sum = out + token * width;
    bool first = true;
    for (std::int64_t slot = token * routing.slots; slot < (token + 1) * routing.slots; ++slot) {
      const std::int64_t row = routing.place[static_cast<std::size_t>(slot)];
      if (row < 0) continue;
      const T factor = factors == nullptr ? T{1} : factors[slot];
      if (first) {
        ScaleRow(rows + row * width, factor, width, sum);
      } else {
        AddScaledRow(rows + row * width, factor, width, sum);
      }
      first = false;
    }
    if (first) std::fill_n(sum, width, T{0});
  }
}

}  // namespace fedmoe
