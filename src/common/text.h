// Text that must fit where it goes.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace fedmoe {

// `bytes` as UTF-8 (Unicode 15, table 3-7) of at most `most` bytes: what is none becomes U+FFFD,
// one for each byte, and no character is cut.
std::string ToUtf8(std::string_view bytes, std::size_t most);

}  // namespace fedmoe
