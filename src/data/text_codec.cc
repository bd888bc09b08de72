#include "data/text_codec.h"

#include <algorithm>
#include <map>
#include <utility>

#include <fmt/format.h>

namespace fedmoe {
namespace {

constexpr std::uint32_t kNone = 0xffffffff;

bool IsContinuation(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

// The code point at `position`, which moves behind it; kNone if there is no valid one (RFC 3629:
// shortest form, no surrogates, at most U+10FFFF).
std::uint32_t DecodeNext(std::string_view text, std::size_t& position) {
  const auto lead = static_cast<unsigned char>(text[position]);
  if (lead < 0x80) {
    ++position;
    return lead;
  }
  const std::size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() - position < length) return kNone;
  std::uint32_t code = lead & (0x7fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if (!IsContinuation(text[position + i])) return kNone;
    code = code << 6 | (static_cast<unsigned char>(text[position + i]) & 0x3f);
  }
  constexpr std::uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  if (code < kLeast[length] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return kNone;
  position += length;
  return code;
}

// "NAME:" alone on the line; else nothing.
std::string_view NameOf(std::string_view line) {
  if (line.ends_with('\r')) line.remove_suffix(1);
  if (!line.ends_with(':')) return {};
  line.remove_suffix(1);
  return line;
}

}  // namespace

Status AppendIds(std::string_view text, TextAlphabet alphabet, const std::string& path,
                 std::size_t offset, std::vector<std::uint16_t>& ids) {
  ids.reserve(ids.size() + text.size());
  if (alphabet == TextAlphabet::kBytes) {
    for (const char byte : text) ids.push_back(static_cast<unsigned char>(byte));
    return Status::Ok();
  }
  const auto size = static_cast<std::uint32_t>(AlphabetSize(alphabet));
  for (std::size_t position = 0; position < text.size();) {
    const std::size_t at = position;
    const std::uint32_t code = DecodeNext(text, position);
    if (code == kNone) {
      return InvalidArgument(fmt::format(
          "{}: invalid UTF-8 at byte {}; set data.text.alphabet to bytes to read it as it is", path,
          offset + at));
    }
    ids.push_back(static_cast<std::uint16_t>(code < size ? code : kSubstituteId));
  }
  return Status::Ok();
}

std::size_t NextCodePoint(std::string_view text, std::size_t position, TextAlphabet alphabet) {
  if (alphabet == TextAlphabet::kBytes) return position;
  while (position < text.size() && IsContinuation(text[position])) ++position;
  return position;
}

std::vector<Speaker> FindSpeakers(std::string_view text) {
  std::map<std::string, Speaker, std::less<>> by_name;
  Speaker* speaker = nullptr;
  bool at_block_start = true;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size() - 1) + 1;
    std::string_view line = text.substr(begin, end - begin);
    if (line.ends_with('\n')) line.remove_suffix(1);
    const std::string_view name = at_block_start ? NameOf(line) : std::string_view();
    if (!name.empty()) {
      speaker = &by_name.try_emplace(std::string(name)).first->second;
      speaker->name = name;
      speaker->blocks.push_back({begin, begin});
    }
    if (speaker != nullptr) {
      speaker->blocks.back().end = end;
      speaker->bytes += end - begin;
    }
    at_block_start = line.empty() || line == "\r";
    begin = end;
  }
  std::vector<Speaker> speakers;
  for (auto& [name, found] : by_name) speakers.push_back(std::move(found));
  std::stable_sort(speakers.begin(), speakers.end(),
                   [](const Speaker& a, const Speaker& b) { return a.bytes > b.bytes; });
  return speakers;
}

}  // namespace fedmoe
