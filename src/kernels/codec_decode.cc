#include "kernels/codec_decode.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "kernels/codec_top_k.h"
#include "kernels/codec_units.h"

namespace fedmoe {
namespace {

// Elements of the unit that holds element `offset` of the payload, decoded; the last unit of a
// payload may be short.
void DecodeUnitAt(const EncodedValues& encoded, std::uint64_t offset,
                  std::array<float, kScaleBlock>& out) {
  const std::uint64_t unit = offset / kScaleBlock;
  const std::uint64_t elements = std::min(kScaleBlock, encoded.elements - unit * kScaleBlock);
  std::array<std::byte, sizeof(float) + kScaleBlock> bytes{};
  std::memcpy(bytes.data(), encoded.payload.data() + unit * UnitBytes(encoded.encoding),
              ScaledUnitBytes(encoded.encoding, elements));
  const bool int8 = encoded.encoding == Encoding::kInt8;
  (int8 ? DecodeInt8 : DecodeInt4)(bytes.data(), 1, out.data());
}

// int8 and int4: a part of a unit, whole units, a part of a unit.
void DecodeScaled(const EncodedValues& encoded, std::uint64_t offset, std::span<float> out) {
  std::array<float, kScaleBlock> unit;
  while (!out.empty()) {
    const std::uint64_t within = offset % kScaleBlock;
    std::size_t count = out.size() / kScaleBlock * kScaleBlock;
    if (within == 0 && count > 0) {
      const std::byte* const bytes =
          encoded.payload.data() + offset / kScaleBlock * UnitBytes(encoded.encoding);
      const bool int8 = encoded.encoding == Encoding::kInt8;
      (int8 ? DecodeInt8 : DecodeInt4)(bytes, count / kScaleBlock, out.data());
    } else {
      count = static_cast<std::size_t>(std::min<std::uint64_t>(kScaleBlock - within, out.size()));
      DecodeUnitAt(encoded, offset, unit);
      std::copy_n(unit.begin() + static_cast<std::ptrdiff_t>(within), count, out.begin());
    }
    out = out.subspan(count);
    offset += count;
  }
}

void DecodeTopK(const EncodedValues& encoded, std::uint64_t first, std::span<float> out) {
  std::fill(out.begin(), out.end(), 0.0F);
  const TopKView view(encoded.payload);
  const std::uint64_t end = first + out.size();
  for (std::size_t i = view.LowerBound(first); i < view.size(); ++i) {
    const std::uint64_t index = view.IndexOf(i);
    if (index < first || index >= end) break;
    out[static_cast<std::size_t>(index - first)] = view.ValueOf(i);
  }
}

}  // namespace

void DecodeWithin(const EncodedValues& encoded, std::uint64_t first, std::span<float> out) {
  if (out.empty()) return;
  const std::uint64_t offset = first - encoded.first;
  const std::byte* const payload = encoded.payload.data();
  switch (encoded.encoding) {
    case Encoding::kFloat32:
      std::memcpy(out.data(), payload + 4 * offset, out.size_bytes());
      break;
    case Encoding::kBfloat16:
      DecodeBfloat16(payload + 2 * offset, out.size(), out.data());
      break;
    case Encoding::kFloat16:
      DecodeFloat16(payload + 2 * offset, out.size(), out.data());
      break;
    case Encoding::kInt8:
    case Encoding::kInt4:
      DecodeScaled(encoded, offset, out);
      break;
    case Encoding::kTopK:
      DecodeTopK(encoded, first, out);
      break;
  }
}

}  // namespace fedmoe
