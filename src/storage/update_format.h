// The bytes of an update: on the wire, in the spool and under the aggregation kernel they are the
// same. docs/update_format.md has the grammar and a worked example.
//
//   update   := preamble block*
//   block    := header payload zero-padding to a multiple of 64
//
// All integers are little-endian; each crc covers the bytes before it in its structure
// (payload_crc32c: the payload). Headers and payloads start at multiples of 64, so that a mapped
// file can be read in place.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/file_system.h"
#include "common/result.h"
#include "federation/update.h"
#include "storage/block_codec.h"

namespace fedmoe {

inline constexpr std::uint32_t kUpdateFormatVersion = 2;
inline constexpr std::uint64_t kUpdateAlignment = 64;

struct OutgoingBlock {
  int parameter = 0;
  std::span<const float> delta;           // sent as f32, unless
  const EncodedBlock* encoded = nullptr;  // this is set; both must outlive the encoding
};

// Total bytes of an update with these blocks.
std::uint64_t EncodedUpdateBytes(std::span<const OutgoingBlock> blocks);

// Hands the encoded update to `sink` piece by piece, in order; pieces are at most 1 MiB. Stops at
// the sink's first error and returns it.
Status EncodeUpdate(TaskId task, std::span<const OutgoingBlock> blocks,
                    const std::function<Status(std::span<const std::byte>)>& sink);

// The parts of an update, for who sends the same blocks in many: an update is the preamble of its
// task, then its blocks as they ascend. `total_bytes` counts the preamble's kUpdateAlignment bytes.
std::vector<std::byte> EncodeUpdatePreamble(TaskId task, std::uint32_t block_count,
                                            std::uint64_t total_bytes);
Status EncodeUpdateBlock(const OutgoingBlock& block,
                         const std::function<Status(std::span<const std::byte>)>& sink);

// The block list of a complete update of `task`, structure checked (magic, version, lengths, header
// checksums, padding, order), payloads not yet. The verdict's reason is kMalformed or kBadChecksum
// where it is not well-formed.
struct ParsedUpdate {
  Verdict verdict;
  std::vector<UpdateBlock> blocks;
};
Result<ParsedUpdate> ParseUpdate(const RandomAccessFile& file, TaskId task,
                                 std::uint64_t max_blocks);

// The same of the blocks alone: `block_count` of them from byte `offset` of the file to its end.
// `what` they are of is named in details: "block 3: the update ends before its header".
Result<ParsedUpdate> ParseBlocks(const RandomAccessFile& file, std::uint64_t offset,
                                 std::uint32_t block_count, const std::string& what);

// Reads every payload once, in pieces of about 1 MiB: checksums, that compressed chunks are as long
// as the block says, and what CheckEncoded() asks of the values. The detail names the block by
// parameter name. For blocks that ParseUpdate() and ValidateUpdate() accepted: before the second,
// nothing bounds the elements of a block.
Result<Verdict> VerifyPayloads(const RandomAccessFile& file, const std::vector<UpdateBlock>& blocks,
                               const ModelSpec& spec);

}  // namespace fedmoe
