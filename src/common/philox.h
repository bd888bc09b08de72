// What implementations of Philox4x32-10 (Salmon et al., SC 2011, section 4.3) share.
#pragma once

#include <cstdint>

namespace fedmoe {

inline constexpr std::uint64_t kPhiloxMultiplier0 = 0xD2511F53;
inline constexpr std::uint64_t kPhiloxMultiplier1 = 0xCD9E8D57;
// What is added to the two words of the key after each round.
inline constexpr std::uint32_t kPhiloxWeyl0 = 0x9E3779B9;
inline constexpr std::uint32_t kPhiloxWeyl1 = 0xBB67AE85;
inline constexpr int kPhiloxRounds = 10;

inline std::uint32_t LowWord(std::uint64_t value) { return static_cast<std::uint32_t>(value); }
inline std::uint32_t HighWord(std::uint64_t value) {
  return static_cast<std::uint32_t>(value >> 32);
}

}  // namespace fedmoe
