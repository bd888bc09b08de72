#include "storage/update_format.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>

#include <gtest/gtest.h>

#include "common/checksum.h"
#include "tests/storage/storage_support.h"

namespace fedmoe {
namespace {

constexpr std::uint64_t kMaxBlocks = 100;

std::string Encoded(TaskId task, const std::vector<OutgoingBlock>& blocks) {
  std::string bytes;
  const Status status = EncodeUpdate(task, blocks, [&](std::span<const std::byte> piece) {
    bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
    return Status::Ok();
  });
  EXPECT_OK(status);
  return bytes;
}

std::string Named(const Verdict& verdict) {
  return std::string(RejectReasonName(verdict.reason)) + ": " + verdict.detail;
}

// An update in memory, so that thousands of damaged ones cost no disk.
class MemoryFile final : public RandomAccessFile {
 public:
  explicit MemoryFile(const std::string& bytes) : storage_(bytes.size() / 64 + 1) {
    std::memcpy(storage_.data(), bytes.data(), bytes.size());
    bytes_ = std::as_bytes(std::span(storage_)).first(bytes.size());
  }
  Result<std::uint64_t> Size() const override { return std::uint64_t{bytes_.size()}; }
  Status ReadAt(std::uint64_t offset, std::span<std::byte> out) const override {
    if (offset > bytes_.size() || out.size() > bytes_.size() - offset) return OutOfRange("read");
    std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(offset), out.size(), out.begin());
    return Status::Ok();
  }
  Result<std::unique_ptr<MappedRegion>> Map(std::uint64_t offset,
                                            std::uint64_t length) const override {
    if (offset > bytes_.size() || length > bytes_.size() - offset) return OutOfRange("map");
    return std::unique_ptr<MappedRegion>(std::make_unique<Region>(bytes_.subspan(offset, length)));
  }

 private:
  struct alignas(64) Line {
    std::array<std::byte, 64> bytes;
  };
  class Region final : public MappedRegion {
   public:
    explicit Region(std::span<const std::byte> bytes) : bytes_(bytes) {}
    std::span<const std::byte> bytes() const override { return bytes_; }

   private:
    std::span<const std::byte> bytes_;
  };
  std::vector<Line> storage_;
  std::span<const std::byte> bytes_;
};

class UpdateFormat : public ::testing::Test {
 protected:
  static std::unique_ptr<RandomAccessFile> FileOf(const std::string& bytes) {
    return std::make_unique<MemoryFile>(bytes);
  }
  ParsedUpdate Parsed(const std::string& bytes, TaskId task = 7) {
    return ParseUpdate(*FileOf(bytes), task, kMaxBlocks).value();
  }
  std::string ParseVerdict(const std::string& bytes) { return Named(Parsed(bytes).verdict); }
  // Of the first of the two checks that refuses, or accepted.
  Verdict Judge(const std::string& bytes) {
    const auto file = FileOf(bytes);
    const ParsedUpdate update = ParseUpdate(*file, 7, kMaxBlocks).value();
    if (!update.verdict.accepted()) return update.verdict;
    return VerifyPayloads(*file, update.blocks, spec_).value();
  }

  // The bytes of an example of docs/update_format.md.
  static std::string Golden(const std::string& name) {
    const std::string golden = ReadAll(FEDMOE_SOURCE_DIR "/tests/golden/" + name);
    EXPECT_NE(ReadAll(FEDMOE_SOURCE_DIR "/docs/update_format.md").find(golden), std::string::npos)
        << "docs/update_format.md does not show the example as tests/golden/" << name << " has it";
    std::string bytes;
    std::istringstream lines(golden);
    for (std::string line; std::getline(lines, line);) {
      std::istringstream words(line.substr(4));
      for (std::string word; words >> word;)
        bytes += static_cast<char>(std::stoi(word, nullptr, 16));
    }
    return bytes;
  }

  // The first of them.
  std::vector<float> first_ = {1.0f, -2.0f, 0.5f};
  std::vector<float> second_ = {0.25f};
  std::vector<OutgoingBlock> blocks_ = {{0, first_}, {3, second_}};
  ModelSpec spec_ = SmallSpec();
};

// Writes `value` at `offset` and makes the checksum of the 64-byte header around it right again.
template <typename T>
std::string Patched(std::string bytes, std::size_t offset, T value) {
  std::memcpy(bytes.data() + offset, &value, sizeof(value));
  const std::size_t header = offset / 64 * 64;
  const std::uint32_t crc = Crc32c(AsBytes(std::string_view(bytes).substr(header, 60)));
  std::memcpy(bytes.data() + header + 60, &crc, sizeof(crc));
  return bytes;
}

TEST_F(UpdateFormat, MatchesTheWorkedExampleByteForByte) {
  const std::string expected = Golden("update_example.hex");
  ASSERT_EQ(expected.size(), 320u);
  EXPECT_EQ(Encoded(7, blocks_), expected);
}

// Values that lie on whole steps, so that nothing is left to chance.
TEST_F(UpdateFormat, MatchesTheExampleOfEveryEncodingByteForByte) {
  std::vector<float> halves(34, 0.0F);
  halves[0] = 7.0F;
  halves[1] = -3.0F;
  halves[32] = 1.0F;
  halves[33] = -7.0F;
  const std::vector<std::pair<std::vector<float>, BlockEncoding>> examples{
      {first_, {.encoding = Encoding::kBfloat16}},
      {first_, {.encoding = Encoding::kFloat16}},
      {{127.0F, -64.0F, 0.0F}, {.encoding = Encoding::kInt8}},
      {halves, {.encoding = Encoding::kInt4}},
      {{0.0F, -3.0F, 0.25F, 2.0F}, {.encoding = Encoding::kTopK, .kept = 2}}};
  std::vector<EncodedBlock> encoded;
  for (const auto& [values, options] : examples) {
    encoded.push_back(EncodeBlock(values, options).value());
  }
  std::vector<OutgoingBlock> blocks;
  for (std::size_t i = 0; i < encoded.size(); ++i) {
    blocks.push_back({.parameter = static_cast<int>(i), .encoded = &encoded[i]});
  }
  const std::string bytes = Encoded(7, blocks);
  EXPECT_EQ(bytes, Golden("update_encodings.hex"));
  EXPECT_EQ(Named(Judge(bytes)), "none: ");
}

// Read only: what a compressor makes of it is its own affair.
TEST_F(UpdateFormat, ReadsTheCompressedExample) {
  const std::string bytes = Golden("update_zstd.hex");
  EXPECT_EQ(Named(Judge(bytes)), "none: ");
  const auto file = FileOf(bytes);
  const ParsedUpdate update = Parsed(bytes);
  ASSERT_EQ(update.blocks.size(), 1u);
  EXPECT_EQ(update.blocks[0].compression, Compression::kZstd);
  PayloadReader reader(*file, update.blocks[0]);
  EXPECT_EQ(FloatsOf(reader.Read(0, 400).value()), std::vector<float>(100, 0.5F));
}

TEST_F(UpdateFormat, ReadsBackWhatItWrote) {
  const std::string bytes = Encoded(7, blocks_);
  ASSERT_EQ(bytes.size(), EncodedUpdateBytes(blocks_));
  const auto file = FileOf(bytes);
  const ParsedUpdate update = ParseUpdate(*file, 7, kMaxBlocks).value();
  ASSERT_EQ(Named(update.verdict), "none: ");
  ASSERT_EQ(update.blocks.size(), 2u);
  EXPECT_EQ(update.blocks[1].parameter, 3);
  EXPECT_EQ(update.blocks[1].encoding, Encoding::kFloat32);
  EXPECT_EQ(update.blocks[1].elements, 1u);
  EXPECT_EQ(update.blocks[1].payload_bytes, 4u);
  EXPECT_EQ(Named(VerifyPayloads(*file, update.blocks, spec_).value()), "none: ");
  for (const UpdateBlock& block : update.blocks)
    EXPECT_EQ(block.payload_offset % kUpdateAlignment, 0u);
  const auto region = file->Map(update.blocks[0].payload_offset, update.blocks[0].payload_bytes);
  EXPECT_EQ(FloatsOf((*region)->bytes()), first_);
}

TEST_F(UpdateFormat, GivesPiecesOfAtMostOneMebibyte) {
  const std::vector<float> large(700'000, 0.5f);
  std::size_t largest = 0;
  std::size_t total = 0;
  ASSERT_OK(EncodeUpdate(7, std::vector<OutgoingBlock>{{0, large}}, [&](auto piece) {
    largest = std::max(largest, piece.size());
    total += piece.size();
    return Status::Ok();
  }));
  EXPECT_EQ(largest, std::size_t{1} << 20);
  EXPECT_EQ(total, EncodedUpdateBytes(std::vector<OutgoingBlock>{{0, large}}));
}

TEST_F(UpdateFormat, StopsAtTheSinksFirstError) {
  int calls = 0;
  const Status status = EncodeUpdate(
      7, blocks_, [&](auto) { return ++calls == 3 ? Cancelled("enough") : Status::Ok(); });
  EXPECT_EQ(status.ToString(), "CANCELLED: enough");
  EXPECT_EQ(calls, 3);
}

TEST_F(UpdateFormat, WritesBlocksInAscendingOrderOnly) {
  const std::vector<OutgoingBlock> descending = {{3, second_}, {0, first_}};
  const auto ignore = [](auto) { return Status::Ok(); };
  EXPECT_EQ(EncodeUpdate(7, descending, ignore).ToString(),
            "INVALID_ARGUMENT: update of task 7: parameter 0 comes after parameter 3; blocks must "
            "ascend");
}

TEST_F(UpdateFormat, NeedsNoMoreBytesThanATaskMayHave) {
  std::vector<std::vector<float>> values;
  std::vector<OutgoingBlock> blocks;
  TaskAssignment task;
  task.experts = {0, 1, 2};
  for (const ParameterBlock& block : spec_.blocks) {
    values.push_back(Ramp(block.ElementCount(), 0.0f));
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (spec_.blocks[i].owner != BlockOwner::kClient)
      blocks.push_back({static_cast<int>(i), values[i]});
  }
  EXPECT_LE(EncodedUpdateBytes(blocks), MaxUpdateBytes(spec_, task));
}

TEST_F(UpdateFormat, RefusesEveryTruncation) {
  const std::string bytes = Encoded(7, blocks_);
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    ASSERT_EQ(Parsed(bytes.substr(0, length)).verdict.reason, RejectReason::kMalformed) << length;
  }
  EXPECT_EQ(ParseVerdict(bytes.substr(0, 63)),
            "malformed: is 63 bytes, under the 64 bytes of a preamble");
  EXPECT_EQ(ParseVerdict(bytes.substr(0, 319)), "malformed: is 319 bytes, its preamble says 320");
  EXPECT_EQ(ParseVerdict(bytes + '\0'), "malformed: is 321 bytes, its preamble says 320");
}

TEST_F(UpdateFormat, DetectsEveryFlippedBit) {
  const std::string bytes = Encoded(7, blocks_);
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    std::string flipped = bytes;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
    ASSERT_FALSE(Judge(flipped).accepted()) << "bit " << bit % 8 << " of byte " << bit / 8;
  }
}

TEST_F(UpdateFormat, SaysWhatIsMalformedInThePreamble) {
  const std::string bytes = Encoded(7, blocks_);
  std::string magic = bytes;
  magic[0] = 'X';
  EXPECT_EQ(ParseVerdict(magic), "malformed: does not begin with FMUPDATE");
  EXPECT_EQ(ParseVerdict(Patched<std::uint32_t>(bytes, 8, 1)),
            "malformed: format version 1, this build reads 2");
  EXPECT_EQ(ParseVerdict(Patched<std::uint32_t>(bytes, 12, 1)),
            "malformed: 128 bytes follow the last of 1 blocks");
  EXPECT_EQ(ParseVerdict(Patched<std::uint32_t>(bytes, 12, 3)),
            "malformed: block 2: the update ends before its header");
  EXPECT_EQ(ParseVerdict(Patched<std::uint32_t>(bytes, 12, 0xffff'ffff)),
            "malformed: has 4294967295 blocks, over the limit of 100");
  EXPECT_EQ(ParseVerdict(Patched<std::uint64_t>(bytes, 16, 8)),
            "malformed: is of task 8, not of task 7");
  EXPECT_EQ(ParseVerdict(Patched<std::uint64_t>(bytes, 24, 321)),
            "malformed: is 320 bytes, its preamble says 321");
  EXPECT_EQ(ParseVerdict(Patched<std::uint32_t>(bytes, 32, 1)),
            "malformed: preamble: reserved bytes are not zero");
  std::string crc = bytes;
  crc[60] = static_cast<char>(crc[60] ^ 1);
  EXPECT_EQ(ParseVerdict(crc), "bad_checksum: preamble: wrong checksum");
}

TEST_F(UpdateFormat, SaysWhatIsMalformedInABlock) {
  const std::string bytes = Encoded(7, blocks_);
  EXPECT_EQ(ParseVerdict(Patched<std::uint32_t>(bytes, 64, 9)),
            "malformed: block 1: parameter 3 comes after parameter 9");
  EXPECT_EQ(ParseVerdict(Patched<std::uint32_t>(bytes, 64, 0x8000'0000)),
            "unknown_parameter: block 0: parameter 2147483648");
  EXPECT_EQ(ParseVerdict(Patched<std::uint64_t>(bytes, 72, 4)),
            "malformed: block 0: payload of 12 bytes for 4 f32 elements");
  EXPECT_EQ(ParseVerdict(Patched<std::uint64_t>(bytes, 72, (std::uint64_t{1} << 62) + 3)),
            "malformed: block 0: payload of 12 bytes for 4611686018427387907 f32 elements");
  EXPECT_EQ(ParseVerdict(Patched<std::uint64_t>(bytes, 80, 10)),
            "malformed: block 0: payload of 10 bytes, not compressed, of 12");
  EXPECT_EQ(ParseVerdict(Patched<std::uint64_t>(bytes, 96, 16)),
            "malformed: block 0: payload of 12 bytes, not compressed, of 16");
  EXPECT_EQ(ParseVerdict(Patched<std::uint32_t>(bytes, 92, 1)),
            "malformed: block 0: payload of 12 bytes, compressed from 12");
  EXPECT_EQ(ParseVerdict(Patched<std::uint32_t>(bytes, 92, 2)),
            "malformed: block 0: compression 2, known are 0 (none) and 1 (zstd)");
  EXPECT_EQ(ParseVerdict(Patched<std::uint32_t>(bytes, 68, 3)),
            "malformed: block 0: payload of 12 bytes for 3 int8 elements");
  EXPECT_EQ(ParseVerdict(Patched<std::uint32_t>(bytes, 68, 5)),
            "malformed: block 0: payload of 12 bytes for 3 topk elements");
  EXPECT_EQ(ParseVerdict(Patched<std::uint64_t>(bytes, 80, 193)),
            "malformed: block 0: payload of 193 bytes, but 192 are left");
  EXPECT_EQ(ParseVerdict(Patched<std::uint64_t>(bytes, 80, ~std::uint64_t{0})),
            "malformed: block 0: payload of 18446744073709551615 bytes, but 192 are left");
  EXPECT_EQ(ParseVerdict(Patched<std::uint32_t>(bytes, 104, 5)),
            "malformed: block 0: reserved bytes are not zero");
  std::string padding = bytes;
  padding[191] = 1;
  EXPECT_EQ(ParseVerdict(padding), "malformed: block 0: padding is not zero");
  std::string crc = bytes;
  crc[124] = static_cast<char>(crc[124] ^ 1);
  EXPECT_EQ(ParseVerdict(crc), "bad_checksum: block 0: header: wrong checksum");
}

// So that validation against the task can name them: a block twice, an encoding to come.
TEST_F(UpdateFormat, PassesOnBlocksThatOnlyTheTaskCanJudge) {
  const std::string bytes = Encoded(7, blocks_);
  const ParsedUpdate twice = Parsed(Patched<std::uint32_t>(bytes, 192, 0));
  EXPECT_EQ(Named(twice.verdict), "none: ");
  EXPECT_EQ(twice.blocks[1].parameter, 0);
  const std::string unknown = Patched<std::uint32_t>(bytes, 68, 6);
  EXPECT_EQ(static_cast<int>(Parsed(unknown).blocks[0].encoding), 6);
  EXPECT_EQ(Named(Judge(unknown)), "unknown_encoding: trunk.weight: encoding 6");
}

TEST_F(UpdateFormat, FindsADamagedPayload) {
  std::string bytes = Encoded(7, blocks_);
  bytes[256] = static_cast<char>(bytes[256] ^ 1);
  EXPECT_EQ(ParseVerdict(bytes), "none: ");
  EXPECT_EQ(Named(Judge(bytes)), "bad_checksum: experts.0.bias: payload: wrong checksum");
}

TEST_F(UpdateFormat, FindsNumbersThatAreNotFinite) {
  second_[0] = std::nanf("");
  EXPECT_EQ(Named(Judge(Encoded(7, blocks_))), "not_finite: experts.0.bias: element 0 is NaN");
  second_[0] = -1e18F;
  EXPECT_EQ(Named(Judge(Encoded(7, blocks_))), "none: ");
  second_[0] = -3e38F;
  EXPECT_EQ(Named(Judge(Encoded(7, blocks_))),
            "not_finite: experts.0.bias: element 0 is -3e+38, beyond 1e18");
  first_[2] = -std::numeric_limits<float>::infinity();
  EXPECT_EQ(Named(Judge(Encoded(7, blocks_))), "not_finite: trunk.weight: element 2 is Inf");
}

// Past one piece: 17,000,000 floats are 68 MB.
TEST_F(UpdateFormat, FindsThemInALargeBlockToo) {
  std::vector<float> large(17'000'000, 1.0f);
  large[16'900'001] = std::nanf("");
  const std::vector<OutgoingBlock> blocks = {{99, large}};
  EXPECT_EQ(Named(Judge(Encoded(7, blocks))), "not_finite: parameter 99: element 16900001 is NaN");
}

TEST_F(UpdateFormat, HasAnEmptyUpdate) {
  const std::string bytes = Encoded(7, {});
  EXPECT_EQ(bytes.size(), 64u);
  EXPECT_EQ(Named(Judge(bytes)), "none: ");
}

}  // namespace
}  // namespace fedmoe
