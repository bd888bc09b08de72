#include "common/ids.h"

#include <algorithm>
#include <cstddef>

namespace fedmoe {
namespace {

constexpr std::size_t kMaxClientIdLength = 64;

// Not std::isalnum: the locale must not decide which names are valid.
bool IsClientIdCharacter(char c) {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '_' || c == '-';
}

}  // namespace

bool IsValidClientId(const std::string& name) {
  return !name.empty() && name.size() <= kMaxClientIdLength &&
         std::all_of(name.begin(), name.end(), IsClientIdCharacter);
}

}  // namespace fedmoe
