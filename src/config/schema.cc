#include "config/schema.h"

#include <algorithm>
#include <tuple>

#include <fmt/format.h>

namespace fedmoe {
namespace {

constexpr std::size_t kMaxShownBytes = 64;

std::string LastPart(const std::string& path) { return path.substr(path.rfind('.') + 1); }

// A third of a word may be wrong, and always one letter.
std::size_t AllowedDistance(const std::string& word) {
  return std::max<std::size_t>(1, word.size() / 3);
}

}  // namespace

std::size_t EditDistance(std::string_view a, std::string_view b) {
  // Optimal string alignment: two neighbours swapped count as one edit.
  std::vector<std::vector<std::size_t>> d(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (std::size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t change = d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, change});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
      }
    }
  }
  return d[a.size()][b.size()];
}

std::optional<std::string> NearestWord(const std::string& word,
                                       const std::vector<std::string>& words) {
  if (word.size() > kMaxShownBytes) return std::nullopt;
  std::optional<std::string> nearest;
  std::size_t least = AllowedDistance(word) + 1;
  for (const std::string& candidate : words) {
    const std::size_t distance = EditDistance(word, candidate);
    if (distance >= least) continue;
    least = distance;
    nearest = candidate;
  }
  return nearest;
}

std::string Printable(const std::string& text) {
  std::string shown = text.substr(0, kMaxShownBytes);
  for (char& c : shown) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) c = '?';
  }
  return text.size() > kMaxShownBytes ? shown + "..." : shown;
}

std::string Describe(const ConfigValue& value) {
  switch (value.kind) {
    case ValueKind::kNothing:
      return "nothing";
    case ValueKind::kScalar:
      return fmt::format("'{}'", Printable(value.text));
    case ValueKind::kList:
      return "a list";
    case ValueKind::kSection:
      return "a section";
    case ValueKind::kOther:
      return "a list of more than scalars";
  }
  return "";
}

std::string NotOneOf(const ConfigValue& value, const std::vector<std::string>& words) {
  std::string message =
      fmt::format("must be one of {} (got {}", fmt::join(words, ", "), Describe(value));
  const std::optional<std::string> nearest =
      value.kind == ValueKind::kScalar ? NearestWord(value.text, words) : std::nullopt;
  if (nearest) message += fmt::format(", did you mean '{}'?", *nearest);
  return message + ")";
}

void ReadKeys::Complain(const std::vector<std::string>& paths, std::string message) {
  const ConfigPosition* position = nullptr;
  for (const std::string& path : paths) {
    if (failed.count(path) > 0) return;
    const auto found = set.find(path);
    if (position == nullptr && found != set.end()) position = &found->second;
  }
  const ConfigPosition nowhere{.source = 0, .line = std::numeric_limits<int>::max(), .label = file};
  errors.push_back({position != nullptr ? *position : nowhere, std::move(message)});
}

void ReadKeys::Require(const std::string& path, const std::string& meaning) {
  if (!Has(path)) Complain({path}, fmt::format("missing key '{}' ({})", path, meaning));
}

void SchemaSection::Add(const std::string& key, std::function<std::string(const ConfigValue&)> read,
                        std::function<std::string()> write) const {
  const std::string path = prefix_ + key;
  for (std::size_t dot = path.find('.'); dot != std::string::npos; dot = path.find('.', dot + 1)) {
    schema_.sections_.insert(path.substr(0, dot));
  }
  schema_.index_[path] = schema_.keys_.size();
  schema_.keys_.push_back({path, std::move(read), std::move(write)});
}

bool Schema::IsSection(const std::string& path) const { return sections_.count(path) > 0; }

std::string Schema::UnknownKey(const std::string& path) const {
  const auto hint = hints_.find(path);
  if (hint != hints_.end()) return fmt::format("unknown key '{}' ({})", path, hint->second);
  std::string message = fmt::format("unknown key '{}'", Printable(path));
  if (path.size() > kMaxShownBytes) return message;

  // A misspelt path, or a key that stands in another section.
  const std::string last = LastPart(path);
  std::size_t least = AllowedDistance(last) + 1;
  std::string nearest;
  const auto consider = [&](const std::string& candidate) {
    const std::size_t distance =
        std::min(EditDistance(path, candidate), 1 + EditDistance(last, LastPart(candidate)));
    if (distance >= least) return;
    least = distance;
    nearest = candidate;
  };
  for (const SchemaKey& key : keys_) consider(key.path);
  for (const std::string& section : sections_) consider(section);
  if (!nearest.empty()) message += fmt::format(" (did you mean '{}'?)", nearest);
  return message;
}

bool Schema::ReadEntry(const ConfigEntry& entry, ReadKeys& keys) const {
  const auto fail = [&](std::string message) {
    keys.failed.insert(entry.path);
    keys.errors.push_back({entry.position, std::move(message)});
  };
  if (IsSection(entry.path)) {
    keys.sections.insert(entry.path);
    const bool from_file = entry.position.source == 0;
    const bool empty = entry.value.kind == ValueKind::kNothing && from_file;
    if (empty || (entry.value.kind == ValueKind::kSection && from_file)) return true;
    fail(fmt::format("{} must be a section of keys (got {})", entry.path, Describe(entry.value)));
    return false;
  }
  const auto found = index_.find(entry.path);
  if (found == index_.end()) {
    fail(UnknownKey(entry.path));
    return false;
  }
  for (std::size_t dot = entry.path.find('.'); dot != std::string::npos;
       dot = entry.path.find('.', dot + 1)) {
    keys.sections.insert(entry.path.substr(0, dot));
  }
  keys.set[entry.path] = entry.position;
  const std::string complaint = keys_[found->second].read(entry.value);
  if (!complaint.empty()) fail(entry.path + " " + complaint);
  return complaint.empty();
}

ReadKeys Schema::Read(const ConfigDocument& document) const {
  ReadKeys keys;
  keys.file = document.file;
  keys.errors = document.errors;
  std::string skipped;  // "section.": what is below was complained about already
  for (const ConfigEntry& entry : document.entries) {
    if (!skipped.empty() && entry.path.starts_with(skipped)) continue;
    const bool descend = ReadEntry(entry, keys) || entry.position.source > 0;
    skipped = descend ? "" : entry.path + ".";
  }
  return keys;
}

std::string Schema::Write() const {
  std::string text;
  std::vector<std::string> open;  // sections that the last key stood in
  for (const SchemaKey& key : keys_) {
    std::vector<std::string> parts;
    std::size_t start = 0;
    for (std::size_t dot = key.path.find('.'); dot != std::string::npos;
         dot = key.path.find('.', start)) {
      parts.push_back(key.path.substr(start, dot - start));
      start = dot + 1;
    }
    std::size_t shared = 0;
    while (shared < std::min(open.size(), parts.size()) && open[shared] == parts[shared]) ++shared;
    for (std::size_t i = shared; i < parts.size(); ++i) {
      text += std::string(2 * i, ' ') + parts[i] + ":\n";
    }
    open = parts;
    text += fmt::format("{}{}: {}\n", std::string(2 * parts.size(), ' '), key.path.substr(start),
                        key.write());
  }
  return text;
}

Status JoinErrors(std::vector<ConfigError> errors) {
  if (errors.empty()) return Status::Ok();
  std::stable_sort(errors.begin(), errors.end(), [](const ConfigError& a, const ConfigError& b) {
    return std::tie(a.position.source, a.position.line) <
           std::tie(b.position.source, b.position.line);
  });
  std::string text;
  for (const ConfigError& error : errors) {
    if (!text.empty()) text += '\n';
    text += error.position.label + ": " + error.message;
  }
  return InvalidArgument(text);
}

}  // namespace fedmoe
