#include "storage/block_codec.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include <gtest/gtest.h>

#include "common/counter_rng.h"
#include "storage/update_format.h"
#include "tests/storage/storage_support.h"

namespace fedmoe {
namespace {

constexpr std::uint64_t kSeed = 20260301;
constexpr Encoding kAll[] = {Encoding::kFloat32, Encoding::kBfloat16, Encoding::kFloat16,
                             Encoding::kInt8,    Encoding::kInt4,     Encoding::kTopK};

// A payload as a file of its own.
class PayloadFile final : public RandomAccessFile {
 public:
  explicit PayloadFile(std::vector<std::byte> bytes) : bytes_(std::move(bytes)) {}
  Result<std::uint64_t> Size() const override { return std::uint64_t{bytes_.size()}; }
  Status ReadAt(std::uint64_t offset, std::span<std::byte> out) const override {
    FEDMOE_ASSIGN_OR_RETURN(const auto region, Map(offset, out.size()));
    std::copy(region->bytes().begin(), region->bytes().end(), out.begin());
    return Status::Ok();
  }
  Result<std::unique_ptr<MappedRegion>> Map(std::uint64_t offset,
                                            std::uint64_t length) const override {
    if (offset > bytes_.size() || length > bytes_.size() - offset) return OutOfRange("map");
    most_mapped_ = std::max(most_mapped_, length);
    return std::unique_ptr<MappedRegion>(
        std::make_unique<Region>(std::span(bytes_).subspan(offset, length)));
  }
  std::uint64_t most_mapped() const { return most_mapped_; }

 private:
  struct Region final : public MappedRegion {
    explicit Region(std::span<const std::byte> bytes) : bytes_(bytes) {}
    std::span<const std::byte> bytes() const override { return bytes_; }
    std::span<const std::byte> bytes_;
  };
  std::vector<std::byte> bytes_;
  mutable std::uint64_t most_mapped_ = 0;
};

UpdateBlock BlockOf(const EncodedBlock& block) {
  return {.encoding = block.encoding,
          .elements = block.elements,
          .payload_bytes = block.payload.size(),
          .compression = block.compression,
          .raw_bytes = block.raw_bytes};
}

// Values that compress: few are not zero.
std::vector<float> SparseValues(CounterRng& rng, std::size_t count) {
  std::vector<float> values(count, 0.0F);
  for (float& value : values) {
    if (rng.NextBelow(8) == 0) value = static_cast<float>(rng.NextNormal());
  }
  return values;
}

std::vector<float> DecodeAll(const EncodedBlock& block) {
  const PayloadFile file(block.payload);
  const UpdateBlock parsed = BlockOf(block);
  PayloadReader reader(file, parsed);
  std::vector<float> out(block.elements);
  const EncodedValues values = reader.Window(0, block.elements).value();
  EXPECT_OK(CheckEncoded(values));
  EXPECT_OK(DecodeValues(values, 0, out));
  return out;
}

TEST(BlockCodec, CompressionChangesNoValue) {
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  CounterRng rng(kSeed);
  for (const std::size_t size : {100, 65'536, 200'000}) {
    const std::vector<float> values = SparseValues(rng, size);
    for (const Encoding encoding : kAll) {
      BlockEncoding options{.encoding = encoding, .kept = size / 10, .key = 5};
      const EncodedBlock plain = EncodeBlock(values, options).value();
      EXPECT_EQ(plain.compression, Compression::kNone);
      EXPECT_EQ(plain.payload.size(), plain.raw_bytes);
      options.zstd = true;
      const EncodedBlock compressed = EncodeBlock(values, options).value();
      EXPECT_EQ(compressed.raw_bytes, plain.raw_bytes);
      if (size > 100) {
        EXPECT_EQ(compressed.compression, Compression::kZstd) << EncodingName(encoding);
        EXPECT_LT(compressed.payload.size(), plain.payload.size());
      }
      EXPECT_EQ(DecodeAll(compressed), DecodeAll(plain)) << EncodingName(encoding);
    }
  }
}

TEST(BlockCodec, WhatDoesNotCompressStaysAsItIs) {
  SCOPED_TRACE("seed " + std::to_string(kSeed + 1));
  CounterRng rng(kSeed + 1);
  std::vector<float> values(100'000);
  // Random bits below the exponent.
  for (float& value : values) {
    value = std::bit_cast<float>((rng.NextU32() & 0x8FFF'FFFF) | 0x3000'0000);
  }
  const EncodedBlock block =
      EncodeBlock(values, {.encoding = Encoding::kBfloat16, .zstd = true}).value();
  EXPECT_LE(block.payload.size(), block.raw_bytes);
  EXPECT_EQ(EncodeBlock(std::vector<float>{1.0F}, {.zstd = true})->compression, Compression::kNone);
}

TEST(BlockCodec, EveryWindowHasTheValuesOfTheWhole) {
  SCOPED_TRACE("seed " + std::to_string(kSeed + 2));
  CounterRng rng(kSeed + 2);
  constexpr std::size_t kSize = 300'000;
  const std::vector<float> values = SparseValues(rng, kSize);
  for (const Encoding encoding : kAll) {
    for (const bool zstd : {false, true}) {
      const EncodedBlock block =
          EncodeBlock(values, {.encoding = encoding, .kept = 20'000, .key = 5, .zstd = zstd})
              .value();
      const std::vector<float> whole = DecodeAll(block);
      const PayloadFile file(block.payload);
      const UpdateBlock parsed = BlockOf(block);
      PayloadReader reader(file, parsed);
      // In ascending order, as the aggregation asks, and in any.
      std::vector<std::size_t> starts{0, 1, 63, 64, 70'000, 131'072, 262'143, 299'999};
      for (int i = 0; i < 6; ++i) starts.push_back(rng.NextBelow(kSize));
      for (const std::size_t first : starts) {
        const std::size_t count = std::min<std::size_t>(1 + rng.NextBelow(40'000), kSize - first);
        std::vector<float> part(count, 7.0F);
        const EncodedValues window = reader.Window(first, count).value();
        ASSERT_OK(DecodeValues(window, first, part));
        ASSERT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + first))
            << EncodingName(encoding) << (zstd ? " zstd" : "") << " from " << first;
        ASSERT_LE(window.payload.size(), EncodedBytes(encoding, count + 128, count));
      }
    }
  }
}

TEST(BlockCodec, SaysWhatItCannotEncode) {
  EXPECT_EQ(EncodeBlock(std::vector<float>{1.0F, std::nanf("")}, {.encoding = Encoding::kInt8})
                .status()
                .ToString(),
            "OUT_OF_RANGE: element 1 is NaN");
  EXPECT_EQ(EncodeBlock(std::vector<float>{1.0F}, {.encoding = Encoding::kTopK, .kept = 2})
                .status()
                .ToString(),
            "INVALID_ARGUMENT: top-k keeps 2 of 1 values");
}

class DamagedChunks : public ::testing::Test {
 protected:
  DamagedChunks() {
    block_ = EncodeBlock(std::vector<float>(100'000, 1.0F), {.zstd = true}).value();
  }

  std::string ReadAll() const {
    const PayloadFile file(block_.payload);
    const UpdateBlock parsed = BlockOf(block_);
    PayloadReader reader(file, parsed);
    return reader.Read(0, block_.raw_bytes).status().ToString();
  }
  void Put(std::size_t at, std::uint32_t value) {
    std::memcpy(block_.payload.data() + at, &value, sizeof(value));
  }
  std::uint32_t At(std::size_t at) const {
    std::uint32_t value;
    std::memcpy(&value, block_.payload.data() + at, sizeof(value));
    return value;
  }

  EncodedBlock block_;  // two chunks: 262,144 and 137,856 bytes
};

TEST_F(DamagedChunks, AreNotReadBeyondTheirRoom) {
  ASSERT_EQ(ReadAll(), "OK");
  // The frames say how long they are: the first as if it were the second's, and the other way.
  const std::uint32_t first = At(0);
  const std::uint32_t second = At(4);
  std::vector<std::byte> swapped(block_.payload.begin(), block_.payload.begin() + 8);
  swapped.insert(swapped.end(), block_.payload.begin() + 8 + first, block_.payload.end());
  swapped.insert(swapped.end(), block_.payload.begin() + 8, block_.payload.begin() + 8 + first);
  block_.payload = swapped;
  Put(0, second);
  Put(4, first);
  EXPECT_EQ(ReadAll(), "INVALID_ARGUMENT: chunk 0 decompresses to 137856 bytes, not to 262144");
}

TEST_F(DamagedChunks, WithAWrongTableAreRefused) {
  const std::uint32_t first = At(0);
  Put(0, 0);
  EXPECT_EQ(ReadAll(), "INVALID_ARGUMENT: chunk 0 has 0 bytes, expected 1 to 262144");
  Put(0, 262'145);
  EXPECT_EQ(ReadAll(), "INVALID_ARGUMENT: chunk 0 has 262145 bytes, expected 1 to 262144");
  Put(0, first + 1);
  const std::size_t size = block_.payload.size();
  EXPECT_EQ(ReadAll(), "INVALID_ARGUMENT: the chunks end at byte " + std::to_string(size + 1) +
                           " of " + std::to_string(size));
  block_.payload.resize(7);
  EXPECT_EQ(ReadAll(),
            "INVALID_ARGUMENT: a payload of 7 bytes has no room for the table of 2 chunks");
}

TEST_F(DamagedChunks, WithAnyBytesAreRefusedOrReadWithinBounds) {
  SCOPED_TRACE("seed " + std::to_string(kSeed + 3));
  CounterRng rng(kSeed + 3);
  const EncodedBlock whole = block_;
  int refused = 0;
  for (int trial = 0; trial < 500; ++trial) {
    block_ = whole;
    const std::size_t at = 8 + rng.NextBelow(block_.payload.size() - 8);
    block_.payload[at] ^= static_cast<std::byte>(1 + rng.NextBelow(255));
    refused += ReadAll() == "OK" ? 0 : 1;
  }
  EXPECT_GT(refused, 0);
}

// A whole update as the coordinator reads it.
TEST(CompressedUpdate, IsVerifiedLikeAnyOther) {
  SCOPED_TRACE("seed " + std::to_string(kSeed + 4));
  CounterRng rng(kSeed + 4);
  const std::vector<float> values = SparseValues(rng, 300'000);
  for (const Encoding encoding : kAll) {
    EncodedBlock block =
        EncodeBlock(values, {.encoding = encoding, .kept = 200'000, .key = 5, .zstd = true})
            .value();
    const auto verdict = [&] {
      std::vector<std::byte> bytes;
      const std::vector<OutgoingBlock> blocks{{.parameter = 0, .encoded = &block}};
      EXPECT_OK(EncodeUpdate(7, blocks, [&](std::span<const std::byte> piece) {
        bytes.insert(bytes.end(), piece.begin(), piece.end());
        return Status::Ok();
      }));
      EXPECT_EQ(bytes.size(), EncodedUpdateBytes(blocks));
      const PayloadFile file(std::move(bytes));
      const ParsedUpdate update = ParseUpdate(file, 7, 10).value();
      EXPECT_EQ(update.verdict.detail, "");
      const Verdict judged = VerifyPayloads(file, update.blocks, SmallSpec()).value();
      EXPECT_LE(file.most_mapped(), std::uint64_t{1} << 20);
      return std::string(RejectReasonName(judged.reason)) + ": " + judged.detail;
    };
    EXPECT_EQ(verdict(), "none: ") << EncodingName(encoding);
    std::uint32_t size;
    std::memcpy(&size, block.payload.data(), sizeof(size));
    ++size;
    std::memcpy(block.payload.data(), &size, sizeof(size));
    EXPECT_TRUE(verdict().starts_with("malformed: trunk.weight: ")) << verdict();
  }
}

// Past the first piece: positions are those of the block.
TEST(EncodedUpdate, NamesTheElementThatIsNotFinite) {
  const std::vector<float> values(3'000'000, 1.0F);
  const auto judged = [&](const EncodedBlock& block) {
    std::vector<std::byte> bytes;
    EXPECT_OK(EncodeUpdate(7, std::vector<OutgoingBlock>{{.parameter = 0, .encoded = &block}},
                           [&](std::span<const std::byte> piece) {
                             bytes.insert(bytes.end(), piece.begin(), piece.end());
                             return Status::Ok();
                           }));
    const PayloadFile file(std::move(bytes));
    const ParsedUpdate update = ParseUpdate(file, 7, 10).value();
    return VerifyPayloads(file, update.blocks, SmallSpec()).value().detail;
  };
  EncodedBlock int8 = EncodeBlock(values, {.encoding = Encoding::kInt8}).value();
  const float negative = -1.0F;
  std::memcpy(int8.payload.data() + 40'000 * 68, &negative, sizeof(negative));
  EXPECT_EQ(judged(int8), "trunk.weight: the scale of elements 2560000 to 2560063 is negative");
  EncodedBlock top = EncodeBlock(values, {.encoding = Encoding::kTopK, .kept = 2'000'000}).value();
  const std::uint32_t index = 1'234'566;
  std::memcpy(top.payload.data() + 8 * 1'234'567, &index, sizeof(index));
  EXPECT_EQ(judged(top), "trunk.weight: index 1234566, expected 1234567 to 2999999");
}

}  // namespace
}  // namespace fedmoe
