// How many files, sockets among them, this process may have open.
#pragma once

#include <cstdint>

namespace fedmoe {

// Raises the limit towards `wanted` as far as the system allows (the hard limit), and returns what
// it is then; never lowers it.
std::uint64_t AllowOpenFiles(std::uint64_t wanted);

}  // namespace fedmoe
