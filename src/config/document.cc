#include "config/document.h"

#include <cstdint>
#include <map>
#include <optional>
#include <sstream>
#include <string_view>

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include "common/file_system.h"

namespace fedmoe {
namespace {

constexpr std::uint64_t kMaxFileBytes = 1 << 20;
// Of the whole document: bounds what aliases can unfold to.
constexpr std::size_t kMaxEntries = 10'000;
constexpr std::size_t kMaxItems = 10'000;  // of all lists together
constexpr int kMaxDepth = 16;

ConfigValue ValueOf(const YAML::Node& node) {
  ConfigValue value;
  switch (node.Type()) {
    case YAML::NodeType::Undefined:
    case YAML::NodeType::Null:
      break;
    case YAML::NodeType::Scalar:
      value.kind = ValueKind::kScalar;
      value.text = node.Scalar();
      break;
    case YAML::NodeType::Map:
      value.kind = ValueKind::kSection;
      break;
    case YAML::NodeType::Sequence:
      value.kind = node.size() <= kMaxItems ? ValueKind::kList : ValueKind::kOther;
      for (std::size_t i = 0; value.kind == ValueKind::kList && i < node.size(); ++i) {
        if (!node[i].IsScalar()) value.kind = ValueKind::kOther;
        if (node[i].IsScalar()) value.items.push_back(node[i].Scalar());
      }
      break;
  }
  return value;
}

// Walks the maps of one file into entries.
class Walker {
 public:
  Walker(const std::string& file, ConfigDocument& document) : file_(file), document_(document) {}

  void Walk(const YAML::Node& map, const std::string& prefix, int depth) {
    for (const auto& pair : map) {
      if (full_) return;
      Visit(pair.first, pair.second, prefix, depth);
    }
  }

 private:
  ConfigPosition PositionOf(const YAML::Node& key) const {
    const int line = key.Mark().line + 1;
    return {.source = 0, .line = line, .label = fmt::format("{}:{}", file_, line)};
  }

  void Visit(const YAML::Node& key, const YAML::Node& node, const std::string& prefix, int depth) {
    const ConfigPosition position = PositionOf(key);
    if (!key.IsScalar()) {
      document_.errors.push_back({position, "a key must be plain text"});
      return;
    }
    const std::string path = prefix + key.Scalar();
    if (key.Scalar().find('.') != std::string::npos) {
      document_.errors.push_back(
          {position,
           fmt::format("key '{}' must not hold a dot: write its sections as nested keys", path)});
      return;
    }
    const auto [first, is_new] = lines_.emplace(path, position.line);
    if (!is_new) {
      document_.errors.push_back(
          {position, fmt::format("duplicate key '{}' (first in line {})", path, first->second)});
      return;
    }
    if (document_.entries.size() == kMaxEntries || depth == kMaxDepth) {
      full_ = true;
      document_.errors.push_back(
          {position, fmt::format("more than {} keys, or keys nested more than {} deep", kMaxEntries,
                                 kMaxDepth)});
      return;
    }
    const std::size_t items = node.IsSequence() ? node.size() : 0;
    if (items > kMaxItems - items_) {
      full_ = true;
      document_.errors.push_back(
          {position, fmt::format("more than {} values in lists", kMaxItems)});
      return;
    }
    items_ += items;
    document_.entries.push_back({path, ValueOf(node), position});
    if (node.IsMap()) Walk(node, path + ".", depth + 1);
  }

  const std::string& file_;
  ConfigDocument& document_;
  std::map<std::string, int> lines_;
  std::size_t items_ = 0;
  bool full_ = false;
};

// Takes what a document holds, and keeps nothing.
class IgnoredEvents final : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}
};

// YAML::LoadAll() would find documents without end, and keep them, in a text that begins with a
// comma: yaml-cpp 0.7 does not get past it.
bool HasSecondDocument(const std::string& text) {
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  IgnoredEvents ignored;
  return parser.HandleNextDocument(ignored) && parser.HandleNextDocument(ignored);
}

Status WalkYaml(const std::string& file, const std::string& text, ConfigDocument& document) {
  try {
    if (HasSecondDocument(text)) {
      return InvalidArgument(
          fmt::format("{}: one YAML document is expected (got more than one)", file));
    }
    const YAML::Node root = YAML::Load(text);
    if (!root.IsDefined() || root.IsNull()) return Status::Ok();
    if (!root.IsMap()) {
      return InvalidArgument(
          fmt::format("{}:{}: must be a map of keys, as 'run:'", file, root.Mark().line + 1));
    }
    Walker(file, document).Walk(root, "", 0);
  } catch (const YAML::Exception& error) {
    return InvalidArgument(fmt::format("{}:{}:{}: not valid YAML: {}", file, error.mark.line + 1,
                                       error.mark.column + 1, error.msg));
  }
  return Status::Ok();
}

// "[1, 2]" and quoted text are YAML; all else stands for itself, so that addresses and paths need
// no quotes. Nothing, if it is not valid.
std::optional<ConfigValue> OverrideValue(const std::string& text) {
  const bool list = text.size() >= 2 && text.front() == '[' && text.back() == ']';
  const bool quoted = !text.empty() && (text.front() == '"' || text.front() == '\'');
  if (!list && !quoted) return ConfigValue{.kind = ValueKind::kScalar, .text = text, .items = {}};
  try {
    return ValueOf(YAML::Load(text));
  } catch (const YAML::Exception&) {
    return std::nullopt;
  }
}

void ReadOverride(const std::string& text, std::size_t index, ConfigDocument& document) {
  const ConfigPosition position{.source = 1 + index, .line = 0, .label = "--set " + text};
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    document.errors.push_back({position, "must read key.path=value"});
    return;
  }
  const std::optional<ConfigValue> value = OverrideValue(text.substr(equals + 1));
  if (!value) {
    document.errors.push_back({position, "the value is not valid YAML"});
    return;
  }
  document.entries.push_back({text.substr(0, equals), *value, position});
}

std::string JoinItems(const std::vector<std::string>& items) {
  return fmt::format("[{}]", fmt::join(items, ", "));
}

}  // namespace

Result<ConfigDocument> ReadConfigDocument(const ConfigSource& source) {
  FEDMOE_ASSIGN_OR_RETURN(const std::string text,
                          ReadFile(PosixFileSystem(), source.path, kMaxFileBytes));
  ConfigDocument document;
  document.file = source.path;
  FEDMOE_RETURN_IF_ERROR(WalkYaml(source.path, text, document));
  for (std::size_t i = 0; i < source.overrides.size(); ++i) {
    ReadOverride(source.overrides[i], i, document);
  }
  return document;
}

Result<std::vector<std::pair<std::string, std::string>>> FlattenYaml(const std::string& yaml) {
  ConfigDocument document;
  FEDMOE_RETURN_IF_ERROR(WalkYaml("configuration", yaml, document));
  if (!document.errors.empty()) {
    const ConfigError& error = document.errors.front();
    return InvalidArgument(error.position.label + ": " + error.message);
  }
  std::vector<std::pair<std::string, std::string>> flat;
  for (ConfigEntry& entry : document.entries) {
    if (entry.value.kind == ValueKind::kSection) continue;
    const bool list = entry.value.kind == ValueKind::kList;
    flat.emplace_back(std::move(entry.path),
                      list ? JoinItems(entry.value.items) : std::move(entry.value.text));
  }
  return flat;
}

std::string QuoteYaml(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      quoted += fmt::format("\\x{:02x}", static_cast<unsigned>(c));
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

}  // namespace fedmoe
