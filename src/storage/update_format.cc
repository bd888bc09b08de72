#include "storage/update_format.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <utility>

#include "common/checksum.h"

namespace fedmoe {
namespace {

static_assert(std::endian::native == std::endian::little,
              "updates are little-endian and are read in place");

constexpr std::uint64_t kHeaderBytes = 64;
constexpr std::uint64_t kPieceBytes = 1 << 20;
constexpr std::array<char, 8> kMagic = {'F', 'M', 'U', 'P', 'D', 'A', 'T', 'E'};

struct Preamble {
  std::array<char, 8> magic = kMagic;
  std::uint32_t version = kUpdateFormatVersion;
  std::uint32_t block_count = 0;
  std::uint64_t task = 0;
  std::uint64_t total_bytes = 0;
  std::array<std::uint32_t, 7> reserved = {};
  std::uint32_t crc32c = 0;
};
static_assert(sizeof(Preamble) == kHeaderBytes);

struct BlockHeader {
  std::uint32_t parameter = 0;
  std::uint32_t encoding = 0;
  std::uint64_t elements = 0;
  std::uint64_t payload_bytes = 0;
  std::uint32_t payload_crc32c = 0;
  std::uint32_t compression = 0;
  std::uint64_t raw_bytes = 0;
  std::array<std::uint32_t, 5> reserved = {};
  std::uint32_t header_crc32c = 0;
};
static_assert(sizeof(BlockHeader) == kHeaderBytes);

template <typename Header>
std::span<const std::byte> BytesOf(const Header& header) {
  return std::as_bytes(std::span(&header, 1));
}

// Of all bytes of a header but the checksum at its end.
template <typename Header>
std::uint32_t HeaderCrc(const Header& header) {
  return Crc32c(BytesOf(header).first(kHeaderBytes - sizeof(std::uint32_t)));
}

template <typename Header>
Status ReadHeader(const RandomAccessFile& file, std::uint64_t offset, Header& header) {
  return file.ReadAt(offset, std::as_writable_bytes(std::span(&header, 1)));
}

std::uint64_t RoundUp(std::uint64_t bytes) {
  return (bytes + kUpdateAlignment - 1) / kUpdateAlignment * kUpdateAlignment;
}

using Sink = std::function<Status(std::span<const std::byte>)>;

Status SinkPieces(std::span<const std::byte> bytes, const Sink& sink) {
  while (!bytes.empty()) {
    const std::size_t count = std::min<std::size_t>(bytes.size(), kPieceBytes);
    FEDMOE_RETURN_IF_ERROR(sink(bytes.first(count)));
    bytes = bytes.subspan(count);
  }
  return Status::Ok();
}

std::span<const std::byte> PayloadOf(const OutgoingBlock& block) {
  return block.encoded != nullptr ? std::span<const std::byte>(block.encoded->payload)
                                  : std::as_bytes(block.delta);
}

Status SinkBlock(const OutgoingBlock& block, const Sink& sink) {
  const std::span<const std::byte> payload = PayloadOf(block);
  const EncodedBlock* const encoded = block.encoded;
  BlockHeader header;
  header.parameter = static_cast<std::uint32_t>(block.parameter);
  header.encoding =
      static_cast<std::uint32_t>(encoded != nullptr ? encoded->encoding : Encoding::kFloat32);
  header.elements = encoded != nullptr ? encoded->elements : block.delta.size();
  header.payload_bytes = payload.size();
  header.payload_crc32c = Crc32c(payload);
  header.compression =
      static_cast<std::uint32_t>(encoded != nullptr ? encoded->compression : Compression::kNone);
  header.raw_bytes = encoded != nullptr ? encoded->raw_bytes : payload.size();
  header.header_crc32c = HeaderCrc(header);
  FEDMOE_RETURN_IF_ERROR(sink(BytesOf(header)));
  FEDMOE_RETURN_IF_ERROR(SinkPieces(payload, sink));
  static constexpr std::array<std::byte, kUpdateAlignment> kPadding = {};
  return SinkPieces(std::span(kPadding).first(RoundUp(payload.size()) - payload.size()), sink);
}

ParsedUpdate Refused(RejectReason reason, std::string detail) {
  return {.verdict = {reason, std::move(detail)}, .blocks = {}};
}

Verdict Malformed(std::string detail) { return {RejectReason::kMalformed, std::move(detail)}; }

template <typename Words>
bool AllZero(const Words& words) {
  return std::all_of(words.begin(), words.end(),
                     [](auto word) { return word == decltype(word){}; });
}

// Size, magic, version, checksum, then the fields.
Verdict CheckPreamble(const Preamble& preamble, std::uint64_t size, TaskId task,
                      std::uint64_t max_blocks) {
  if (preamble.magic != kMagic) return Malformed("does not begin with FMUPDATE");
  if (preamble.version != kUpdateFormatVersion) {
    return Malformed("format version " + std::to_string(preamble.version) + ", this build reads " +
                     std::to_string(kUpdateFormatVersion));
  }
  if (preamble.crc32c != HeaderCrc(preamble)) {
    return {RejectReason::kBadChecksum, "preamble: wrong checksum"};
  }
  if (!AllZero(preamble.reserved)) return Malformed("preamble: reserved bytes are not zero");
  if (preamble.task != task) {
    return Malformed("is of task " + std::to_string(preamble.task) + ", not of task " +
                     std::to_string(task));
  }
  if (preamble.total_bytes != size) {
    return Malformed("is " + std::to_string(size) + " bytes, its preamble says " +
                     std::to_string(preamble.total_bytes));
  }
  if (preamble.block_count > max_blocks) {
    return Malformed("has " + std::to_string(preamble.block_count) + " blocks, over the limit of " +
                     std::to_string(max_blocks));
  }
  return {};
}

// Whether elements, bytes and compression agree. Of encodings that are not known nothing can be
// said; which are is the task's validation to say.
Verdict CheckLengths(const BlockHeader& header) {
  if (header.compression > static_cast<std::uint32_t>(Compression::kZstd)) {
    return Malformed("compression " + std::to_string(header.compression) +
                     ", known are 0 (none) and 1 (zstd)");
  }
  const bool compressed = header.compression != 0;
  if (compressed ? header.payload_bytes >= header.raw_bytes
                 : header.payload_bytes != header.raw_bytes) {
    return Malformed("payload of " + std::to_string(header.payload_bytes) + " bytes, " +
                     (compressed ? "compressed from " : "not compressed, of ") +
                     std::to_string(header.raw_bytes));
  }
  if (header.encoding >= kEncodings) return {};
  const auto encoding = static_cast<Encoding>(header.encoding);
  const std::uint64_t most = header.elements > kMaxEncodedElements
                                 ? 0
                                 : EncodedBytes(encoding, header.elements, header.elements);
  const bool right = encoding == Encoding::kTopK
                         ? header.raw_bytes <= most && header.raw_bytes % kTopKUnitBytes == 0
                         : header.raw_bytes == most;
  if (header.elements <= kMaxEncodedElements && right) return {};
  return Malformed("payload of " + std::to_string(header.raw_bytes) + " bytes for " +
                   std::to_string(header.elements) + " " + EncodingName(encoding) + " elements");
}

// What a block's header says of itself; `remaining` bytes of the update follow it.
Verdict CheckBlockHeader(const BlockHeader& header, std::uint64_t remaining,
                         std::optional<std::uint32_t> previous_parameter) {
  if (header.header_crc32c != HeaderCrc(header)) {
    return {RejectReason::kBadChecksum, "header: wrong checksum"};
  }
  if (!AllZero(header.reserved)) return Malformed("reserved bytes are not zero");
  if (header.parameter > static_cast<std::uint32_t>(INT32_MAX)) {
    return {RejectReason::kUnknownParameter, "parameter " + std::to_string(header.parameter)};
  }
  // Equal ones pass: that a block came twice is the task's validation to say.
  if (previous_parameter && header.parameter < *previous_parameter) {
    return Malformed("parameter " + std::to_string(header.parameter) + " comes after parameter " +
                     std::to_string(*previous_parameter));
  }
  if (header.payload_bytes > remaining || RoundUp(header.payload_bytes) > remaining) {
    return Malformed("payload of " + std::to_string(header.payload_bytes) + " bytes, but " +
                     std::to_string(remaining) + " are left");
  }
  return CheckLengths(header);
}

Result<bool> PaddingIsZero(const RandomAccessFile& file, std::uint64_t end) {
  std::array<std::byte, kUpdateAlignment> padding = {};
  const std::uint64_t count = RoundUp(end) - end;
  FEDMOE_RETURN_IF_ERROR(file.ReadAt(end, std::span(padding).first(count)));
  return AllZero(padding);
}

std::string NameOf(const UpdateBlock& block, const ModelSpec& spec) {
  const auto index = static_cast<std::size_t>(block.parameter);
  if (block.parameter >= 0 && index < spec.blocks.size()) return spec.blocks[index].name;
  return "parameter " + std::to_string(block.parameter);
}

// The range of elements that the next piece of units may hold: from the first element that no unit
// before it had.
struct Progress {
  std::uint64_t raw_bytes = 0;
  std::uint64_t elements = 0;
};

// A piece of whole units from `done` on, about 1 MiB long.
std::uint64_t PieceBytes(const UpdateBlock& block, const Progress& done) {
  const std::uint64_t unit = UnitBytes(block.encoding);
  return std::min(kPieceBytes / unit * unit, block.raw_bytes - done.raw_bytes);
}

// Checks the units of the piece and moves `done` past it.
Status CheckPiece(const UpdateBlock& block, std::span<const std::byte> piece, Progress& done) {
  EncodedValues values{block.encoding, done.elements, block.elements - done.elements, piece};
  done.raw_bytes += piece.size();
  if (block.encoding == Encoding::kTopK) {
    FEDMOE_RETURN_IF_ERROR(CheckEncoded(values));
    std::uint32_t last;
    std::memcpy(&last, piece.data() + piece.size() - kTopKUnitBytes, sizeof(last));
    done.elements = std::uint64_t{last} + 1;
    return Status::Ok();
  }
  if (done.raw_bytes < block.raw_bytes) {
    values.elements = piece.size() / UnitBytes(block.encoding) * UnitElements(block.encoding);
  }
  done.elements += values.elements;
  return CheckEncoded(values);
}

// Of the bytes as they lie in the file.
Result<std::uint32_t> PayloadCrc(const RandomAccessFile& file, const UpdateBlock& block) {
  std::uint32_t crc = 0;
  for (std::uint64_t done = 0; done < block.payload_bytes; done += kPieceBytes) {
    const std::uint64_t count = std::min(kPieceBytes, block.payload_bytes - done);
    FEDMOE_ASSIGN_OR_RETURN(const std::unique_ptr<MappedRegion> region,
                            file.Map(block.payload_offset + done, count));
    crc = Crc32c(region->bytes(), crc);
  }
  return crc;
}

Result<Verdict> VerifyPayload(const RandomAccessFile& file, const UpdateBlock& block,
                              const std::string& name) {
  if (static_cast<std::uint32_t>(block.encoding) >= kEncodings) {
    return Verdict{
        RejectReason::kUnknownEncoding,
        name + ": encoding " + std::to_string(static_cast<std::uint32_t>(block.encoding))};
  }
  BlockHeader header;
  FEDMOE_RETURN_IF_ERROR(ReadHeader(file, block.payload_offset - kHeaderBytes, header));
  const Verdict bad_checksum{RejectReason::kBadChecksum, name + ": payload: wrong checksum"};
  const bool compressed = block.compression != Compression::kNone;
  if (compressed) {
    FEDMOE_ASSIGN_OR_RETURN(const std::uint32_t crc, PayloadCrc(file, block));
    if (crc != header.payload_crc32c) return bad_checksum;
  }
  PayloadReader reader(file, block);
  Progress done;
  Status fault;
  std::uint32_t crc = 0;
  while (done.raw_bytes < block.raw_bytes && (fault.ok() || !compressed)) {
    const std::uint64_t count = PieceBytes(block, done);
    const Result<std::span<const std::byte>> piece = reader.Read(done.raw_bytes, count);
    if (!piece.ok() && (!compressed || piece.status().code() != StatusCode::kInvalidArgument)) {
      return piece.status();
    }
    if (!piece.ok()) {
      fault = piece.status();
      break;
    }
    // While the bytes are in the cache; a payload that is damaged is damaged first of all.
    if (!compressed) crc = Crc32c(*piece, crc);
    if (fault.ok()) {
      fault = CheckPiece(block, *piece, done);
    } else {
      done.raw_bytes += count;
    }
  }
  if (!compressed && crc != header.payload_crc32c) return bad_checksum;
  if (fault.ok()) return Verdict{};
  const bool not_finite = fault.code() == StatusCode::kOutOfRange;
  return Verdict{not_finite ? RejectReason::kNotFinite : RejectReason::kMalformed,
                 name + ": " + fault.message()};
}

}  // namespace

std::uint64_t EncodedUpdateBytes(std::span<const OutgoingBlock> blocks) {
  std::uint64_t bytes = kHeaderBytes;
  for (const OutgoingBlock& block : blocks) {
    bytes += kHeaderBytes + RoundUp(PayloadOf(block).size());
  }
  return bytes;
}

std::vector<std::byte> EncodeUpdatePreamble(TaskId task, std::uint32_t block_count,
                                            std::uint64_t total_bytes) {
  Preamble preamble;
  preamble.block_count = block_count;
  preamble.task = task;
  preamble.total_bytes = total_bytes;
  preamble.crc32c = HeaderCrc(preamble);
  const std::span<const std::byte> bytes = BytesOf(preamble);
  return {bytes.begin(), bytes.end()};
}

Status EncodeUpdateBlock(const OutgoingBlock& block, const Sink& sink) {
  return SinkBlock(block, sink);
}

Status EncodeUpdate(TaskId task, std::span<const OutgoingBlock> blocks, const Sink& sink) {
  int previous = -1;
  for (const OutgoingBlock& block : blocks) {
    if (block.parameter <= previous) {
      return InvalidArgument("update of task " + std::to_string(task) + ": parameter " +
                             std::to_string(block.parameter) + " comes after parameter " +
                             std::to_string(previous) + "; blocks must ascend");
    }
    previous = block.parameter;
  }
  FEDMOE_RETURN_IF_ERROR(sink(EncodeUpdatePreamble(task, static_cast<std::uint32_t>(blocks.size()),
                                                   EncodedUpdateBytes(blocks))));
  for (const OutgoingBlock& block : blocks) FEDMOE_RETURN_IF_ERROR(SinkBlock(block, sink));
  return Status::Ok();
}

Result<ParsedUpdate> ParseUpdate(const RandomAccessFile& file, TaskId task,
                                 std::uint64_t max_blocks) {
  FEDMOE_ASSIGN_OR_RETURN(const std::uint64_t size, file.Size());
  if (size < kHeaderBytes) {
    return Refused(RejectReason::kMalformed,
                   "is " + std::to_string(size) + " bytes, under the 64 bytes of a preamble");
  }
  Preamble preamble;
  FEDMOE_RETURN_IF_ERROR(ReadHeader(file, 0, preamble));
  if (const Verdict verdict = CheckPreamble(preamble, size, task, max_blocks);
      !verdict.accepted()) {
    return Refused(verdict.reason, verdict.detail);
  }
  return ParseBlocks(file, kHeaderBytes, preamble.block_count, "update");
}

Result<ParsedUpdate> ParseBlocks(const RandomAccessFile& file, std::uint64_t offset,
                                 std::uint32_t block_count, const std::string& what) {
  FEDMOE_ASSIGN_OR_RETURN(const std::uint64_t size, file.Size());
  ParsedUpdate update;
  std::optional<std::uint32_t> previous;
  for (std::uint32_t i = 0; i < block_count; ++i) {
    const std::string where = "block " + std::to_string(i) + ": ";
    if (size - offset < kHeaderBytes) {
      return Refused(RejectReason::kMalformed, where + "the " + what + " ends before its header");
    }
    BlockHeader header;
    FEDMOE_RETURN_IF_ERROR(ReadHeader(file, offset, header));
    offset += kHeaderBytes;
    const Verdict verdict = CheckBlockHeader(header, size - offset, previous);
    if (!verdict.accepted()) return Refused(verdict.reason, where + verdict.detail);
    FEDMOE_ASSIGN_OR_RETURN(const bool padding_is_zero,
                            PaddingIsZero(file, offset + header.payload_bytes));
    if (!padding_is_zero) return Refused(RejectReason::kMalformed, where + "padding is not zero");
    previous = header.parameter;
    update.blocks.push_back({.parameter = static_cast<int>(header.parameter),
                             .encoding = static_cast<Encoding>(header.encoding),
                             .elements = header.elements,
                             .payload_offset = offset,
                             .payload_bytes = header.payload_bytes,
                             .compression = static_cast<Compression>(header.compression),
                             .raw_bytes = header.raw_bytes});
    offset += RoundUp(header.payload_bytes);
  }
  if (offset != size) {
    return Refused(RejectReason::kMalformed, std::to_string(size - offset) +
                                                 " bytes follow the last of " +
                                                 std::to_string(block_count) + " blocks");
  }
  return update;
}

Result<Verdict> VerifyPayloads(const RandomAccessFile& file, const std::vector<UpdateBlock>& blocks,
                               const ModelSpec& spec) {
  for (const UpdateBlock& block : blocks) {
    FEDMOE_ASSIGN_OR_RETURN(const Verdict verdict, VerifyPayload(file, block, NameOf(block, spec)));
    if (!verdict.accepted()) return verdict;
  }
  return Verdict{};
}

}  // namespace fedmoe
