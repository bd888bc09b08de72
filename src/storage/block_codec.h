// One block of an update, encoded and perhaps compressed: what stands between a header and the
// padding. docs/update_format.md has the grammar.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/file_system.h"
#include "common/result.h"
#include "federation/update.h"

namespace fedmoe {

// A compressed payload is cut into chunks of so many raw bytes (the last: what is left), each
// compressed alone, so that any part of it is read without what stands before.
inline constexpr std::uint64_t kChunkBytes = std::uint64_t{256} << 10;

struct BlockEncoding {
  Encoding encoding = Encoding::kFloat32;
  std::uint64_t kept = 0;  // top-k: values sent, 1 to all
  std::uint64_t key = 0;   // int8 and int4: of the draws of this block
  bool zstd = false;       // where it makes the payload smaller
};

struct EncodedBlock {
  Encoding encoding = Encoding::kFloat32;
  Compression compression = Compression::kNone;
  std::uint64_t elements = 0;
  std::uint64_t raw_bytes = 0;  // of the payload before compression
  std::vector<std::byte> payload;
};

// OUT_OF_RANGE and INVALID_ARGUMENT as EncodeValues() says.
Result<EncodedBlock> EncodeBlock(std::span<const float> values, const BlockEncoding& options);
// The same for topk, and `values` become what is not sent: 0 where they are. As they were where it
// fails.
Result<EncodedBlock> EncodeKeepingRest(std::span<float> values, const BlockEncoding& options);

// Reads the raw payload of one block of a parsed update, in place through a mapping, or where it is
// compressed into a buffer of its own: it holds what was asked for, up to whole chunks, never more
// than raw_bytes and two chunks. Not thread-safe.
class PayloadReader {
 public:
  // `file` and `block` must outlive the reader.
  PayloadReader(const RandomAccessFile& file, const UpdateBlock& block);

  // Bytes [begin, begin + count) of the raw payload, within raw_bytes; valid until the next call.
  // INVALID_ARGUMENT "chunk 3 ..." where the compressed bytes are not what the format allows; the
  // file's errors.
  Result<std::span<const std::byte>> Read(std::uint64_t begin, std::uint64_t count);

  // Elements [first, first + count) of the block as a source of the kernels, whose range may begin
  // and end outside of them, at the ends of units; of top-k those units that are in the range.
  // Ranges of top-k are cheapest in ascending order. Errors and validity as for Read().
  Result<EncodedValues> Window(std::uint64_t first, std::uint64_t count);

 private:
  Status ReadTable();
  Status ReadChunk(std::uint64_t chunk, std::span<std::byte> raw);
  Result<std::uint64_t> UnitOfElement(std::uint64_t element, std::uint64_t from);

  const RandomAccessFile& file_;
  const UpdateBlock& block_;
  std::unique_ptr<MappedRegion> region_;
  std::vector<std::uint64_t> chunk_ends_;  // in the payload, the table included; empty: not read
  std::vector<std::byte> raw_;             // of the chunks [raw_begin_, raw_begin_ + raw_.size())
  std::uint64_t raw_begin_ = 0;
  std::uint64_t next_unit_ = 0;  // top-k: the first unit that the last window did not hold
  std::uint64_t next_element_ = 0;
};

}  // namespace fedmoe
