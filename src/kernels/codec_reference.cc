#include "kernels/codec_reference.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "kernels/codec_draws.h"

namespace fedmoe {
namespace {

template <typename T>
T Load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

template <typename T>
void Store(T value, std::byte* to) {
  std::memcpy(to, &value, sizeof(value));
}

// The value of a float format of 16 bits with so many bits of exponent and fraction.
float FromHalf(std::uint16_t bits, int exponent_bits, int fraction_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits >> fraction_bits) & ((1 << exponent_bits) - 1);
  const int fraction = bits & ((1 << fraction_bits) - 1);
  const float sign = (bits & 0x8000) != 0 ? -1.0F : 1.0F;
  if (exponent == (1 << exponent_bits) - 1) {
    return fraction != 0 ? std::copysign(NAN, sign) : sign * INFINITY;
  }
  const int whole = exponent == 0 ? fraction : fraction + (1 << fraction_bits);
  return sign * std::ldexp(static_cast<float>(whole), std::max(exponent, 1) - bias - fraction_bits);
}

// The nearest of such a format, ties to the even fraction, for a value that it has room for.
std::uint16_t ToHalf(float value, int exponent_bits, int fraction_bits) {
  const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  if (value == 0.0F) return sign;
  const int exponent = std::max(std::ilogb(value), 1 - bias);
  // In steps of this exponent; nearbyint rounds ties to even, double holds every float32 of it.
  const double steps =
      std::nearbyint(std::ldexp(std::fabs(static_cast<double>(value)), fraction_bits - exponent));
  // A carry into the next exponent does in bits what it does in value.
  const int lowest = steps < std::ldexp(1.0, fraction_bits) ? 0 : exponent + bias - 1;
  return static_cast<std::uint16_t>(sign | ((lowest << fraction_bits) + static_cast<int>(steps)));
}

int StepOf(float value, float scale, int levels, std::uint32_t draw) {
  const float exact = value * (1.0F / scale);
  const float floor = std::floor(exact);
  const float uniform = std::ldexp(static_cast<float>(draw >> 8), -24);
  return std::clamp(static_cast<int>(floor) + (uniform < exact - floor ? 1 : 0), -levels, levels);
}

void EncodeScaled(std::span<const float> values, std::uint64_t first, std::uint64_t key, bool int4,
                  std::byte* bytes) {
  const int levels = int4 ? kInt4Levels : kInt8Levels;
  for (std::size_t start = 0; start < values.size(); start += kScaleBlock) {
    const auto unit =
        values.subspan(start, std::min<std::size_t>(kScaleBlock, values.size() - start));
    float greatest = 0.0F;
    for (const float value : unit) greatest = std::max(greatest, std::fabs(value));
    const bool negligible = greatest < kNegligibleMagnitude;
    const float scale = negligible ? 0.0F : greatest / static_cast<float>(levels);
    Store(scale, bytes);
    bytes += sizeof(scale);
    const std::size_t size = int4 ? std::min<std::size_t>(unit.size(), 32) : unit.size();
    std::fill_n(bytes, size, std::byte{0});
    for (std::size_t j = 0; j < unit.size(); ++j) {
      const std::uint32_t draw = DrawReference(key, first + start + j);
      const int step = negligible ? 0 : StepOf(unit[j], scale, levels, draw);
      const auto bits = static_cast<std::uint8_t>(step);
      if (!int4) {
        bytes[j] = std::byte{bits};
      } else if (j < 32) {
        bytes[j] |= std::byte{static_cast<std::uint8_t>(bits & 0xF)};
      } else {
        bytes[j - 32] |= std::byte{static_cast<std::uint8_t>(bits << 4)};
      }
    }
    bytes += size;
  }
}

void EncodeTopK(std::span<const float> values, std::span<std::byte> payload) {
  std::vector<std::uint32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
    return std::fabs(values[a]) > std::fabs(values[b]);
  });
  order.resize(payload.size() / kTopKUnitBytes);
  std::sort(order.begin(), order.end());
  std::byte* unit = payload.data();
  for (const std::uint32_t index : order) {
    Store(index, unit);
    Store(values[index], unit + 4);
    unit += kTopKUnitBytes;
  }
}

// Element `offset` of what the payload holds.
float ElementOf(const EncodedValues& encoded, std::uint64_t offset) {
  const std::byte* payload = encoded.payload.data();
  const std::uint64_t unit = offset / kScaleBlock;
  const std::uint64_t within = offset % kScaleBlock;
  switch (encoded.encoding) {
    case Encoding::kFloat32:
      return Load<float>(payload + 4 * offset);
    case Encoding::kBfloat16:
      return FromHalf(Load<std::uint16_t>(payload + 2 * offset), 8, 7);
    case Encoding::kFloat16:
      return FromHalf(Load<std::uint16_t>(payload + 2 * offset), 5, 10);
    case Encoding::kInt8: {
      const std::byte* bytes = payload + unit * 68;
      return Load<float>(bytes) * static_cast<float>(Load<std::int8_t>(bytes + 4 + within));
    }
    case Encoding::kInt4: {
      const std::byte* bytes = payload + unit * 36;
      const auto pair = std::to_integer<int>(bytes[4 + within % 32]);
      const int step = within < 32 ? pair & 0xF : pair >> 4;
      return Load<float>(bytes) * static_cast<float>(step < 8 ? step : step - 16);
    }
    case Encoding::kTopK:
      break;
  }
  for (std::size_t at = 0; at < encoded.payload.size(); at += kTopKUnitBytes) {
    if (Load<std::uint32_t>(payload + at) == encoded.first + offset) {
      return Load<float>(payload + at + 4);
    }
  }
  return 0.0F;
}

}  // namespace

void EncodeValuesReference(Encoding encoding, std::span<const float> values, std::uint64_t first,
                           std::uint64_t key, std::span<std::byte> payload) {
  switch (encoding) {
    case Encoding::kFloat32:
      for (std::size_t i = 0; i < values.size(); ++i) Store(values[i], payload.data() + 4 * i);
      return;
    case Encoding::kBfloat16:
      for (std::size_t i = 0; i < values.size(); ++i) {
        Store(ToHalf(values[i], 8, 7), payload.data() + 2 * i);
      }
      return;
    case Encoding::kFloat16:
      for (std::size_t i = 0; i < values.size(); ++i) {
        Store(ToHalf(values[i], 5, 10), payload.data() + 2 * i);
      }
      return;
    case Encoding::kInt8:
      return EncodeScaled(values, first, key, false, payload.data());
    case Encoding::kInt4:
      return EncodeScaled(values, first, key, true, payload.data());
    case Encoding::kTopK:
      return EncodeTopK(values, payload);
  }
}

void DecodeValuesReference(const EncodedValues& encoded, std::uint64_t first,
                           std::span<float> out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = ElementOf(encoded, first - encoded.first + i);
  }
}

}  // namespace fedmoe
