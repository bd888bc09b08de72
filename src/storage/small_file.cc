#include "storage/small_file.h"

#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace fedmoe {
namespace {

using Content = std::shared_ptr<const std::vector<std::byte>>;

class BufferedRegion final : public MappedRegion {
 public:
  BufferedRegion(Content content, std::span<const std::byte> bytes)
      : content_(std::move(content)), bytes_(bytes) {}
  std::span<const std::byte> bytes() const override { return bytes_; }

 private:
  const Content content_;
  const std::span<const std::byte> bytes_;
};

class BufferedFile final : public RandomAccessFile {
 public:
  explicit BufferedFile(Content content) : content_(std::move(content)) {}

  Result<std::uint64_t> Size() const override { return content_->size(); }

  Status ReadAt(std::uint64_t offset, std::span<std::byte> out) const override {
    FEDMOE_ASSIGN_OR_RETURN(const auto bytes, Range(offset, out.size()));
    if (!out.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
    return Status::Ok();
  }

  Result<std::unique_ptr<MappedRegion>> Map(std::uint64_t offset,
                                            std::uint64_t length) const override {
    FEDMOE_ASSIGN_OR_RETURN(const auto bytes, Range(offset, length));
    return std::unique_ptr<MappedRegion>(std::make_unique<BufferedRegion>(content_, bytes));
  }

 private:
  Result<std::span<const std::byte>> Range(std::uint64_t offset, std::uint64_t length) const {
    if (offset <= content_->size() && length <= content_->size() - offset) {
      return std::span(*content_).subspan(offset, length);
    }
    return OutOfRange(std::to_string(length) + " bytes at offset " + std::to_string(offset) +
                      " end past the file's " + std::to_string(content_->size()) + " bytes");
  }

  const Content content_;
};

}  // namespace

std::unique_ptr<RandomAccessFile> FileOf(Content content) {
  return std::make_unique<BufferedFile>(std::move(content));
}

Result<std::unique_ptr<RandomAccessFile>> BufferIfSmall(std::unique_ptr<RandomAccessFile> file) {
  FEDMOE_ASSIGN_OR_RETURN(const std::uint64_t size, file->Size());
  if (size > kSmallFileBytes) return file;
  auto content = std::make_shared<std::vector<std::byte>>(size);
  FEDMOE_RETURN_IF_ERROR(file->ReadAt(0, *content));
  return FileOf(std::move(content));
}

}  // namespace fedmoe
