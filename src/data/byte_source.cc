#include "data/byte_source.h"

#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>
#include <zlib.h>

namespace fedmoe {
namespace {

class PlainSource final : public ByteSource {
 public:
  PlainSource(std::unique_ptr<RandomAccessFile> file, std::uint64_t size)
      : file_(std::move(file)), size_(size) {}

  Result<std::size_t> Read(std::span<std::byte> out) override {
    const std::size_t length =
        static_cast<std::size_t>(std::min<std::uint64_t>(out.size(), size_ - offset_));
    if (length == 0) return length;
    FEDMOE_RETURN_IF_ERROR(file_->ReadAt(offset_, out.first(length)));
    offset_ += length;
    return length;
  }

  std::uint64_t MaxBytes() const override { return size_; }

 private:
  std::unique_ptr<RandomAccessFile> file_;
  std::uint64_t size_;
  std::uint64_t offset_ = 0;
};

class GzipSource final : public ByteSource {
 public:
  GzipSource(std::string path, std::unique_ptr<RandomAccessFile> file, std::uint64_t size)
      : path_(std::move(path)), file_(std::move(file)), size_(size) {}
  GzipSource(const GzipSource&) = delete;
  GzipSource& operator=(const GzipSource&) = delete;
  ~GzipSource() override { inflateEnd(&stream_); }

  Status Start() {
    // 16 asks zlib for the gzip wrapper, 15 for the largest window.
    if (inflateInit2(&stream_, 16 + 15) != Z_OK) return Internal(path_ + ": zlib did not start");
    return Status::Ok();
  }

  Result<std::size_t> Read(std::span<std::byte> out) override {
    std::size_t written = 0;
    while (written < out.size()) {
      if (stream_.avail_in == 0) {
        FEDMOE_RETURN_IF_ERROR(Refill());
        if (stream_.avail_in == 0) {
          if (at_member_end_) break;
          return Damaged("the compressed data ends early");
        }
      }
      const std::size_t room = std::min(out.size() - written, kMaxStep);
      stream_.next_out = reinterpret_cast<Bytef*>(out.data() + written);
      stream_.avail_out = static_cast<uInt>(room);
      const int code = inflate(&stream_, Z_NO_FLUSH);
      written += room - stream_.avail_out;
      at_member_end_ = code == Z_STREAM_END;
      if (at_member_end_) {
        inflateReset(&stream_);
      } else if (code != Z_OK) {
        return Damaged(stream_.msg != nullptr ? stream_.msg : zError(code));
      }
    }
    return written;
  }

  // Deflate cannot expand by more than 1032 to 1 (258 bytes from 2 bits).
  std::uint64_t MaxBytes() const override { return size_ * 1032; }

 private:
  static constexpr std::size_t kMaxStep = std::size_t{1} << 30;

  Status Refill() {
    const std::size_t length =
        static_cast<std::size_t>(std::min<std::uint64_t>(input_.size(), size_ - offset_));
    if (length == 0) return Status::Ok();
    FEDMOE_RETURN_IF_ERROR(file_->ReadAt(offset_, std::span(input_).first(length)));
    offset_ += length;
    stream_.next_in = reinterpret_cast<Bytef*>(input_.data());
    stream_.avail_in = static_cast<uInt>(length);
    return Status::Ok();
  }

  Status Damaged(const char* reason) const {
    return DataLoss(fmt::format("{}: not gzip, or damaged: {}", path_, reason));
  }

  std::string path_;
  std::unique_ptr<RandomAccessFile> file_;
  std::uint64_t size_;
  std::uint64_t offset_ = 0;
  std::array<std::byte, 65536> input_{};
  z_stream stream_{};
  bool at_member_end_ = false;
};

}  // namespace

Result<std::unique_ptr<ByteSource>> OpenByteSource(FileSystem& files, const std::string& path) {
  FEDMOE_ASSIGN_OR_RETURN(auto file, files.Open(path));
  FEDMOE_ASSIGN_OR_RETURN(const std::uint64_t size, file->Size());
  if (!path.ends_with(".gz")) {
    return std::unique_ptr<ByteSource>(std::make_unique<PlainSource>(std::move(file), size));
  }
  auto source = std::make_unique<GzipSource>(path, std::move(file), size);
  FEDMOE_RETURN_IF_ERROR(source->Start());
  return std::unique_ptr<ByteSource>(std::move(source));
}

}  // namespace fedmoe
