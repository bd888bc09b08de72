#include "storage/encoded_shard.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <string>
#include <vector>

#include "common/checksum.h"
#include "common/counter_rng.h"
#include "federation/transfer_options.h"
#include "storage/block_codec.h"
#include "storage/update_format.h"

namespace fedmoe {
namespace {

constexpr std::array<char, 8> kMagic = {'F', 'M', 'S', 'H', 'A', 'R', 'D', '\0'};

struct Frame {
  std::array<char, 8> magic = kMagic;
  std::uint32_t version = kEncodedShardVersion;
  std::uint32_t block_count = 0;
  std::array<std::uint8_t, kDigestLength / 2> digest = {};
  std::uint32_t shard = 0;
  std::uint32_t encoding = 0;
  std::uint32_t zstd = 0;
  std::uint32_t crc32c = 0;
};
static_assert(sizeof(Frame) == kEncodedShardFrameBytes);
static_assert(kUpdateAlignment == kEncodedShardFrameBytes);
static_assert(kEncodedPartElements % kScaleBlock == 0);

std::span<const std::byte> BytesOf(const Frame& frame) {
  return std::as_bytes(std::span(&frame, 1));
}

std::uint32_t CrcOf(const Frame& frame) {
  return Crc32c(BytesOf(frame).first(sizeof(Frame) - sizeof(frame.crc32c)));
}

Frame FrameOf(const ShardReference& shard, std::size_t blocks) {
  Frame frame;
  frame.block_count = static_cast<std::uint32_t>(blocks);
  for (std::size_t i = 0; i < frame.digest.size(); ++i) {
    const char* const digits = shard.digest.data() + 2 * i;
    std::from_chars(digits, digits + 2, frame.digest[i], 16);
  }
  frame.shard = static_cast<std::uint32_t>(shard.shard);
  frame.encoding = static_cast<std::uint32_t>(shard.encoding);
  frame.zstd = shard.zstd ? 1 : 0;
  frame.crc32c = CrcOf(frame);
  return frame;
}

Status CheckReference(const ShardReference& shard, const ModelSpec& spec) {
  if (shard.shard < 0 || shard.shard >= spec.ShardCount()) {
    return InvalidArgument("no shard " + std::to_string(shard.shard));
  }
  if (!IsDigest(shard.digest)) return InvalidArgument("'" + shard.digest + "' is no digest");
  if (static_cast<std::uint32_t>(shard.encoding) < static_cast<std::uint32_t>(Encoding::kTopK)) {
    return Status::Ok();
  }
  return InvalidArgument("shards are encoded as f32, bf16, f16, int8 or int4, not as encoding " +
                         std::to_string(static_cast<std::uint32_t>(shard.encoding)));
}

Status Damaged(const ShardReference& shard, const ModelSpec& spec, const std::string& why) {
  return DataLoss("the encoded shard " + spec.ShardName(shard.shard) + " is damaged: " + why);
}

// Size, magic, version, checksum; then that it is the shard asked for, by which all else is known.
std::string FaultOfFrame(const Frame& frame, const Frame& expected) {
  if (frame.magic != expected.magic) return "does not begin with FMSHARD";
  if (frame.version != expected.version) {
    return "format version " + std::to_string(frame.version) + ", this build reads " +
           std::to_string(expected.version);
  }
  if (frame.crc32c != CrcOf(frame)) return "frame: wrong checksum";
  if (frame.digest != expected.digest || frame.shard != expected.shard) return "is another shard";
  if (frame.encoding != expected.encoding || frame.zstd != expected.zstd) {
    return "is encoded otherwise";
  }
  if (frame.block_count == expected.block_count) return "";
  return "has " + std::to_string(frame.block_count) + " blocks, not " +
         std::to_string(expected.block_count);
}

std::string FaultOfBlock(const UpdateBlock& block, const ShardPart& part,
                         const ShardReference& shard) {
  if (block.parameter != part.parameter || block.elements != part.elements) {
    return "has " + std::to_string(block.elements) + " elements of parameter " +
           std::to_string(block.parameter) + ", not " + std::to_string(part.elements) +
           " of parameter " + std::to_string(part.parameter);
  }
  if (block.encoding != shard.encoding) return "is encoded otherwise";
  if (block.compression != Compression::kNone && !shard.zstd) return "is compressed";
  return "";
}

// The blocks of a file that is wholly sound.
Result<std::vector<UpdateBlock>> ReadBlocks(const RandomAccessFile& file,
                                            const ShardReference& shard, const ModelSpec& spec) {
  FEDMOE_RETURN_IF_ERROR(CheckReference(shard, spec));
  const std::vector<ShardPart> parts = PartsOf(spec, shard.shard);
  FEDMOE_ASSIGN_OR_RETURN(const std::uint64_t size, file.Size());
  if (size < sizeof(Frame)) {
    return Damaged(shard, spec,
                   "is " + std::to_string(size) + " bytes, under the 64 bytes of a frame");
  }
  Frame frame;
  FEDMOE_RETURN_IF_ERROR(file.ReadAt(0, std::as_writable_bytes(std::span(&frame, 1))));
  const std::string fault = FaultOfFrame(frame, FrameOf(shard, parts.size()));
  if (!fault.empty()) return Damaged(shard, spec, fault);
  FEDMOE_ASSIGN_OR_RETURN(ParsedUpdate parsed,
                          ParseBlocks(file, sizeof(Frame), frame.block_count, "shard"));
  if (!parsed.verdict.accepted()) return Damaged(shard, spec, parsed.verdict.detail);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const std::string of_block = FaultOfBlock(parsed.blocks[i], parts[i], shard);
    if (!of_block.empty()) {
      return Damaged(shard, spec, "block " + std::to_string(i) + ": " + of_block);
    }
  }
  FEDMOE_ASSIGN_OR_RETURN(const Verdict verdict, VerifyPayloads(file, parsed.blocks, spec));
  if (!verdict.accepted()) return Damaged(shard, spec, verdict.detail);
  return std::move(parsed.blocks);
}

}  // namespace

Status EncodeShard(const ShardReference& shard, const ModelSpec& spec, const ShardSource& source,
                   const std::function<Status(std::span<const std::byte>)>& sink) {
  FEDMOE_RETURN_IF_ERROR(CheckReference(shard, spec));
  const std::vector<ShardPart> parts = PartsOf(spec, shard.shard);
  FEDMOE_RETURN_IF_ERROR(sink(BytesOf(FrameOf(shard, parts.size()))));
  std::vector<float> values;
  std::uint64_t offset = 0;
  for (const ShardPart& part : parts) {
    values.resize(part.elements);
    const std::span<std::byte> bytes = std::as_writable_bytes(std::span(values));
    FEDMOE_RETURN_IF_ERROR(source(offset, bytes));
    offset += bytes.size();
    const BlockEncoding options{
        .encoding = shard.encoding,
        .key = MixKey({KeyOf(shard.digest), static_cast<std::uint64_t>(part.parameter),
                       part.first / kEncodedPartElements}),
        .zstd = shard.zstd};
    const Result<EncodedBlock> block = EncodeBlock(values, options);
    if (!block.ok()) {
      const std::string& name = spec.blocks[static_cast<std::size_t>(part.parameter)].name;
      return FailedPrecondition("block '" + name + "' from element " + std::to_string(part.first) +
                                " does not fit " + EncodingName(shard.encoding) + ": " +
                                block.status().message() +
                                "; transfer.down.encoding f32 holds every value");
    }
    FEDMOE_RETURN_IF_ERROR(
        EncodeUpdateBlock({.parameter = part.parameter, .delta = {}, .encoded = &*block}, sink));
  }
  return Status::Ok();
}

Status VerifyEncodedShard(const RandomAccessFile& file, const ShardReference& shard,
                          const ModelSpec& spec) {
  return ReadBlocks(file, shard, spec).status();
}

Status DecodeShard(const RandomAccessFile& file, const ShardReference& shard, const ModelSpec& spec,
                   std::span<float> out) {
  FEDMOE_ASSIGN_OR_RETURN(const std::vector<UpdateBlock> blocks, ReadBlocks(file, shard, spec));
  if (out.size() != static_cast<std::size_t>(spec.ShardElements(shard.shard))) {
    return InvalidArgument("room for " + std::to_string(out.size()) + " elements of a shard of " +
                           std::to_string(spec.ShardElements(shard.shard)));
  }
  std::size_t done = 0;
  for (const UpdateBlock& block : blocks) {
    PayloadReader reader(file, block);
    FEDMOE_ASSIGN_OR_RETURN(const EncodedValues values, reader.Window(0, block.elements));
    FEDMOE_RETURN_IF_ERROR(DecodeValues(values, 0, out.subspan(done, block.elements)));
    done += block.elements;
  }
  return Status::Ok();
}

}  // namespace fedmoe
