// The random numbers of stochastic rounding.
#pragma once

#include <array>
#include <cstdint>

namespace fedmoe {

inline constexpr std::int32_t kInt8Levels = 127;
inline constexpr std::int32_t kInt4Levels = 7;
// Units of nothing greater are zeros: the inverse of a smaller scale would leave float32.
inline constexpr float kNegligibleMagnitude = 0x1.0p-100F;

// The draws of the 64 elements of the `unit`-th unit of a block: of element j word j / 16 of the
// Philox4x32-10 block with counter 16 * unit + j % 16 (in its lower 64 bits) and key `key`. So do
// four lots of 16 elements lie as vector registers do, without a transposition.
void UnitDraws(std::uint64_t key, std::uint64_t unit, std::array<std::uint32_t, 64>& draws);
// One of them, from common/counter_rng.
std::uint32_t DrawReference(std::uint64_t key, std::uint64_t element);

}  // namespace fedmoe
