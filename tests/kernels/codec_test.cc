#include "kernels/codec.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "common/counter_rng.h"
#include "kernels/codec_draws.h"
#include "kernels/codec_reference.h"

namespace fedmoe {
namespace {

constexpr std::uint64_t kSeed = 20260201;
constexpr Encoding kAll[] = {Encoding::kFloat32, Encoding::kBfloat16, Encoding::kFloat16,
                             Encoding::kInt8,    Encoding::kInt4,     Encoding::kTopK};
constexpr Encoding kDense[] = {Encoding::kFloat32, Encoding::kBfloat16, Encoding::kFloat16,
                               Encoding::kInt8, Encoding::kInt4};
constexpr std::size_t kSizes[] = {1, 2, 7, 31, 32, 33, 63, 64, 65, 96, 127, 128, 129, 640, 1000};
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// Normal values over some orders of magnitude, with zeros, ties and signs.
std::vector<float> RandomValues(CounterRng& rng, std::size_t count) {
  std::vector<float> values(count);
  for (float& value : values) {
    value = static_cast<float>(rng.NextNormal() * std::pow(10.0, rng.NextUniform() * 8.0 - 7.0));
    const std::uint64_t kind = rng.NextBelow(10);
    if (kind == 0) value = 0.0F;
    if (kind == 1) value = -0.5F;
    if (kind == 2) value = 0.5F;
  }
  return values;
}

std::vector<std::byte> Encode(Encoding encoding, const std::vector<float>& values,
                              std::uint64_t kept, std::uint64_t key) {
  std::vector<std::byte> payload(EncodedBytes(encoding, values.size(), kept), std::byte{0xAB});
  const Status status = EncodeValues(encoding, values, 0, key, payload);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return payload;
}

std::vector<float> Decode(const EncodedValues& encoded) {
  std::vector<float> out(encoded.elements, kNan);
  const Status status = DecodeValues(encoded, encoded.first, out);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return out;
}

std::vector<std::uint32_t> Bits(std::span<const float> values) {
  std::vector<std::uint32_t> bits;
  for (const float value : values) bits.push_back(std::bit_cast<std::uint32_t>(value));
  return bits;
}

template <typename T>
void Put(std::vector<std::byte>& payload, std::size_t at, T value) {
  std::memcpy(payload.data() + at, &value, sizeof(value));
}

TEST(Codec, LengthsAreThoseOfTheFormat) {
  EXPECT_EQ(EncodedBytes(Encoding::kFloat32, 100), 400U);
  EXPECT_EQ(EncodedBytes(Encoding::kBfloat16, 100), 200U);
  EXPECT_EQ(EncodedBytes(Encoding::kFloat16, 100), 200U);
  EXPECT_EQ(EncodedBytes(Encoding::kInt8, 64), 68U);
  EXPECT_EQ(EncodedBytes(Encoding::kInt8, 100), 68U + 4 + 36);
  EXPECT_EQ(EncodedBytes(Encoding::kInt4, 64), 36U);
  EXPECT_EQ(EncodedBytes(Encoding::kInt4, 70), 36U + 4 + 6);
  EXPECT_EQ(EncodedBytes(Encoding::kInt4, 100), 36U + 4 + 32);
  EXPECT_EQ(EncodedBytes(Encoding::kTopK, 100, 5), 40U);
  EXPECT_EQ(EncodedBytes(Encoding::kInt8, 0), 0U);
}

TEST(Codec, EncodesAndDecodesAsTheReferenceDoesBitForBit) {
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  CounterRng rng(kSeed);
  for (const Encoding encoding : kAll) {
    for (const std::size_t size : kSizes) {
      const std::vector<float> values = RandomValues(rng, size);
      const std::uint64_t key = rng.NextU64();
      const std::uint64_t kept = 1 + rng.NextBelow(size);
      const std::vector<std::byte> fast = Encode(encoding, values, kept, key);
      std::vector<std::byte> reference(fast.size());
      EncodeValuesReference(encoding, values, 0, key, reference);
      ASSERT_EQ(fast, reference) << EncodingName(encoding) << " of " << size;
      const EncodedValues encoded{encoding, 0, size, fast};
      ASSERT_TRUE(CheckEncoded(encoded).ok()) << CheckEncoded(encoded).ToString();
      std::vector<float> decoded(size);
      DecodeValuesReference(encoded, 0, decoded);
      ASSERT_EQ(Bits(Decode(encoded)), Bits(decoded)) << EncodingName(encoding) << " of " << size;
    }
  }
}

TEST(Codec, EveryPartOfAPayloadDecodesToTheSameValues) {
  SCOPED_TRACE("seed " + std::to_string(kSeed + 1));
  CounterRng rng(kSeed + 1);
  constexpr std::size_t kSize = 300;
  for (const Encoding encoding : kAll) {
    const std::vector<float> values = RandomValues(rng, kSize);
    const std::vector<std::byte> payload = Encode(encoding, values, 37, 9);
    const EncodedValues encoded{encoding, 0, kSize, payload};
    const std::vector<std::uint32_t> whole = Bits(Decode(encoded));
    for (int trial = 0; trial < 200; ++trial) {
      const std::size_t first = rng.NextBelow(kSize);
      const std::size_t count = rng.NextBelow(kSize - first + 1);
      std::vector<float> part(count, kNan);
      ASSERT_TRUE(DecodeValues(encoded, first, part).ok());
      ASSERT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + first,
                             [](float value, std::uint32_t bits) {
                               return std::bit_cast<std::uint32_t>(value) == bits;
                             }))
          << EncodingName(encoding) << " from " << first << ", " << count;
    }
  }
}

TEST(Codec, PiecesOfABlockEncodeToTheSamePayload) {
  SCOPED_TRACE("seed " + std::to_string(kSeed + 2));
  CounterRng rng(kSeed + 2);
  const std::vector<float> values = RandomValues(rng, 64 * 9 + 17);
  for (const Encoding encoding : kDense) {
    const std::vector<std::byte> whole = Encode(encoding, values, 0, 77);
    for (const std::size_t piece : {64, 128, 320}) {
      std::vector<std::byte> pieces;
      for (std::size_t first = 0; first < values.size(); first += piece) {
        const auto part = std::span(values).subspan(first, std::min(piece, values.size() - first));
        std::vector<std::byte> payload(EncodedBytes(encoding, part.size()));
        ASSERT_TRUE(EncodeValues(encoding, part, first, 77, payload).ok());
        pieces.insert(pieces.end(), payload.begin(), payload.end());
      }
      ASSERT_EQ(pieces, whole) << EncodingName(encoding) << " in pieces of " << piece;
    }
  }
}

TEST(Codec, HalfFloatsRoundToNearestAndTiesToEven) {
  const std::vector<float> values{1.0F,         -2.0F, 65504.0F, 65519.0F,
                                  0x1.002p0F,     // a tie: down to 1
                                  0x1.006p0F,     // a tie: up to 0x1.008
                                  0x1.0p-24F,     // its smallest number
                                  0x1.0p-25F,     // a tie: down to 0
                                  0x1.8p-25F,     // up
                                  0x1.FF9p-15F,   // down to the greatest subnormal
                                  0x1.FFCp-15F};  // a tie: up to the smallest normal
  EXPECT_EQ(
      Decode({Encoding::kFloat16, 0, values.size(), Encode(Encoding::kFloat16, values, 0, 0)}),
      (std::vector<float>{1.0F, -2.0F, 65504.0F, 65504.0F, 1.0F, 0x1.008p0F, 0x1.0p-24F, 0.0F,
                          0x1.0p-24F, 0x1.FF8p-15F, 0x1.0p-14F}));
  const std::vector<float> wide{0x1.01p0F, 0x1.03p0F, 1e18F, -0x1.0p-149F};
  EXPECT_EQ(Decode({Encoding::kBfloat16, 0, wide.size(), Encode(Encoding::kBfloat16, wide, 0, 0)}),
            (std::vector<float>{1.0F, 0x1.04p0F, 0x1.BCp59F, -0.0F}));
}

TEST(Codec, EveryFloat16AndBfloat16SurvivesARoundTrip) {
  for (const Encoding encoding : {Encoding::kFloat16, Encoding::kBfloat16}) {
    std::vector<std::byte> payload;
    std::vector<float> values;
    for (std::uint32_t bits = 0; bits <= 0xFFFF; ++bits) {
      std::vector<std::byte> unit(2);
      Put(unit, 0, static_cast<std::uint16_t>(bits));
      float fast = 0.0F;
      float reference = 0.0F;
      ASSERT_TRUE(DecodeValues({encoding, 0, 1, unit}, 0, std::span(&fast, 1)).ok());
      DecodeValuesReference({encoding, 0, 1, unit}, 0, std::span(&reference, 1));
      if (std::isnan(reference)) {
        ASSERT_TRUE(std::isnan(fast)) << bits;
        continue;
      }
      ASSERT_EQ(std::bit_cast<std::uint32_t>(fast), std::bit_cast<std::uint32_t>(reference))
          << bits;
      if (!(std::fabs(fast) <= kMaxEncodedMagnitude)) continue;
      payload.insert(payload.end(), unit.begin(), unit.end());
      values.push_back(fast);
    }
    ASSERT_GT(values.size(), 45'000U);
    ASSERT_EQ(Encode(encoding, values, 0, 0), payload) << EncodingName(encoding);
  }
}

// The mean of many encodings under different keys is the value itself: its standard error bounds
// the distance.
TEST(Codec, StochasticRoundingHasNoBias) {
  SCOPED_TRACE("seed " + std::to_string(kSeed + 3));
  CounterRng rng(kSeed + 3);
  std::vector<float> values(70);
  for (float& value : values) value = static_cast<float>(rng.NextNormal());
  constexpr int kKeys = 4000;
  for (const Encoding encoding : {Encoding::kInt8, Encoding::kInt4}) {
    const int levels = encoding == Encoding::kInt8 ? 127 : 7;
    std::vector<double> sums(values.size(), 0.0);
    for (std::uint64_t key = 0; key < kKeys; ++key) {
      const std::vector<float> decoded =
          Decode({encoding, 0, values.size(), Encode(encoding, values, 0, MixKey({key}))});
      for (std::size_t i = 0; i < values.size(); ++i) {
        sums[i] += static_cast<double>(decoded[i]);
        const std::size_t unit = i / 64 * 64;
        const auto end = values.begin() + std::min<std::ptrdiff_t>(unit + 64, 70);
        float greatest = 0.0F;
        for (auto value = values.begin() + unit; value != end; ++value) {
          greatest = std::max(greatest, std::fabs(*value));
        }
        const float step = greatest / static_cast<float>(levels);
        ASSERT_LE(std::fabs(decoded[i] - values[i]), step * 1.0001F);
        // Five standard errors; a step's rounding has a variance of at most a quarter.
        if (key + 1 == kKeys) {
          ASSERT_NEAR(sums[i] / kKeys, values[i], 5.0 * 0.5 * step / std::sqrt(kKeys)) << i;
        }
      }
    }
  }
}

TEST(Codec, DrawsAreThoseOfThePhiloxGenerator) {
  std::array<std::uint32_t, 64> draws;
  const std::uint64_t key = 0x0123'4567'89AB'CDEF;
  for (const std::uint64_t unit : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1} << 28}) {
    UnitDraws(key, unit, draws);
    for (std::uint64_t j = 0; j < 64; ++j) {
      ASSERT_EQ(draws[j], DrawReference(key, unit * 64 + j)) << unit << " " << j;
    }
  }
  EXPECT_EQ(DrawReference(key, 17), Philox4x32({1, 0, 0, 0}, {0x89AB'CDEF, 0x0123'4567})[1]);
}

TEST(Codec, AnotherKeyGivesAnotherRounding) {
  const std::vector<float> values{1.0F, 0.3333F, 0.2222F, 0.1111F, 0.7F, 0.123F, 0.456F, 0.789F};
  std::vector<float> many;
  for (int i = 0; i < 8; ++i) many.insert(many.end(), values.begin(), values.end());
  EXPECT_NE(Encode(Encoding::kInt8, many, 0, 1), Encode(Encoding::kInt8, many, 0, 2));
  EXPECT_EQ(Encode(Encoding::kInt8, many, 0, 1), Encode(Encoding::kInt8, many, 0, 1));
}

TEST(Codec, UnitsTooSmallForAScaleAreZeros) {
  std::vector<float> values(64, 0x1.0p-101F);
  values[3] = -std::numeric_limits<float>::denorm_min();
  for (const Encoding encoding : {Encoding::kInt8, Encoding::kInt4}) {
    const std::vector<std::byte> payload = Encode(encoding, values, 0, 1);
    EXPECT_EQ(payload, std::vector<std::byte>(payload.size(), std::byte{0}));
  }
}

TEST(Codec, TopKSendsTheGreatestAndKeepsTheRest) {
  std::vector<float> values{0.5F, -3.0F, 2.0F, -2.0F, 2.0F, 0.0F, 1e-3F};
  const std::vector<std::byte> payload = Encode(Encoding::kTopK, values, 3, 0);
  EXPECT_EQ(Decode({Encoding::kTopK, 0, values.size(), payload}),
            (std::vector<float>{0.0F, -3.0F, 2.0F, -2.0F, 0.0F, 0.0F, 0.0F}))
      << "of equal magnitudes the lower indices go";
  KeepResidual(payload, values);
  EXPECT_EQ(values, (std::vector<float>{0.5F, 0.0F, 0.0F, 0.0F, 2.0F, 0.0F, 1e-3F}));
}

TEST(Codec, ErrorFeedbackSendsEverythingInTheEnd) {
  std::vector<float> residual{1.0F, 2.0F, 3.0F, 4.0F, 5.0F};
  std::vector<float> sum(5, 0.0F);
  for (int round = 0; round < 3; ++round) {
    const std::vector<std::byte> payload = Encode(Encoding::kTopK, residual, 2, 0);
    const std::vector<float> sent = Decode({Encoding::kTopK, 0, 5, payload});
    for (std::size_t i = 0; i < 5; ++i) sum[i] += sent[i];
    KeepResidual(payload, residual);
  }
  EXPECT_EQ(sum, (std::vector<float>{1.0F, 2.0F, 3.0F, 4.0F, 5.0F}));
  EXPECT_EQ(residual, std::vector<float>(5, 0.0F));
}

TEST(Codec, RefusesToEncodeWhatIsNotFiniteOrTooGreat) {
  for (const Encoding encoding : kAll) {
    for (const auto& [bad, text] : std::vector<std::pair<float, std::string>>{
             {kNan, "NaN"}, {kInf, "Inf"}, {-kInf, "Inf"}, {3e38F, "3e+38, beyond "}}) {
      std::vector<float> values(5000, 1.0F);
      values[4321] = bad;
      std::vector<std::byte> payload(EncodedBytes(encoding, values.size(), 10));
      const Status status = EncodeValues(encoding, values, 0, 1, payload);
      std::string expected = "element 4321 is " + text;
      if (text.ends_with(' ')) expected += encoding == Encoding::kFloat16 ? "float16" : "1e18";
      ASSERT_EQ(status.code(), StatusCode::kOutOfRange);
      ASSERT_EQ(status.message(), expected) << EncodingName(encoding);
    }
  }
  std::vector<std::byte> payload(2);
  EXPECT_EQ(EncodeValues(Encoding::kFloat16, std::vector<float>{65520.0F}, 0, 1, payload).message(),
            "element 0 is 65520, beyond float16");
}

TEST(Codec, RefusesLengthsThatDoNotFit) {
  const std::vector<float> values(70, 1.0F);
  std::vector<std::byte> payload(71);
  EXPECT_EQ(EncodeValues(Encoding::kInt8, values, 0, 1, payload).message(),
            "payload of 71 bytes, 70 int8 elements have 78");
  EXPECT_EQ(EncodeValues(Encoding::kInt8, values, 3, 1, payload).message(),
            "a piece of int8 must not begin at element 3");
  EXPECT_EQ(EncodeValues(Encoding::kTopK, values, 0, 1, payload).message(),
            "payload of 71 bytes, top-k of 70 elements has 8 for each that is kept");
  std::vector<float> out(70);
  EXPECT_EQ(DecodeValues({Encoding::kInt8, 0, 70, payload}, 0, out).message(),
            "payload of 71 bytes, 70 int8 elements have 78");
  EXPECT_EQ(DecodeValues({Encoding::kInt8, 7, 0, {}}, 7, {}).message(),
            "element 7 is within a unit");
  EXPECT_EQ(DecodeValues({static_cast<Encoding>(6), 0, 0, {}}, 0, {}).message(),
            "encoding 6 is not known");
  EXPECT_EQ(DecodeValues({Encoding::kInt8, 64, (std::uint64_t{1} << 32), {}}, 64, {}).message(),
            "4294967296 elements from 64 are beyond the limit of 2^32");
  payload.resize(4 * 10);
  EXPECT_EQ(
      DecodeValues({Encoding::kFloat32, 5, 10, payload}, 6, std::span(out).first(10)).message(),
      "elements 6 to 16 are not within 5 to 15");
}

TEST(CheckEncoded, FindsABadValueInEveryEncoding) {
  const std::vector<float> values(200, 1.0F);
  for (const Encoding encoding : {Encoding::kFloat32, Encoding::kBfloat16, Encoding::kFloat16}) {
    std::vector<std::byte> payload = Encode(encoding, values, 0, 1);
    EXPECT_TRUE(CheckEncoded({encoding, 0, 200, payload}).ok());
    const std::size_t unit = UnitBytes(encoding);
    std::fill_n(payload.begin() + 77 * unit, unit, std::byte{0xFF});
    EXPECT_EQ(CheckEncoded({encoding, 0, 200, payload}).message(), "element 77 is NaN");
  }
  std::vector<std::byte> payload = Encode(Encoding::kFloat32, values, 0, 1);
  Put(payload, 4 * 199, -2e18F);
  const Status beyond = CheckEncoded({Encoding::kFloat32, 0, 200, payload});
  EXPECT_EQ(beyond.message(), "element 199 is -2e+18, beyond 1e18");
  EXPECT_EQ(beyond.code(), StatusCode::kOutOfRange);
}

TEST(CheckEncoded, FindsABadScale) {
  const std::vector<float> values(100, 1.0F);
  for (const Encoding encoding : {Encoding::kInt8, Encoding::kInt4}) {
    std::vector<std::byte> payload = Encode(encoding, values, 0, 1);
    const auto message = [&](float scale) {
      Put(payload, UnitBytes(encoding), scale);
      return CheckEncoded({encoding, 0, 100, payload}).message();
    };
    EXPECT_EQ(message(0.0F), "");
    EXPECT_EQ(message(kNan), "the scale of elements 64 to 99 is NaN");
    EXPECT_EQ(message(kInf), "the scale of elements 64 to 99 is Inf");
    EXPECT_EQ(message(-1.0F), "the scale of elements 64 to 99 is negative");
    EXPECT_EQ(message(1e18F), encoding == Encoding::kInt8
                                  ? "the scale of elements 64 to 99 is 1e+18, beyond 1e18 / 128"
                                  : "the scale of elements 64 to 99 is 1e+18, beyond 1e18 / 8");
  }
}

TEST(CheckEncoded, AsksForZerosWhereInt4HasNoElement) {
  for (const std::size_t size : {1, 5, 32, 33, 40, 63, 65, 100}) {
    std::vector<std::byte> payload = Encode(Encoding::kInt4, std::vector<float>(size, 1.0F), 0, 1);
    const EncodedValues encoded{Encoding::kInt4, 0, size, payload};
    ASSERT_TRUE(CheckEncoded(encoded).ok());
    payload.back() |= std::byte{0x30};
    const std::size_t last = size % 64;
    const std::size_t byte = std::min<std::size_t>(last, 32) - 1;
    ASSERT_EQ(CheckEncoded(encoded).message(), "the upper half of the last unit's byte " +
                                                   std::to_string(byte) +
                                                   " has no element and is not 0")
        << size;
  }
}

TEST(CheckEncoded, WantsAscendingIndicesWithinTheBlock) {
  std::vector<std::byte> payload(24);
  const auto message = [&](std::uint32_t a, std::uint32_t b, std::uint32_t c, float value) {
    Put(payload, 0, a);
    Put(payload, 8, b);
    Put(payload, 16, c);
    Put(payload, 20, value);
    return CheckEncoded({Encoding::kTopK, 0, 10, payload}).message();
  };
  EXPECT_EQ(message(0, 5, 9, 1.0F), "");
  EXPECT_EQ(message(0, 5, 5, 1.0F), "index 5, expected 6 to 9");
  EXPECT_EQ(message(6, 5, 9, 1.0F), "index 5, expected 7 to 9");
  EXPECT_EQ(message(0, 5, 10, 1.0F), "index 10, expected 6 to 9");
  EXPECT_EQ(message(0, 5, 9, kInf), "element 9 is Inf");
  const Status outside = CheckEncoded({Encoding::kTopK, 6, 4, payload});
  EXPECT_EQ(outside.message(), "index 0, expected 6 to 9");
  EXPECT_EQ(outside.code(), StatusCode::kInvalidArgument);
}

// What a checker would refuse must still not be read or written out of bounds.
TEST(Codec, DecodesAnyBytesWithinBounds) {
  SCOPED_TRACE("seed " + std::to_string(kSeed + 4));
  CounterRng rng(kSeed + 4);
  for (int trial = 0; trial < 300; ++trial) {
    for (const Encoding encoding : kAll) {
      const std::size_t size = 1 + rng.NextBelow(200);
      std::vector<std::byte> payload(EncodedBytes(encoding, size, rng.NextBelow(size + 1)));
      for (std::byte& byte : payload) byte = static_cast<std::byte>(rng.NextU32());
      const std::size_t first = rng.NextBelow(size);
      std::vector<float> out(rng.NextBelow(size - first + 1));
      ASSERT_TRUE(DecodeValues({encoding, 0, size, payload}, first, out).ok());
    }
  }
}

}  // namespace
}  // namespace fedmoe
