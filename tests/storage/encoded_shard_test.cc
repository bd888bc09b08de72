// Shards as they travel: encoded, decoded, checked.
#include "storage/encoded_shard.h"

#include <cmath>
#include <sstream>

#include <gtest/gtest.h>

#include "common/counter_rng.h"
#include "storage/small_file.h"
#include "tests/storage/storage_support.h"

namespace fedmoe {
namespace {

constexpr std::int64_t kLarge = 300'000;  // of more than one part
constexpr DownloadOptions kAll[] = {{.encoding = Encoding::kFloat32, .zstd = true},
                                    {.encoding = Encoding::kBfloat16},
                                    {.encoding = Encoding::kFloat16},
                                    {.encoding = Encoding::kInt8},
                                    {.encoding = Encoding::kInt8, .zstd = true},
                                    {.encoding = Encoding::kInt4}};

class EncodedShard : public ::testing::Test {
 protected:
  EncodedShard() {
    spec_.blocks.push_back({.name = "trunk.large", .shape = {kLarge}});
    CounterRng rng(7);
    for (std::int64_t i = 0; i < spec_.ShardElements(kTrunkShard); ++i) {
      values_.push_back(static_cast<float>(0.1 * rng.NextNormal()));
    }
  }
  ShardReference Reference(const DownloadOptions& download) const {
    return {.shard = kTrunkShard,
            .digest = Sha256Of(std::as_bytes(std::span(values_))),
            .bytes = DownloadBytes(spec_, kTrunkShard, download),
            .encoding = download.encoding,
            .zstd = download.zstd};
  }
  Status Encode(const ShardReference& shard, std::string& bytes) const {
    return EncodeShard(
        shard, spec_,
        [this](std::uint64_t offset, std::span<std::byte> out) {
          const auto from = std::as_bytes(std::span(values_)).subspan(offset, out.size());
          std::copy(from.begin(), from.end(), out.begin());
          return Status::Ok();
        },
        [&bytes](std::span<const std::byte> piece) {
          EXPECT_LE(piece.size(), std::size_t{1} << 20);
          bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
          return Status::Ok();
        });
  }
  std::string Encoded(const ShardReference& shard) const {
    std::string bytes;
    EXPECT_OK(Encode(shard, bytes));
    return bytes;
  }
  Status Decode(const std::string& bytes, const ShardReference& shard, std::vector<float>& out) {
    const auto view = AsBytes(std::string_view(bytes));
    const auto content = std::make_shared<const std::vector<std::byte>>(view.begin(), view.end());
    out.assign(static_cast<std::size_t>(spec_.ShardElements(shard.shard)), 0.0f);
    return DecodeShard(*FileOf(content), shard, spec_, out);
  }
  std::string Fault(const std::string& bytes, const ShardReference& shard) {
    std::vector<float> out;
    return Decode(bytes, shard, out).message();
  }

  ModelSpec spec_ = SmallSpec();
  std::vector<float> values_;
};

TEST_F(EncodedShard, HasTheBytesThatItsReferenceSaysOrWithZstdFewer) {
  for (const DownloadOptions& download : kAll) {
    SCOPED_TRACE(ShardKey(Reference(download)));
    const ShardReference shard = Reference(download);
    const auto size = static_cast<std::int64_t>(Encoded(shard).size());
    if (download.zstd) {
      EXPECT_LT(size, shard.bytes);
    } else {
      EXPECT_EQ(size, shard.bytes);
    }
  }
}

TEST_F(EncodedShard, IsTheSameBytesEachTime) {
  for (const DownloadOptions& download : kAll) {
    EXPECT_EQ(Encoded(Reference(download)), Encoded(Reference(download)));
  }
}

// To half a step of the floats; to one step of a unit's greatest magnitude where rounding is
// stochastic.
TEST_F(EncodedShard, DecodesToWhatItsEncodingHoldsOfTheValues) {
  for (const DownloadOptions& download : kAll) {
    const ShardReference shard = Reference(download);
    SCOPED_TRACE(ShardKey(shard));
    std::vector<float> decoded;
    ASSERT_OK(Decode(Encoded(shard), shard, decoded));
    double error = 0.0;
    double bias = 0.0;
    for (std::size_t i = 0; i < values_.size(); ++i) {
      const double off = static_cast<double>(decoded[i]) - static_cast<double>(values_[i]);
      error = std::max(error, std::abs(off));
      bias += off / static_cast<double>(values_.size());
    }
    switch (download.encoding) {
      case Encoding::kFloat32:
        EXPECT_EQ(decoded, values_);
        break;
      case Encoding::kBfloat16:
        EXPECT_LT(error, 0.6 / 256.0);
        break;
      case Encoding::kFloat16:
        EXPECT_LT(error, 0.6 / 2048.0);
        break;
      case Encoding::kInt8:
        EXPECT_LT(error, 0.6 / 127.0);
        break;
      default:
        EXPECT_LT(error, 0.6 / 7.0);
        break;
    }
    EXPECT_LT(std::abs(bias), 1e-3 * 0.1) << "of a standard deviation";
  }
}

TEST_F(EncodedShard, OtherValuesAndOtherPartsAreRoundedByOtherDraws) {
  values_.assign(values_.size(), 0.3f);
  for (std::size_t i = 0; i < values_.size(); i += kScaleBlock) values_[i] = 1.0f;
  const ShardReference shard = Reference({.encoding = Encoding::kInt4});
  std::vector<float> decoded;
  ASSERT_OK(Decode(Encoded(shard), shard, decoded));
  const std::size_t start = 6;  // of trunk.large, behind the weight
  const auto first = std::span(decoded).subspan(start + 2, 1024);
  const auto second = std::span(decoded).subspan(start + 2 + kEncodedPartElements, 1024);
  EXPECT_FALSE(std::equal(first.begin(), first.end(), second.begin()));

  values_.back() += 1.0f;
  const ShardReference other = Reference({.encoding = Encoding::kInt4});
  std::vector<float> again;
  ASSERT_OK(Decode(Encoded(other), other, again));
  EXPECT_FALSE(std::equal(decoded.begin(), decoded.begin() + 4096, again.begin()));
}

TEST_F(EncodedShard, AnotherShardOrAnotherEncodingIsNotTakenForIt) {
  const ShardReference shard = Reference({.encoding = Encoding::kInt8});
  const std::string bytes = Encoded(shard);
  ShardReference other = shard;
  other.digest = std::string(64, 'a');
  EXPECT_EQ(Fault(bytes, other), "the encoded shard trunk is damaged: is another shard");
  other = shard;
  other.zstd = true;
  EXPECT_EQ(Fault(bytes, other), "the encoded shard trunk is damaged: is encoded otherwise");
  other = shard;
  other.encoding = Encoding::kTopK;
  EXPECT_EQ(Fault(bytes, other),
            "shards are encoded as f32, bf16, f16, int8 or int4, not as encoding 5");
  other = shard;
  other.shard = 9;
  EXPECT_EQ(Fault(bytes, other), "no shard 9");
}

TEST_F(EncodedShard, NoDamagedByteGoesUnnoticed) {
  spec_ = SmallSpec();
  values_.resize(8);
  for (const DownloadOptions& download : kAll) {
    const ShardReference shard = Reference(download);
    SCOPED_TRACE(ShardKey(shard));
    const std::string bytes = Encoded(shard);
    ASSERT_EQ(Fault(bytes, shard), "");
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      std::string damaged = bytes;
      damaged[i] = static_cast<char>(damaged[i] ^ 0x10);
      std::vector<float> out;
      EXPECT_EQ(Decode(damaged, shard, out).code(), StatusCode::kDataLoss) << "byte " << i;
    }
  }
}

TEST_F(EncodedShard, ACutOrPaddedFileIsNamed) {
  const ShardReference shard = Reference({.encoding = Encoding::kInt8});
  const std::string bytes = Encoded(shard);
  EXPECT_EQ(Fault(bytes.substr(0, 10), shard),
            "the encoded shard trunk is damaged: is 10 bytes, under the 64 bytes of a frame");
  EXPECT_EQ(Fault(bytes.substr(0, 100), shard),
            "the encoded shard trunk is damaged: block 0: the shard ends before its header");
  EXPECT_EQ(Fault(bytes + std::string(64, '\0'), shard),
            "the encoded shard trunk is damaged: 64 bytes follow the last of 4 blocks");
}

TEST_F(EncodedShard, AValueThatDoesNotFitNamesItsBlockAndTheWayOut) {
  values_[3] = 1e6f;
  std::string bytes;
  const Status status = Encode(Reference({.encoding = Encoding::kFloat16}), bytes);
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(),
            "block 'trunk.weight' from element 0 does not fit f16: element 3 is 1e+06, beyond "
            "float16; transfer.down.encoding f32 holds every value");
}

// The worked example of docs/update_format.md.
TEST_F(EncodedShard, TheExampleOfTheFormatsPageIsWhatIsWritten) {
  spec_ = SmallSpec();
  values_ = {127.0f, -64.0f, 0.0f, 1.0f, 2.0f, 3.0f, 0.5f, -0.5f};
  std::ostringstream lines;
  const std::string bytes = Encoded(Reference({.encoding = Encoding::kBfloat16}));
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    char text[32];
    if (i % 16 == 0) {
      std::snprintf(text, sizeof(text), "%s%04zx ", i > 0 ? "\n" : "", i);
      lines << text;
    }
    std::snprintf(text, sizeof(text), " %02x", static_cast<unsigned>(bytes[i]) & 0xffU);
    lines << text;
  }
  lines << "\n";
  EXPECT_EQ(ReadAll(FEDMOE_SOURCE_DIR "/tests/golden/encoded_shard.hex"), lines.str());
  EXPECT_NE(ReadAll(FEDMOE_SOURCE_DIR "/docs/update_format.md").find(lines.str()),
            std::string::npos)
      << lines.str();
}

}  // namespace
}  // namespace fedmoe
