// Decoding without its checks, for loops that have made them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "kernels/codec.h"

namespace fedmoe {

// Bytes of a unit of int8 or int4 with `elements` (1 to 64) of them.
inline std::uint64_t ScaledUnitBytes(Encoding encoding, std::uint64_t elements) {
  return sizeof(float) +
         (encoding == Encoding::kInt8 ? elements : std::min(elements, kScaleBlock / 2));
}

// DecodeValues() for arguments that it accepts.
void DecodeWithin(const EncodedValues& encoded, std::uint64_t first, std::span<float> out);

}  // namespace fedmoe
