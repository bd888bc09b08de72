// Encodings of a span of float32 values: what an update's blocks hold on the wire, in the spool and
// under the aggregation kernel. docs/update_format.md has the same with worked examples.
//
// A payload is a sequence of units, little-endian, each for some consecutive elements:
//   f32    4 bytes     1 element    binary32
//   bf16   2 bytes     1 element    the upper half of a binary32, rounded to nearest, ties to even
//   f16    2 bytes     1 element    binary16, rounded to nearest, ties to even
//   int8   4 + n       n = 64 elements (the last unit: what is left): scale as binary32, then a
//                      signed byte each; the value is scale * byte
//   int4   4 + min(n, 32)   n as above: scale, then byte j holds element j in its lower and
//                      element j + 32 in its upper half, signed; halves without an element are 0
//   top-k  8 bytes     0 or 1 element: its index as u32, then its value as binary32; indices
//                      ascend, elements without a unit are 0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/result.h"

namespace fedmoe {

// The numbers are those of the format.
enum class Encoding : std::uint32_t {
  kFloat32 = 0,
  kBfloat16 = 1,
  kFloat16 = 2,
  kInt8 = 3,
  kInt4 = 4,
  kTopK = 5,
};
inline constexpr std::uint32_t kEncodings = 6;

const char* EncodingName(Encoding encoding);  // "f32", "bf16", "f16", "int8", "int4", "topk"

// Elements that share a scale.
inline constexpr std::uint64_t kScaleBlock = 64;
// Bytes of a unit of top-k.
inline constexpr std::uint64_t kTopKUnitBytes = 8;
// Larger values are no training, and their squares would leave float32, where server optimisers
// keep them.
inline constexpr float kMaxEncodedMagnitude = 1e18F;
// No block of more elements can be encoded: indices of top-k are u32, and no length overflows.
inline constexpr std::uint64_t kMaxEncodedElements = std::uint64_t{1} << 32;

// The number of elements of a unit and of its bytes: 64 and 68 for int8.
std::uint64_t UnitElements(Encoding encoding);
std::uint64_t UnitBytes(Encoding encoding);

// Bytes of the payload of `elements` (at most kMaxEncodedElements) values; of top-k, where `kept`
// of them are sent (the other encodings do not look at it).
std::uint64_t EncodedBytes(Encoding encoding, std::uint64_t elements, std::uint64_t kept = 0);

// Encodes `values`, which are the elements [first, first + values.size()) of their block, into
// `payload`, which has EncodedBytes() of them; of top-k, as many of greatest magnitude as it has
// room for (ties: the lower index). `first` is a multiple of kScaleBlock and 0 for top-k.
//
// int8 and int4 round stochastically and without bias: x becomes floor(y) or ceil(y) steps, y =
// x / scale, so that its expectation is x, up to the rounding of y in float32 and 2^-24 of a step;
// the scale is the unit's greatest magnitude over 127 or 7. Draws are a pure function of (key,
// element): the payload does not depend on how a block is cut. Units whose greatest magnitude is
// below 2^-100 become zeros.
//
// OUT_OF_RANGE "element 17 is NaN" (Inf; 3e+38, beyond 1e18; 7e+04, beyond float16), with
// `payload` undefined; INVALID_ARGUMENT where a length does not fit.
Status EncodeValues(Encoding encoding, std::span<const float> values, std::uint64_t first,
                    std::uint64_t key, std::span<std::byte> payload);

// Error feedback (Stich et al., "Sparsified SGD with Memory", NeurIPS 2018): what `payload`, a
// top-k payload of `values`, does not send stays behind. Sets the values sent to 0.
void KeepResidual(std::span<const std::byte> payload, std::span<float> values);

// Encoded elements [first, first + elements) of a block. `first` is a multiple of UnitElements().
// A window of top-k holds the units whose indices are in it (indices count from the block's
// start).
struct EncodedValues {
  Encoding encoding = Encoding::kFloat32;
  std::uint64_t first = 0;
  std::uint64_t elements = 0;
  std::span<const std::byte> payload;
};

// Whether the payload is one of so many elements, and decodes to finite values: its length and
// first element (INVALID_ARGUMENT "payload of 7 bytes, 2 int8 elements have 6"), ascending indices
// within [first, first + elements) and empty halves of int4 (INVALID_ARGUMENT), scales not
// negative, values and scales without NaN or Inf and nothing that decodes beyond
// kMaxEncodedMagnitude (OUT_OF_RANGE "element 17 is NaN", "the scale of elements 64 to 127 is
// Inf").
Status CheckEncoded(const EncodedValues& encoded);
// Its first part: lengths only, in constant time. What the functions below ask for.
Status CheckEncodedLength(const EncodedValues& encoded);

// out = elements [first, first + out.size()) of `encoded`, which must hold them
// (INVALID_ARGUMENT). Payloads that CheckEncoded() has not seen decode to whatever their bits say,
// within bounds. Thread-safe, not threaded.
Status DecodeValues(const EncodedValues& encoded, std::uint64_t first, std::span<float> out);

}  // namespace fedmoe
