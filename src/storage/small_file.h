// Small files as one read: what is looked at in many places costs one system call, not one a place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "common/file_system.h"
#include "common/result.h"

namespace fedmoe {

inline constexpr std::uint64_t kSmallFileBytes = std::uint64_t{256} << 10;

// `content` as a file. Its mappings share it.
std::unique_ptr<RandomAccessFile> FileOf(std::shared_ptr<const std::vector<std::byte>> content);

// `file` itself where it is longer than kSmallFileBytes; else its content in memory, as it is now.
Result<std::unique_ptr<RandomAccessFile>> BufferIfSmall(std::unique_ptr<RandomAccessFile> file);

}  // namespace fedmoe
