// The bytes of an update: on the wire, in the spool and under the aggregation kernel they are the
// same. docs/update_format.md has the grammar and a worked example.
//
//   update   := preamble block*
//   preamble := magic "FMUPDATE" | version u32 | block_count u32 | task u64 | total_bytes u64 |
//   reserved u32 (0) x 7 | crc32c u32     64 bytes block    := block_header payload zero-padding to
//   a multiple of 64 block_header := parameter u32 | encoding u32 | elements u64 | payload_bytes
//   u64 | payload_crc32c u32 | reserved u32 (0) x 8 |
//                   header_crc32c u32 64 bytes
//
// All integers are little-endian; each crc covers the bytes before it in its structure
// (payload_crc32c: the payload). Headers and payloads start at multiples of 64, so that a mapped
// file can be read as float32 in place.
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

namespace fedmoe {

inline constexpr std::uint32_t kUpdateFormatVersion = 1;
inline constexpr std::uint64_t kUpdateAlignment = 64;

struct OutgoingBlock {
  int parameter = 0;
  std::span<const float> delta;  // must outlive the encoding
};

// Total bytes of an update with these blocks (f32).
std::uint64_t EncodedUpdateBytes(std::span<const OutgoingBlock> blocks);

// Hands the encoded update to `sink` piece by piece, in order; pieces are at most 1 MiB. Stops at
// the sink's first error and returns it.
Status EncodeUpdate(TaskId task, std::span<const OutgoingBlock> blocks,
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

// Reads every payload once, in windows of at most 64 MiB: checksums, no NaN or Inf, and nothing
// beyond 1e18 in magnitude, so that squares are finite in float32. The detail
// names the block by parameter name.
Result<Verdict> VerifyPayloads(const RandomAccessFile& file, const std::vector<UpdateBlock>& blocks,
                               const ModelSpec& spec);

}  // namespace fedmoe
