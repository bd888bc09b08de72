// The loops of the codec on raw units, vectorised. Bounds are the caller's: codec.h checks them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fedmoe {

// From `count` units of one element each.
void DecodeBfloat16(const std::byte* units, std::size_t count, float* out);
void DecodeFloat16(const std::byte* units, std::size_t count, float* out);
// From `units` whole units of 64 elements each.
void DecodeInt8(const std::byte* bytes, std::size_t units, float* out);
void DecodeInt4(const std::byte* bytes, std::size_t units, float* out);

// Values beyond float16 become infinities.
void EncodeBfloat16(const float* values, std::size_t count, std::byte* units);
void EncodeFloat16(const float* values, std::size_t count, std::byte* units);
// One unit of `count` (1 to 64) elements, the `unit`-th of its block. `levels`: 127 or 7.
void EncodeInt8Unit(const float* values, std::size_t count, std::uint64_t unit, std::uint64_t key,
                    std::byte* bytes);
void EncodeInt4Unit(const float* values, std::size_t count, std::uint64_t unit, std::uint64_t key,
                    std::byte* bytes);

// The first of `count` values whose magnitude is over `limit`, or NaN; `count` if there is none.
std::size_t FirstBeyond(const float* values, std::size_t count, float limit);

// The indices and values of the `kept` (1 to count) values of greatest magnitude, ties by the lower
// index, as units of top-k.
void SelectTopK(const float* values, std::size_t count, std::size_t kept, std::byte* units);

}  // namespace fedmoe
