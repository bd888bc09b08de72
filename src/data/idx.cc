#include "data/idx.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <utility>

#include <fmt/format.h>

#include "common/file_system.h"
#include "data/byte_source.h"

namespace fedmoe {
namespace {

constexpr std::uint32_t kImagesMagic = 0x00000803;
constexpr std::uint32_t kLabelsMagic = 0x00000801;
constexpr std::uint32_t kMaxSide = 4096;
constexpr std::uint64_t kMaxPayloadBytes = std::uint64_t{1} << 30;

struct IdxFile {
  std::string path;  // the one that was found
  std::unique_ptr<ByteSource> source;
};

Result<IdxFile> OpenIdx(const std::string& path) {
  FileSystem& files = PosixFileSystem();
  const bool named_gzip = path.ends_with(".gz");
  std::string found = path;
  if (!files.Exists(found) && !named_gzip) found += ".gz";
  if (!files.Exists(found)) {
    return NotFound(
        fmt::format("{}: no such file{}; fetch it with scripts/fetch_data mnist, or set data.path",
                    path, named_gzip ? "" : fmt::format(" (nor {}.gz)", path)));
  }
  FEDMOE_ASSIGN_OR_RETURN(auto source, OpenByteSource(files, found));
  return IdxFile{std::move(found), std::move(source)};
}

Status Truncated(const std::string& path, std::uint64_t have, std::uint64_t want) {
  return DataLoss(
      fmt::format("{}: truncated: {} bytes where the header says {}", path, have, want));
}

std::uint32_t BigEndian(std::span<const std::byte> bytes) {
  std::uint32_t value = 0;
  for (int i = 0; i < 4; ++i) value = value << 8 | std::to_integer<std::uint32_t>(bytes[i]);
  return value;
}

// Reads the magic number and `Sizes` big-endian sizes after it.
template <std::size_t Sizes>
Result<std::array<std::uint32_t, Sizes>> ReadHeader(IdxFile& file, std::uint32_t magic,
                                                    std::string_view what) {
  std::array<std::byte, 4 + 4 * Sizes> header{};
  FEDMOE_ASSIGN_OR_RETURN(const std::size_t length, file.source->Read(header));
  if (length >= 4 && BigEndian(header) != magic) {
    return InvalidArgument(fmt::format("{}: wrong magic number 0x{:08x} (want 0x{:08x} for {})",
                                       file.path, BigEndian(header), magic, what));
  }
  if (length < header.size()) return Truncated(file.path, length, header.size());
  std::array<std::uint32_t, Sizes> sizes{};
  for (std::size_t i = 0; i < Sizes; ++i) {
    sizes[i] = BigEndian(std::span(header).subspan(4 + 4 * i, 4));
  }
  if (sizes[0] == 0) {
    return InvalidArgument(file.path + ": empty: the header says 0 examples");
  }
  return sizes;
}

// The `payload_bytes` after a header of `header_bytes`, which must end the file.
Result<std::vector<std::uint8_t>> ReadPayload(IdxFile& file, std::uint64_t header_bytes,
                                              std::uint64_t payload_bytes) {
  if (payload_bytes > kMaxPayloadBytes) {
    return InvalidArgument(fmt::format("{}: the header says {} bytes of data, over the limit of {}",
                                       file.path, payload_bytes, kMaxPayloadBytes));
  }
  // A short file cannot make us allocate what its header claims.
  std::vector<std::uint8_t> payload(
      static_cast<std::size_t>(std::min(payload_bytes, file.source->MaxBytes())));
  FEDMOE_ASSIGN_OR_RETURN(const std::size_t length,
                          file.source->Read(std::as_writable_bytes(std::span(payload))));
  if (length < payload_bytes) {
    return Truncated(file.path, header_bytes + length, header_bytes + payload_bytes);
  }
  // Reading to the end also lets gzip compare its checksum.
  std::array<std::byte, 4096> rest{};
  std::uint64_t extra = 0;
  for (;;) {
    FEDMOE_ASSIGN_OR_RETURN(const std::size_t more, file.source->Read(rest));
    if (more == 0) break;
    extra += more;
  }
  if (extra > 0) {
    return DataLoss(fmt::format("{}: {} bytes follow the {} that the header says", file.path, extra,
                                header_bytes + payload_bytes));
  }
  return payload;
}

}  // namespace

Result<IdxImages> ReadIdxImages(const std::string& path) {
  FEDMOE_ASSIGN_OR_RETURN(IdxFile file, OpenIdx(path));
  FEDMOE_ASSIGN_OR_RETURN(const auto sizes, ReadHeader<3>(file, kImagesMagic, "images"));
  const auto [count, rows, columns] = sizes;
  if (rows < 1 || rows > kMaxSide || columns < 1 || columns > kMaxSide) {
    return InvalidArgument(fmt::format("{}: {}x{} images are outside 1 to {} a side", file.path,
                                       rows, columns, kMaxSide));
  }
  // At most 2^32 * 2^24, so it cannot overflow; ReadPayload bounds it, and with it `count`.
  const std::uint64_t bytes = std::uint64_t{count} * rows * columns;
  IdxImages images;
  FEDMOE_ASSIGN_OR_RETURN(images.pixels, ReadPayload(file, 16, bytes));
  images.count = static_cast<int>(count);
  images.rows = static_cast<int>(rows);
  images.columns = static_cast<int>(columns);
  return images;
}

Result<std::vector<std::uint8_t>> ReadIdxLabels(const std::string& path) {
  FEDMOE_ASSIGN_OR_RETURN(IdxFile file, OpenIdx(path));
  FEDMOE_ASSIGN_OR_RETURN(const auto sizes, ReadHeader<1>(file, kLabelsMagic, "labels"));
  return ReadPayload(file, 8, sizes[0]);
}

Status CheckIdxLabels(std::span<const std::uint8_t> labels, int classes, const std::string& path) {
  for (std::size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] >= classes) {
      return InvalidArgument(fmt::format("{}: label {} of example {} is outside 0 to {}", path,
                                         labels[i], i, classes - 1));
    }
  }
  return Status::Ok();
}

}  // namespace fedmoe
