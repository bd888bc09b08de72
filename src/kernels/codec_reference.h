// Plain loops, one element at a time, that the codec is tested against bit for bit. The contracts
// are codec.h's, for arguments that it accepts; lengths and values are not checked here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/codec.h"

namespace fedmoe {

void EncodeValuesReference(Encoding encoding, std::span<const float> values, std::uint64_t first,
                           std::uint64_t key, std::span<std::byte> payload);
void DecodeValuesReference(const EncodedValues& encoded, std::uint64_t first, std::span<float> out);

}  // namespace fedmoe
