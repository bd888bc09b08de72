#include "common/memory_file.h"

#include <cstring>
#include <span>
#include <utility>

namespace fedmoe {
namespace {

class MemoryRegion final : public MappedRegion {
 public:
  MemoryRegion(MemoryBytes bytes, std::uint64_t offset, std::uint64_t length)
      : bytes_(std::move(bytes)), view_(std::span(*bytes_).subspan(offset, length)) {}
  std::span<const std::byte> bytes() const override { return view_; }

 private:
  MemoryBytes bytes_;
  std::span<const std::byte> view_;
};

class MemoryFile final : public RandomAccessFile {
 public:
  MemoryFile(std::string path, MemoryBytes bytes)
      : path_(std::move(path)), bytes_(std::move(bytes)) {}
  Result<std::uint64_t> Size() const override { return bytes_->size(); }
  Status ReadAt(std::uint64_t offset, std::span<std::byte> out) const override {
    FEDMOE_RETURN_IF_ERROR(CheckRange("read", offset, out.size()));
    if (!out.empty()) std::memcpy(out.data(), bytes_->data() + offset, out.size());
    return Status::Ok();
  }
  Result<std::unique_ptr<MappedRegion>> Map(std::uint64_t offset,
                                            std::uint64_t length) const override {
    FEDMOE_RETURN_IF_ERROR(CheckRange("map", offset, length));
    return std::unique_ptr<MappedRegion>(std::make_unique<MemoryRegion>(bytes_, offset, length));
  }

 private:
  Status CheckRange(const char* operation, std::uint64_t offset, std::uint64_t length) const {
    const std::uint64_t size = bytes_->size();
    if (offset <= size && length <= size - offset) return Status::Ok();
    return OutOfRange(std::string(operation) + " " + path_ + ": " + std::to_string(length) +
                      " bytes at offset " + std::to_string(offset) + " end past the file's " +
                      std::to_string(size) + " bytes");
  }

  std::string path_;
  MemoryBytes bytes_;
};

}  // namespace

std::unique_ptr<RandomAccessFile> OpenMemory(std::string path, MemoryBytes bytes) {
  return std::make_unique<MemoryFile>(std::move(path), std::move(bytes));
}

}  // namespace fedmoe
