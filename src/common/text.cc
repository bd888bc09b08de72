#include "common/text.h"

#include <cstdint>

namespace fedmoe {
namespace {

// Length of the well-formed character that `bytes`, not empty, begin with; 0 if they begin with
// none.
std::size_t CharacterLength(std::string_view bytes) {
  const auto at = [&](std::size_t i) { return static_cast<std::uint8_t>(bytes[i]); };
  const auto within = [&](std::size_t i, int least, int most) {
    return i < bytes.size() && at(i) >= least && at(i) <= most;
  };
  const auto tail = [&](std::size_t i) { return within(i, 0x80, 0xBF); };
  const int first = at(0);
  if (first <= 0x7F) return 1;
  if (first >= 0xC2 && first <= 0xDF) return tail(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    // No overlong forms, and no surrogates.
    const bool second = within(1, first == 0xE0 ? 0xA0 : 0x80, first == 0xED ? 0x9F : 0xBF);
    return second && tail(2) ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const bool second = within(1, first == 0xF0 ? 0x90 : 0x80, first == 0xF4 ? 0x8F : 0xBF);
    return second && tail(2) && tail(3) ? 4 : 0;
  }
  return 0;
}

}  // namespace

std::string ToUtf8(std::string_view bytes, std::size_t most) {
  constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
  std::string text;
  while (!bytes.empty()) {
    const std::size_t length = CharacterLength(bytes);
    const std::string_view next = length > 0 ? bytes.substr(0, length) : kReplacement;
    if (next.size() > most - text.size()) break;
    text += next;
    bytes.remove_prefix(length > 0 ? length : 1);
  }
  return text;
}

}  // namespace fedmoe
