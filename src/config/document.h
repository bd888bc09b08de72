// A configuration as it was written: every key with its value, still text, and where it stands. The
// only place that knows YAML.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "common/result.h"
#include "config/config_source.h"

namespace fedmoe {

enum class ValueKind {
  kNothing,  // "key:" or "key: ~"
  kScalar,
  kList,     // of scalars
  kSection,  // its keys follow as entries of their own
  kOther,    // a list that holds more than scalars
};

struct ConfigValue {
  ValueKind kind = ValueKind::kNothing;
  std::string text;                // kScalar
  std::vector<std::string> items;  // kList
};

// Where something stands. Orders errors: the file before --set, by line, then by --set order.
struct ConfigPosition {
  std::size_t source = 0;  // 0 for the file, 1 + i for override i
  int line = 0;
  std::string label;  // "configs/x.yaml:7" or "--set run.rounds=x"
};

struct ConfigEntry {
  std::string path;  // "run.clients.min"
  ConfigValue value;
  ConfigPosition position;
};

struct ConfigError {
  ConfigPosition position;
  std::string message;
};

struct ConfigDocument {
  std::string file;
  std::vector<ConfigEntry> entries;  // the file's in file order, then the overrides'
  std::vector<ConfigError> errors;   // keys that are no keys, duplicates
};

// Reads the file and the overrides. Fails where there is nothing to go on with: no such file
// (NOT_FOUND), over 1 MiB (RESOURCE_EXHAUSTED), not YAML ("configs/x.yaml:3:7: not valid YAML:
// ...", INVALID_ARGUMENT); what is wrong with single keys goes into `errors`.
Result<ConfigDocument> ReadConfigDocument(const ConfigSource& source);

// Every key of a YAML text with its value as text, lists as "[1, 2]", in file order; sections
// themselves are left out. INVALID_ARGUMENT for what is no YAML map of keys.
Result<std::vector<std::pair<std::string, std::string>>> FlattenYaml(const std::string& yaml);

// `text` as a YAML double-quoted scalar.
std::string QuoteYaml(const std::string& text);

}  // namespace fedmoe
