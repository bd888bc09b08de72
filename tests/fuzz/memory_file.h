// A file in memory whose mappings are blocks of exactly the length asked for, so that a read past
// one is seen.
#pragma once

#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/file_system.h"
#include "tests/fuzz/fuzz_check.h"

namespace fedmoe {

class MemoryFile final : public RandomAccessFile {
 public:
  explicit MemoryFile(std::string bytes) : bytes_(std::move(bytes)) {}

  Result<std::uint64_t> Size() const override { return bytes_.size(); }

  // A reader that bounds what it reads never asks for what is not there.
  Status ReadAt(std::uint64_t offset, std::span<std::byte> out) const override {
    CheckRange(offset, out.size());
    if (!out.empty()) std::memcpy(out.data(), bytes_.data() + offset, out.size());
    return Status::Ok();
  }

  Result<std::unique_ptr<MappedRegion>> Map(std::uint64_t offset,
                                            std::uint64_t length) const override {
    CheckRange(offset, length);
    return std::unique_ptr<MappedRegion>(
        std::make_unique<Region>(AsBytes(std::string_view(bytes_)).subspan(offset, length)));
  }

 private:
  class Region final : public MappedRegion {
   public:
    explicit Region(std::span<const std::byte> bytes) : bytes_(bytes.begin(), bytes.end()) {}
    std::span<const std::byte> bytes() const override { return bytes_; }

   private:
    std::vector<std::byte> bytes_;
  };

  void CheckRange(std::uint64_t offset, std::uint64_t length) const {
    FUZZ_CHECK(offset <= bytes_.size() && length <= bytes_.size() - offset,
               std::to_string(length) + " bytes at " + std::to_string(offset) + " of " +
                   std::to_string(bytes_.size()));
  }

  std::string bytes_;
};

}  // namespace fedmoe
