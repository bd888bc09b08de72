// A configuration's schema: its keys in order, each bound to a field of a struct, with type and
// range. One schema reads YAML into the struct and writes the struct as YAML, so that the two
// cannot disagree.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/ids.h"
#include "common/result.h"
#include "config/document.h"

namespace fedmoe {

struct IntegerRange {
  std::int64_t least = 0;
  std::int64_t most = std::numeric_limits<std::int64_t>::max();
};

struct NumberRange {
  double least = 0.0;
  double most = 0.0;
  bool above_least = false;  // `least` itself is out
  bool below_most = false;
};

// What a key does; the functions point into the bound struct.
struct SchemaKey {
  std::string path;
  // Stores the value, or returns the complaint that follows the path: "must be 1 to 9 (got 0)".
  std::function<std::string(const ConfigValue&)> read;
  std::function<std::string()> write;  // the field as a YAML scalar or flow sequence
};

// Where each key was set, for checks that span keys.
struct ReadKeys {
  std::string file;
  std::map<std::string, ConfigPosition> set;  // by path; the last that counts
  std::set<std::string> failed;               // set to something that is no value of the key
  std::set<std::string> sections;             // named, even if empty
  std::vector<ConfigError> errors;

  bool Has(const std::string& path) const { return set.count(path) > 0; }
  bool HasSection(const std::string& path) const { return sections.count(path) > 0; }
  // Adds an error about `paths`, placed where the first of them that was set stands, unless one of
  // them has failed already.
  void Complain(const std::vector<std::string>& paths, std::string message);
  // Adds "missing key 'path' (meaning)" if the key was not set.
  void Require(const std::string& path, const std::string& meaning);
};

class Schema;

// Adds keys under one prefix. References must outlive the schema.
class SchemaSection {
 public:
  SchemaSection(Schema& schema, std::string prefix) : schema_(schema), prefix_(std::move(prefix)) {}

  SchemaSection In(const std::string& name) const { return {schema_, prefix_ + name + "."}; }

  void Integer(const std::string& key, int& field, IntegerRange range) const;
  void Integer(const std::string& key, std::int64_t& field, IntegerRange range) const;
  void Integer(const std::string& key, std::uint64_t& field, IntegerRange range) const;
  // `scale`: what one unit of the key is in units of the field, as 1e9 for a field in FLOP/s and a
  // key in GFLOP/s. Scaled numbers are written with 12 digits.
  void Number(const std::string& key, double& field, NumberRange range, double scale = 1.0) const;
  void Boolean(const std::string& key, bool& field) const;
  // Decimal seconds; the range is in seconds.
  void Seconds(const std::string& key, Milliseconds& field, NumberRange range) const;
  // A whole number of bytes, or of KiB, MiB or GiB ("64MiB").
  void Bytes(const std::string& key, std::uint64_t& field) const;
  // `complaint` returns what is wrong with a text, or nothing.
  void Text(const std::string& key, std::string& field,
            std::function<std::string(const std::string&)> complaint = nullptr) const;
  // One of `words`.
  void Word(const std::string& key, std::string& field, std::vector<std::string> words) const;
  template <typename Enum>
  void Choice(const std::string& key, Enum& field,
              std::vector<std::pair<std::string, Enum>> choices) const;

  // One value or a list of at least one.
  void Integers(const std::string& key, std::vector<int>& field, IntegerRange range) const;
  void Numbers(const std::string& key, std::vector<double>& field, NumberRange range,
               double scale = 1.0) const;
  void ByteCounts(const std::string& key, std::vector<std::uint64_t>& field) const;

 private:
  void Add(const std::string& key, std::function<std::string(const ConfigValue&)> read,
           std::function<std::string()> write) const;

  Schema& schema_;
  std::string prefix_;
};

class Schema {
 public:
  SchemaSection Root() { return {*this, ""}; }
  // What to say about a key that looks like one but is not: "unknown key 'training' (hint)".
  void Hint(std::string path, std::string hint) { hints_[std::move(path)] = std::move(hint); }

  // Reads every entry into its field, overrides last, and collects what is wrong.
  ReadKeys Read(const ConfigDocument& document) const;
  // All keys, as nested YAML.
  std::string Write() const;

 private:
  friend class SchemaSection;
  bool IsSection(const std::string& path) const;
  std::string UnknownKey(const std::string& path) const;
  // False if what is below the entry is not to be read.
  bool ReadEntry(const ConfigEntry& entry, ReadKeys& keys) const;

  std::vector<SchemaKey> keys_;
  std::map<std::string, std::size_t> index_;  // path -> keys_
  std::set<std::string> sections_;
  std::map<std::string, std::string> hints_;
};

// All errors in order as one INVALID_ARGUMENT Status, a line each; OK if there are none.
Status JoinErrors(std::vector<ConfigError> errors);

// `text` fit for one line of a message: cut after 64 bytes, control characters as '?'.
std::string Printable(const std::string& text);
// A value for messages: "'ten'", "a list".
std::string Describe(const ConfigValue& value);
// The word nearest to `word`, if it is near enough to be meant.
std::optional<std::string> NearestWord(const std::string& word,
                                       const std::vector<std::string>& words);
std::size_t EditDistance(std::string_view a, std::string_view b);
// "must be one of a, b (got 'x', did you mean 'a'?)".
std::string NotOneOf(const ConfigValue& value, const std::vector<std::string>& words);

template <typename Enum>
void SchemaSection::Choice(const std::string& key, Enum& field,
                           std::vector<std::pair<std::string, Enum>> choices) const {
  const auto read = [&field, choices](const ConfigValue& value) -> std::string {
    std::vector<std::string> words;
    for (const auto& [word, choice] : choices) {
      if (value.kind == ValueKind::kScalar && value.text == word) {
        field = choice;
        return "";
      }
      words.push_back(word);
    }
    return NotOneOf(value, words);
  };
  const auto write = [&field, choices]() -> std::string {
    for (const auto& [word, choice] : choices) {
      if (choice == field) return word;
    }
    return "";
  };
  Add(key, read, write);
}

}  // namespace fedmoe
