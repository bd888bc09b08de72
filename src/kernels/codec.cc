#include "kernels/codec.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>

#include "kernels/codec_decode.h"
#include "kernels/codec_top_k.h"
#include "kernels/codec_units.h"

namespace fedmoe {
namespace {

constexpr std::uint64_t kHalfUnit = kScaleBlock / 2;
// What rounds to the greatest float16, 65504, or less.
constexpr float kMaxFloat16 = 65519.99609375F;

float LoadFloat(const std::byte* from) {
  float value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

// "NaN", "Inf" or "3e+38, beyond 1e18".
std::string Beyond(float value, const char* limit) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return "Inf";
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%g", static_cast<double>(value));
  return std::string(text.data()) + ", beyond " + limit;
}

Status ElementBeyond(std::uint64_t element, float value, const char* limit) {
  return OutOfRange("element " + std::to_string(element) + " is " + Beyond(value, limit));
}

Status CheckArguments(Encoding encoding, std::size_t elements, std::uint64_t first,
                      std::uint64_t bytes) {
  if (elements > kMaxEncodedElements || first > kMaxEncodedElements - elements) {
    return InvalidArgument("elements " + std::to_string(first) + " to " +
                           std::to_string(first + elements) + " are beyond the limit of 2^32");
  }
  if (encoding == Encoding::kTopK ? first != 0 : first % kScaleBlock != 0) {
    return InvalidArgument("a piece of " + std::string(EncodingName(encoding)) +
                           " must not begin at element " + std::to_string(first));
  }
  if (encoding == Encoding::kTopK) {
    if (bytes % kTopKUnitBytes == 0 && bytes / kTopKUnitBytes <= elements) return Status::Ok();
    return InvalidArgument("payload of " + std::to_string(bytes) + " bytes, top-k of " +
                           std::to_string(elements) + " elements has 8 for each that is kept");
  }
  if (bytes == EncodedBytes(encoding, elements)) return Status::Ok();
  return InvalidArgument("payload of " + std::to_string(bytes) + " bytes, " +
                         std::to_string(elements) + " " + EncodingName(encoding) +
                         " elements have " + std::to_string(EncodedBytes(encoding, elements)));
}

// Of the elements that the payload holds, in whole units of one element.
Status CheckDecoded(const EncodedValues& encoded) {
  constexpr std::size_t kPiece = 1024;
  std::array<float, kPiece> values;
  for (std::uint64_t done = 0; done < encoded.elements; done += kPiece) {
    const auto count =
        static_cast<std::size_t>(std::min<std::uint64_t>(kPiece, encoded.elements - done));
    const std::uint64_t first = encoded.first + done;
    FEDMOE_RETURN_IF_ERROR(DecodeValues(encoded, first, std::span(values).first(count)));
    const std::size_t bad = FirstBeyond(values.data(), count, kMaxEncodedMagnitude);
    if (bad < count) return ElementBeyond(first + bad, values[bad], "1e18");
  }
  return Status::Ok();
}

// The first byte, counted over the block, of whose halves one has no element and is not 0.
Status CheckEmptyHalves(const EncodedValues& encoded) {
  const std::uint64_t last = encoded.elements % kScaleBlock;
  const std::byte* const end = encoded.payload.data() + encoded.payload.size();
  const std::uint64_t bytes = std::min(last, kHalfUnit);
  for (std::uint64_t j = last > kHalfUnit ? last - kHalfUnit : 0; j < bytes; ++j) {
    if ((*(end - bytes + j) >> 4) != std::byte{0}) {
      return InvalidArgument("the upper half of the last unit's byte " + std::to_string(j) +
                             " has no element and is not 0");
    }
  }
  return Status::Ok();
}

Status CheckScales(const EncodedValues& encoded) {
  // -128 and -8 are no one's steps, but they are numbers.
  const float levels = encoded.encoding == Encoding::kInt8 ? 128.0F : 8.0F;
  const float limit = kMaxEncodedMagnitude / levels;
  for (std::uint64_t done = 0; done < encoded.elements; done += kScaleBlock) {
    const float scale =
        LoadFloat(encoded.payload.data() + done / kScaleBlock * UnitBytes(encoded.encoding));
    if (scale >= 0.0F && scale <= limit) continue;
    const std::uint64_t last = std::min(done + kScaleBlock, encoded.elements) - 1;
    return OutOfRange(
        "the scale of elements " + std::to_string(encoded.first + done) + " to " +
        std::to_string(encoded.first + last) + " is " +
        (scale < 0.0F && std::isfinite(scale)
             ? "negative"
             : Beyond(scale, encoded.encoding == Encoding::kInt8 ? "1e18 / 128" : "1e18 / 8")));
  }
  return encoded.encoding == Encoding::kInt4 ? CheckEmptyHalves(encoded) : Status::Ok();
}

Status CheckTopK(const EncodedValues& encoded) {
  const TopKView view(encoded.payload);
  std::uint64_t least = encoded.first;
  for (std::size_t i = 0; i < view.size(); ++i) {
    const std::uint64_t index = view.IndexOf(i);
    if (index < least || index >= encoded.first + encoded.elements) {
      return InvalidArgument("index " + std::to_string(index) + ", expected " +
                             std::to_string(least) + " to " +
                             std::to_string(encoded.first + encoded.elements - 1));
    }
    const float value = view.ValueOf(i);
    if (!(std::fabs(value) <= kMaxEncodedMagnitude)) return ElementBeyond(index, value, "1e18");
    least = index + 1;
  }
  return Status::Ok();
}

void EncodeScaled(Encoding encoding, std::span<const float> values, std::uint64_t first,
                  std::uint64_t key, std::byte* bytes) {
  for (std::size_t done = 0; done < values.size(); done += kScaleBlock) {
    const auto count = std::min<std::size_t>(kScaleBlock, values.size() - done);
    const std::uint64_t unit = (first + done) / kScaleBlock;
    const bool int8 = encoding == Encoding::kInt8;
    (int8 ? EncodeInt8Unit : EncodeInt4Unit)(values.data() + done, count, unit, key, bytes);
    bytes += ScaledUnitBytes(encoding, count);
  }
}

}  // namespace

const char* EncodingName(Encoding encoding) {
  switch (encoding) {
    case Encoding::kFloat32:
      return "f32";
    case Encoding::kBfloat16:
      return "bf16";
    case Encoding::kFloat16:
      return "f16";
    case Encoding::kInt8:
      return "int8";
    case Encoding::kInt4:
      return "int4";
    case Encoding::kTopK:
      return "topk";
  }
  return "unknown";
}

std::uint64_t UnitElements(Encoding encoding) {
  return encoding == Encoding::kInt8 || encoding == Encoding::kInt4 ? kScaleBlock : 1;
}

std::uint64_t UnitBytes(Encoding encoding) {
  switch (encoding) {
    case Encoding::kFloat32:
      return 4;
    case Encoding::kBfloat16:
    case Encoding::kFloat16:
      return 2;
    case Encoding::kInt8:
    case Encoding::kInt4:
      return ScaledUnitBytes(encoding, kScaleBlock);
    case Encoding::kTopK:
      break;
  }
  return kTopKUnitBytes;
}

std::uint64_t EncodedBytes(Encoding encoding, std::uint64_t elements, std::uint64_t kept) {
  if (encoding == Encoding::kTopK) return kept * kTopKUnitBytes;
  const std::uint64_t per_unit = UnitElements(encoding);
  const std::uint64_t whole = elements / per_unit * UnitBytes(encoding);
  const std::uint64_t rest = elements % per_unit;
  return whole + (rest > 0 ? ScaledUnitBytes(encoding, rest) : 0);
}

Status EncodeValues(Encoding encoding, std::span<const float> values, std::uint64_t first,
                    std::uint64_t key, std::span<std::byte> payload) {
  FEDMOE_RETURN_IF_ERROR(CheckArguments(encoding, values.size(), first, payload.size()));
  const bool half = encoding == Encoding::kFloat16;
  const std::size_t bad =
      FirstBeyond(values.data(), values.size(), half ? kMaxFloat16 : kMaxEncodedMagnitude);
  if (bad < values.size()) {
    return ElementBeyond(first + bad, values[bad], half ? "float16" : "1e18");
  }
  if (values.empty() || payload.empty()) return Status::Ok();
  switch (encoding) {
    case Encoding::kFloat32:
      std::memcpy(payload.data(), values.data(), payload.size());
      break;
    case Encoding::kBfloat16:
      EncodeBfloat16(values.data(), values.size(), payload.data());
      break;
    case Encoding::kFloat16:
      EncodeFloat16(values.data(), values.size(), payload.data());
      break;
    case Encoding::kInt8:
    case Encoding::kInt4:
      EncodeScaled(encoding, values, first, key, payload.data());
      break;
    case Encoding::kTopK:
      SelectTopK(values.data(), values.size(), payload.size() / kTopKUnitBytes, payload.data());
      break;
  }
  return Status::Ok();
}

void KeepResidual(std::span<const std::byte> payload, std::span<float> values) {
  const TopKView view(payload);
  for (std::size_t i = 0; i < view.size(); ++i) {
    if (view.IndexOf(i) < values.size()) values[view.IndexOf(i)] = 0.0F;
  }
}

Status CheckEncodedLength(const EncodedValues& encoded) {
  if (static_cast<std::uint32_t>(encoded.encoding) >= kEncodings) {
    return InvalidArgument("encoding " +
                           std::to_string(static_cast<std::uint32_t>(encoded.encoding)) +
                           " is not known");
  }
  const bool top_k = encoded.encoding == Encoding::kTopK;
  // A window of top-k may begin anywhere.
  const std::uint64_t within = top_k ? 0 : encoded.first % UnitElements(encoded.encoding);
  if (within != 0) {
    return InvalidArgument("element " + std::to_string(encoded.first) + " is within a unit");
  }
  if (encoded.elements > kMaxEncodedElements ||
      encoded.first > kMaxEncodedElements - encoded.elements) {
    return InvalidArgument(std::to_string(encoded.elements) + " elements from " +
                           std::to_string(encoded.first) + " are beyond the limit of 2^32");
  }
  return CheckArguments(encoded.encoding, encoded.elements, 0, encoded.payload.size());
}

Status CheckEncoded(const EncodedValues& encoded) {
  FEDMOE_RETURN_IF_ERROR(CheckEncodedLength(encoded));
  switch (encoded.encoding) {
    case Encoding::kInt8:
    case Encoding::kInt4:
      return CheckScales(encoded);
    case Encoding::kTopK:
      return CheckTopK(encoded);
    default:
      return CheckDecoded(encoded);
  }
}

Status DecodeValues(const EncodedValues& encoded, std::uint64_t first, std::span<float> out) {
  FEDMOE_RETURN_IF_ERROR(CheckEncodedLength(encoded));
  if (first < encoded.first || first - encoded.first > encoded.elements ||
      out.size() > encoded.elements - (first - encoded.first)) {
    return InvalidArgument("elements " + std::to_string(first) + " to " +
                           std::to_string(first + out.size()) + " are not within " +
                           std::to_string(encoded.first) + " to " +
                           std::to_string(encoded.first + encoded.elements));
  }
  DecodeWithin(encoded, first, out);
  return Status::Ok();
}

}  // namespace fedmoe
