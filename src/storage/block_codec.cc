#include "storage/block_codec.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include <zstd.h>

namespace fedmoe {
namespace {

// Fast: an update is compressed once, by a client that may be small.
constexpr int kZstdLevel = 1;

std::uint64_t ChunkCount(std::uint64_t raw_bytes) {
  return (raw_bytes + kChunkBytes - 1) / kChunkBytes;
}

void AppendU32(std::uint64_t value, std::vector<std::byte>& bytes) {
  const auto word = static_cast<std::uint32_t>(value);
  const auto* const begin = reinterpret_cast<const std::byte*>(&word);
  bytes.insert(bytes.end(), begin, begin + sizeof(word));
}

// The table and the chunks of `raw`; empty if that is not smaller.
std::vector<std::byte> Compressed(std::span<const std::byte> raw) {
  const std::uint64_t chunks = ChunkCount(raw.size());
  std::vector<std::byte> table;
  std::vector<std::byte> body;
  std::vector<std::byte> room(ZSTD_compressBound(kChunkBytes));
  for (std::uint64_t chunk = 0; chunk < chunks; ++chunk) {
    const std::uint64_t begin = chunk * kChunkBytes;
    const auto bytes = raw.subspan(begin, std::min<std::uint64_t>(kChunkBytes, raw.size() - begin));
    const std::size_t size =
        ZSTD_compress(room.data(), room.size(), bytes.data(), bytes.size(), kZstdLevel);
    const bool smaller = ZSTD_isError(size) == 0 && size < bytes.size();
    const std::span<const std::byte> kept = smaller ? std::span(room).first(size) : bytes;
    AppendU32(kept.size(), table);
    body.insert(body.end(), kept.begin(), kept.end());
    if (table.size() + body.size() >= raw.size()) return {};
  }
  table.insert(table.end(), body.begin(), body.end());
  return table;
}

Result<EncodedBlock> EncodeRaw(std::span<const float> values, const BlockEncoding& options) {
  EncodedBlock block;
  block.encoding = options.encoding;
  block.elements = values.size();
  if (options.encoding == Encoding::kTopK && options.kept > values.size()) {
    return InvalidArgument("top-k keeps " + std::to_string(options.kept) + " of " +
                           std::to_string(values.size()) + " values");
  }
  block.raw_bytes = EncodedBytes(options.encoding, values.size(), options.kept);
  block.payload.resize(block.raw_bytes);
  FEDMOE_RETURN_IF_ERROR(EncodeValues(options.encoding, values, 0, options.key, block.payload));
  return block;
}

void Compress(EncodedBlock& block) {
  std::vector<std::byte> smaller = Compressed(block.payload);
  if (smaller.empty()) return;
  block.compression = Compression::kZstd;
  block.payload = std::move(smaller);
}

}  // namespace

Result<EncodedBlock> EncodeBlock(std::span<const float> values, const BlockEncoding& options) {
  FEDMOE_ASSIGN_OR_RETURN(EncodedBlock block, EncodeRaw(values, options));
  if (options.zstd) Compress(block);
  return block;
}

Result<EncodedBlock> EncodeKeepingRest(std::span<float> values, const BlockEncoding& options) {
  if (options.encoding != Encoding::kTopK) return InvalidArgument("only topk leaves a rest");
  FEDMOE_ASSIGN_OR_RETURN(EncodedBlock block, EncodeRaw(values, options));
  KeepResidual(block.payload, values);
  if (options.zstd) Compress(block);
  return block;
}

PayloadReader::PayloadReader(const RandomAccessFile& file, const UpdateBlock& block)
    : file_(file), block_(block) {}

Status PayloadReader::ReadTable() {
  if (!chunk_ends_.empty()) return Status::Ok();
  const std::uint64_t chunks = ChunkCount(block_.raw_bytes);
  const std::uint64_t table_bytes = chunks * sizeof(std::uint32_t);
  if (table_bytes > block_.payload_bytes) {
    return InvalidArgument("a payload of " + std::to_string(block_.payload_bytes) +
                           " bytes has no room for the table of " + std::to_string(chunks) +
                           " chunks");
  }
  std::vector<std::uint32_t> sizes(chunks);
  FEDMOE_RETURN_IF_ERROR(
      file_.ReadAt(block_.payload_offset, std::as_writable_bytes(std::span(sizes))));
  std::vector<std::uint64_t> ends;
  std::uint64_t end = table_bytes;
  for (std::uint64_t chunk = 0; chunk < chunks; ++chunk) {
    const std::uint64_t raw = std::min(kChunkBytes, block_.raw_bytes - chunk * kChunkBytes);
    if (sizes[chunk] == 0 || sizes[chunk] > raw) {
      return InvalidArgument("chunk " + std::to_string(chunk) + " has " +
                             std::to_string(sizes[chunk]) + " bytes, expected 1 to " +
                             std::to_string(raw));
    }
    end += sizes[chunk];
    ends.push_back(end);
  }
  if (end != block_.payload_bytes) {
    return InvalidArgument("the chunks end at byte " + std::to_string(end) + " of " +
                           std::to_string(block_.payload_bytes));
  }
  chunk_ends_ = std::move(ends);
  return Status::Ok();
}

Status PayloadReader::ReadChunk(std::uint64_t chunk, std::span<std::byte> raw) {
  const std::uint64_t begin = chunk == 0 ? chunk_ends_.size() * sizeof(std::uint32_t)
                                         : chunk_ends_[static_cast<std::size_t>(chunk - 1)];
  const std::uint64_t size = chunk_ends_[static_cast<std::size_t>(chunk)] - begin;
  const std::uint64_t offset = block_.payload_offset + begin;
  if (size == raw.size()) return file_.ReadAt(offset, raw);
  FEDMOE_ASSIGN_OR_RETURN(const std::unique_ptr<MappedRegion> region, file_.Map(offset, size));
  // Writes at most raw.size() bytes, whatever the frame says of itself.
  const std::size_t written =
      ZSTD_decompress(raw.data(), raw.size(), region->bytes().data(), region->bytes().size());
  if (ZSTD_isError(written) != 0) {
    return InvalidArgument("chunk " + std::to_string(chunk) +
                           " does not decompress: " + ZSTD_getErrorName(written));
  }
  if (written != raw.size()) {
    return InvalidArgument("chunk " + std::to_string(chunk) + " decompresses to " +
                           std::to_string(written) + " bytes, not to " +
                           std::to_string(raw.size()));
  }
  return Status::Ok();
}

Result<std::span<const std::byte>> PayloadReader::Read(std::uint64_t begin, std::uint64_t count) {
  if (begin > block_.raw_bytes || count > block_.raw_bytes - begin) {
    return InvalidArgument("bytes " + std::to_string(begin) + " to " +
                           std::to_string(begin + count) + " of a payload of " +
                           std::to_string(block_.raw_bytes));
  }
  if (count == 0) return std::span<const std::byte>();
  if (block_.compression == Compression::kNone) {
    FEDMOE_ASSIGN_OR_RETURN(region_, file_.Map(block_.payload_offset + begin, count));
    return region_->bytes();
  }
  FEDMOE_RETURN_IF_ERROR(ReadTable());
  const bool held = begin >= raw_begin_ && begin + count <= raw_begin_ + raw_.size();
  if (!held) {
    const std::uint64_t first = begin / kChunkBytes;
    const std::uint64_t end = std::min(ChunkCount(begin + count) * kChunkBytes, block_.raw_bytes);
    raw_begin_ = first * kChunkBytes;
    raw_.resize(end - raw_begin_);
    for (std::uint64_t chunk = first; chunk * kChunkBytes < end; ++chunk) {
      const std::uint64_t at = chunk * kChunkBytes - raw_begin_;
      const auto room =
          std::span(raw_).subspan(at, std::min<std::uint64_t>(kChunkBytes, raw_.size() - at));
      if (Status status = ReadChunk(chunk, room); !status.ok()) {
        raw_.clear();
        return status;
      }
    }
  }
  return std::span<const std::byte>(raw_).subspan(begin - raw_begin_, count);
}

// The first unit from `from` on whose index is at least `element`, by steps that double and then
// halve, so that the next window is found near the last.
Result<std::uint64_t> PayloadReader::UnitOfElement(std::uint64_t element, std::uint64_t from) {
  const std::uint64_t units = block_.raw_bytes / kTopKUnitBytes;
  const auto reaches = [&](std::uint64_t unit) -> Result<bool> {
    FEDMOE_ASSIGN_OR_RETURN(const auto bytes, Read(unit * kTopKUnitBytes, sizeof(std::uint32_t)));
    std::uint32_t index;
    std::memcpy(&index, bytes.data(), sizeof(index));
    return index >= element;
  };
  std::uint64_t low = from;
  std::uint64_t high = units;
  for (std::uint64_t step = 1; low + step < high; step *= 2) {
    FEDMOE_ASSIGN_OR_RETURN(const bool found, reaches(low + step - 1));
    if (found) {
      high = low + step - 1;
      break;
    }
    low += step;
  }
  while (low < high) {
    const std::uint64_t middle = low + (high - low) / 2;
    FEDMOE_ASSIGN_OR_RETURN(const bool found, reaches(middle));
    if (found) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

Result<EncodedValues> PayloadReader::Window(std::uint64_t first, std::uint64_t count) {
  if (first > block_.elements || count > block_.elements - first) {
    return InvalidArgument("elements " + std::to_string(first) + " to " +
                           std::to_string(first + count) + " of a block of " +
                           std::to_string(block_.elements));
  }
  EncodedValues values{block_.encoding, first, count, {}};
  if (block_.encoding == Encoding::kTopK) {
    const std::uint64_t from = first >= next_element_ ? next_unit_ : 0;
    FEDMOE_ASSIGN_OR_RETURN(const std::uint64_t begin, UnitOfElement(first, from));
    FEDMOE_ASSIGN_OR_RETURN(const std::uint64_t end, UnitOfElement(first + count, begin));
    next_unit_ = end;
    next_element_ = first + count;
    FEDMOE_ASSIGN_OR_RETURN(values.payload,
                            Read(begin * kTopKUnitBytes, (end - begin) * kTopKUnitBytes));
    return values;
  }
  const std::uint64_t per_unit = UnitElements(block_.encoding);
  values.first = first / per_unit * per_unit;
  const std::uint64_t end =
      std::min((first + count + per_unit - 1) / per_unit * per_unit, block_.elements);
  values.elements = end - values.first;
  const std::uint64_t begin_byte = EncodedBytes(block_.encoding, values.first);
  FEDMOE_ASSIGN_OR_RETURN(values.payload,
                          Read(begin_byte, EncodedBytes(block_.encoding, end) - begin_byte));
  return values;
}

}  // namespace fedmoe
