// Pages of a mapped file, before somebody touches them.
#pragma once

#include <cstddef>
#include <string>

#include "common/result.h"

namespace fedmoe {

// Reads the pages of a mapping of `path` of `length` bytes at `base`, a page's beginning. INTERNAL
// where one cannot be read, such as of a bad sector, which is SIGBUS for who touches it unread. A
// kernel older than 5.14 reads nothing.
Status ReadPages(const std::string& path, void* base, std::size_t length);

}  // namespace fedmoe
