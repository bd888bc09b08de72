// A text file line by line, without holding it whole.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "common/file_system.h"
#include "common/result.h"

namespace fedmoe {

constexpr std::uint64_t kMaxLineBytes = 64 << 20;

// Calls `use` with each line that ends in a newline, without it; stops at its first error. The
// bytes after the last newline are a torn line: returns whether there are any. DATA_LOSS for a line
// of more than kMaxLineBytes.
Result<bool> ForEachLine(FileSystem& files, const std::string& path,
                         const std::function<Status(std::string_view)>& use);

}  // namespace fedmoe
