// A file's bytes in this process's memory.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "common/file_system.h"

namespace fedmoe {

using MemoryBytes = std::shared_ptr<std::vector<std::byte>>;

// Reads them under the name `path`. Readers and their regions must not be used while the bytes are
// appended to, but for what they had read before.
std::unique_ptr<RandomAccessFile> OpenMemory(std::string path, MemoryBytes bytes);

}  // namespace fedmoe
