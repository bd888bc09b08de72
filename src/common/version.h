// The build's version, and the protocol range that it speaks.
#pragma once

#include <cstdint>

namespace fedmoe {

inline constexpr char kVersion[] = "0.1.0";
// The lowest and highest wire protocol version that this build can speak.
inline constexpr std::uint32_t kProtocolMin = 1;
inline constexpr std::uint32_t kProtocolMax = 1;

}  // namespace fedmoe
