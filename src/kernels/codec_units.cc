#include "kernels/codec_units.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/codec_draws.h"
#include "kernels/function_versions.h"

namespace fedmoe {
namespace {

constexpr std::size_t kUnit = 64;
constexpr std::size_t kHalf = 32;
constexpr std::uint32_t kSign = 0x8000'0000;
constexpr std::uint32_t kMagnitude = 0x7FFF'FFFF;

template <typename T>
T Load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

// How many steps of `scale` each value is, rounded to one of its neighbours by its draw, from
// -levels to levels.
FEDMOE_FUNCTION_VERSIONS void RoundSteps(const float* values, const std::uint32_t* draws,
                                         float inverse_scale, std::int32_t levels,
                                         std::int8_t* steps) {
  for (std::size_t i = 0; i < kUnit; ++i) {
    const float exact = values[i] * inverse_scale;
    // Down to a whole number, which float32 holds exactly, as it does what is left.
    std::int32_t floor = static_cast<std::int32_t>(exact);
    floor -= static_cast<std::int32_t>(static_cast<float>(floor) > exact);
    const float rest = exact - static_cast<float>(floor);
    const float draw = static_cast<float>(static_cast<std::int32_t>(draws[i] >> 8)) * 0x1.0p-24F;
    const std::int32_t step = floor + static_cast<std::int32_t>(draw < rest);
    // The greatest magnitude may come out a rounding error beyond its level.
    steps[i] = static_cast<std::int8_t>(std::min(std::max(step, -levels), levels));
  }
}

FEDMOE_FUNCTION_VERSIONS float GreatestMagnitude(const float* values) {
  std::uint32_t greatest = 0;
  for (std::size_t i = 0; i < kUnit; ++i) {
    greatest = std::max(greatest, std::bit_cast<std::uint32_t>(values[i]) & kMagnitude);
  }
  return std::bit_cast<float>(greatest);
}

// The scale of a unit; steps[0, count) are its values, the rest are zeros.
float QuantizeUnit(const float* values, std::size_t count, std::uint64_t unit, std::uint64_t key,
                   std::int32_t levels, std::array<std::int8_t, kUnit>& steps) {
  std::array<float, kUnit> padded{};
  std::copy_n(values, count, padded.begin());
  const float greatest = GreatestMagnitude(padded.data());
  if (greatest < kNegligibleMagnitude) {
    steps.fill(0);
    return 0.0F;
  }
  const float scale = greatest / static_cast<float>(levels);
  std::array<std::uint32_t, kUnit> draws;
  UnitDraws(key, unit, draws);
  RoundSteps(padded.data(), draws.data(), 1.0F / scale, levels, steps.data());
  return scale;
}

FEDMOE_FUNCTION_VERSIONS void PackHalves(const std::int8_t* steps, std::uint8_t* packed) {
  for (std::size_t j = 0; j < kHalf; ++j) {
    packed[j] = static_cast<std::uint8_t>((steps[j] & 0xF) | ((steps[j + kHalf] & 0xF) << 4));
  }
}

// The number of values in [0, count) whose magnitude is over `limit`, as bits.
FEDMOE_FUNCTION_VERSIONS std::uint32_t AnyBeyond(const float* values, std::size_t count,
                                                 std::uint32_t limit) {
  std::uint32_t found = 0;
  for (std::size_t i = 0; i < count; ++i) {
    found |=
        static_cast<std::uint32_t>((std::bit_cast<std::uint32_t>(values[i]) & kMagnitude) > limit);
  }
  return found;
}

// The magnitude (as bits) of which `kept` values are left when those equal to it are taken until
// there are enough, and how many of those are to be taken. Two passes of counting: by the upper 16
// bits, then by the lower 15 of those that share the upper ones of the answer.
struct Threshold {
  std::uint32_t bits = 0;
  std::size_t of_equal = 0;
};

Threshold FindThreshold(const float* values, std::size_t count, std::size_t kept) {
  constexpr std::uint32_t kLowBits = 15;
  std::vector<std::size_t> upper(std::size_t{1} << 16, 0);
  for (std::size_t i = 0; i < count; ++i) {
    ++upper[(std::bit_cast<std::uint32_t>(values[i]) & kMagnitude) >> kLowBits];
  }
  std::size_t bucket = upper.size() - 1;
  std::size_t left = kept;
  for (; upper[bucket] < left; --bucket) left -= upper[bucket];
  constexpr std::uint32_t kLow = (std::uint32_t{1} << kLowBits) - 1;
  std::vector<std::size_t> lower(std::size_t{1} << kLowBits, 0);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(values[i]) & kMagnitude;
    if (bits >> kLowBits == bucket) ++lower[bits & kLow];
  }
  std::size_t low = lower.size() - 1;
  for (; lower[low] < left; --low) left -= lower[low];
  return {.bits = static_cast<std::uint32_t>(bucket << kLowBits | low), .of_equal = left};
}

}  // namespace

FEDMOE_FUNCTION_VERSIONS void DecodeBfloat16(const std::byte* units, std::size_t count,
                                             float* out) {
  for (std::size_t i = 0; i < count; ++i) {
    out[i] = std::bit_cast<float>(std::uint32_t{Load<std::uint16_t>(units + 2 * i)} << 16);
  }
}

FEDMOE_FUNCTION_VERSIONS void DecodeFloat16(const std::byte* units, std::size_t count, float* out) {
  constexpr std::uint32_t kExponentOffset = 112U << 23;
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t bits = Load<std::uint16_t>(units + 2 * i);
    const std::uint32_t exponent = bits & 0x7C00;
    // All ones or all zeros, for Inf and NaN, whose exponents differ by twice as much, and for
    // subnormals, which are multiples of 2^-24.
    const std::uint32_t special = 0U - static_cast<std::uint32_t>(exponent == 0x7C00);
    const std::uint32_t subnormal = 0U - static_cast<std::uint32_t>(exponent == 0);
    const std::uint32_t as_normal =
        ((bits & 0x7FFF) << 13) + kExponentOffset + (special & kExponentOffset);
    const std::uint32_t as_subnormal = std::bit_cast<std::uint32_t>(
        static_cast<float>(static_cast<std::int32_t>(bits & 0x3FF)) * 0x1.0p-24F);
    out[i] = std::bit_cast<float>((as_normal & ~subnormal) | (as_subnormal & subnormal) |
                                  ((bits & 0x8000) << 16));
  }
}

FEDMOE_FUNCTION_VERSIONS void DecodeInt8(const std::byte* bytes, std::size_t units, float* out) {
  for (std::size_t unit = 0; unit < units; ++unit) {
    const float scale = Load<float>(bytes);
    const auto* steps = reinterpret_cast<const std::int8_t*>(bytes + sizeof(float));
    for (std::size_t i = 0; i < kUnit; ++i) out[i] = scale * static_cast<float>(steps[i]);
    bytes += sizeof(float) + kUnit;
    out += kUnit;
  }
}

FEDMOE_FUNCTION_VERSIONS void DecodeInt4(const std::byte* bytes, std::size_t units, float* out) {
  for (std::size_t unit = 0; unit < units; ++unit) {
    const float scale = Load<float>(bytes);
    const auto* packed = reinterpret_cast<const std::uint8_t*>(bytes + sizeof(float));
    for (std::size_t j = 0; j < kHalf; ++j) {
      // (x ^ 8) - 8 extends the sign of four bits.
      const std::int32_t lower = ((packed[j] & 0xF) ^ 8) - 8;
      out[j] = scale * static_cast<float>(lower);
    }
    for (std::size_t j = 0; j < kHalf; ++j) {
      const std::int32_t upper = ((packed[j] >> 4) ^ 8) - 8;
      out[j + kHalf] = scale * static_cast<float>(upper);
    }
    bytes += sizeof(float) + kHalf;
    out += kUnit;
  }
}

FEDMOE_FUNCTION_VERSIONS void EncodeBfloat16(const float* values, std::size_t count,
                                             std::byte* units) {
  for (std::size_t i = 0; i < count; ++i) {
    const auto bits = std::bit_cast<std::uint32_t>(values[i]);
    const auto unit = static_cast<std::uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    std::memcpy(units + 2 * i, &unit, sizeof(unit));
  }
}

FEDMOE_FUNCTION_VERSIONS void EncodeFloat16(const float* values, std::size_t count,
                                            std::byte* units) {
  constexpr std::uint32_t kSmallestNormal = (127 - 14) << 23;
  // A float32 of this size has steps of 1, so that adding it rounds to a whole number.
  constexpr float kWhole = 0x1.0p23F;
  for (std::size_t i = 0; i < count; ++i) {
    const auto bits = std::bit_cast<std::uint32_t>(values[i]);
    const std::uint32_t magnitude = bits & kMagnitude;
    const std::uint32_t rounded =
        (magnitude + 0xFFF + ((magnitude >> 13) & 1) - (std::uint32_t{112} << 23)) >> 13;
    const std::uint32_t subnormal =
        std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1.0p24F + kWhole) -
        std::bit_cast<std::uint32_t>(kWhole);
    const std::uint32_t finite =
        magnitude < kSmallestNormal ? subnormal : std::min<std::uint32_t>(rounded, 0x7C00);
    const auto unit = static_cast<std::uint16_t>(finite | ((bits & kSign) >> 16));
    std::memcpy(units + 2 * i, &unit, sizeof(unit));
  }
}

void EncodeInt8Unit(const float* values, std::size_t count, std::uint64_t unit, std::uint64_t key,
                    std::byte* bytes) {
  std::array<std::int8_t, kUnit> steps;
  const float scale = QuantizeUnit(values, count, unit, key, kInt8Levels, steps);
  std::memcpy(bytes, &scale, sizeof(scale));
  std::memcpy(bytes + sizeof(scale), steps.data(), count);
}

void EncodeInt4Unit(const float* values, std::size_t count, std::uint64_t unit, std::uint64_t key,
                    std::byte* bytes) {
  std::array<std::int8_t, kUnit> steps;
  const float scale = QuantizeUnit(values, count, unit, key, kInt4Levels, steps);
  std::array<std::uint8_t, kHalf> packed;
  PackHalves(steps.data(), packed.data());
  std::memcpy(bytes, &scale, sizeof(scale));
  std::memcpy(bytes + sizeof(scale), packed.data(), std::min(count, kHalf));
}

std::size_t FirstBeyond(const float* values, std::size_t count, float limit) {
  constexpr std::size_t kStride = 4096;
  const auto bits = std::bit_cast<std::uint32_t>(limit);
  for (std::size_t start = 0; start < count; start += kStride) {
    const std::size_t end = std::min(count, start + kStride);
    if (AnyBeyond(values + start, end - start, bits) == 0) continue;
    for (std::size_t i = start; i < end; ++i) {
      if (!(std::fabs(values[i]) <= limit)) return i;
    }
  }
  return count;
}

void SelectTopK(const float* values, std::size_t count, std::size_t kept, std::byte* units) {
  Threshold threshold = FindThreshold(values, count, kept);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(values[i]) & kMagnitude;
    if (bits < threshold.bits) continue;
    if (bits == threshold.bits) {
      if (threshold.of_equal == 0) continue;
      --threshold.of_equal;
    }
    const auto index = static_cast<std::uint32_t>(i);
    std::memcpy(units, &index, sizeof(index));
    std::memcpy(units + sizeof(index), values + i, sizeof(float));
    units += sizeof(index) + sizeof(float);
  }
}

}  // namespace fedmoe
