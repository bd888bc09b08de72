// A file's bytes in order, plain or from gzip, through the file-system seam. Internal to `data`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "common/file_system.h"
#include "common/result.h"

namespace fedmoe {

// Not thread-safe.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // Fills `out` from where the last call ended and returns how many bytes it wrote; fewer than
  // out.size() only at the end. DATA_LOSS "PATH: not gzip, or damaged: REASON" from gzip.
  virtual Result<std::size_t> Read(std::span<std::byte> out) = 0;
  // No more than this can come from the whole source: a bound for allocations that needs no trust
  // in the content.
  virtual std::uint64_t MaxBytes() const = 0;
};

// Opens `path`; one that ends in ".gz" is read as gzip (all members of it).
Result<std::unique_ptr<ByteSource>> OpenByteSource(FileSystem& files, const std::string& path);

}  // namespace fedmoe
