// Structs to JSON and back, from one list of fields for both directions. FEDMOE_JSON_FIELDS names
// every field of a struct in order; a field that is added to the struct and not to the list, or the
// other way round, does not compile.
//
// Internal to storage: the journal's form, not a public one. Enums are their integers; a map is an
// array of [key, value]; an Eigen vector is an array; a variant is an object with a "type".
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "common/result.h"

namespace fedmoe {

// The highest enumerator; each enum that the codec meets specialises it.
template <typename Enum>
inline constexpr int kLastEnumerator = -1;

template <typename T>
inline constexpr bool kIsVector = false;
template <typename T>
inline constexpr bool kIsVector<std::vector<T>> = true;
template <typename T>
inline constexpr bool kIsMap = false;
template <typename K, typename V>
inline constexpr bool kIsMap<std::map<K, V>> = true;
template <typename T>
inline constexpr bool kIsOptional = false;
template <typename T>
inline constexpr bool kIsOptional<std::optional<T>> = true;

template <typename T, typename Struct>
concept ConstOrNot = std::same_as<std::remove_const_t<T>, Struct>;

// "a, b, c" -> {"a", "b", "c"}.
template <std::size_t kCount>
constexpr std::array<std::string_view, kCount> SplitFieldNames(std::string_view names) {
  std::array<std::string_view, kCount> split;
  for (std::string_view& name : split) {
    const std::size_t end = std::min(names.find(','), names.size());
    name = names.substr(0, end);
    names.remove_prefix(std::min(names.find_first_not_of(", ", end), names.size()));
  }
  return split;
}

#define FEDMOE_JSON_FIELDS(Struct, ...)                         \
  template <typename Visitor, ConstOrNot<Struct> StructValue>   \
  void VisitFields(Visitor& json_visitor, StructValue& whole) { \
    auto& [__VA_ARGS__] = whole;                                \
    json_visitor.Fields(#__VA_ARGS__, __VA_ARGS__);             \
  }

template <typename T>
nlohmann::json ToJson(const T& value);

class FieldWriter {
 public:
  template <typename... Values>
  void Fields(std::string_view names, const Values&... values) {
    const auto split = SplitFieldNames<sizeof...(Values)>(names);
    std::size_t next = 0;
    ((object_[std::string(split[next++])] = ToJson(values)), ...);
  }
  nlohmann::json Take() { return std::move(object_); }

 private:
  nlohmann::json object_ = nlohmann::json::object();
};

template <typename T>
nlohmann::json ToJson(const T& value) {
  if constexpr (std::is_enum_v<T>) {
    return static_cast<int>(value);
  } else if constexpr (std::is_arithmetic_v<T> || std::same_as<T, std::string>) {
    return value;
  } else if constexpr (kIsVector<T> || std::same_as<T, Eigen::VectorXd>) {
    nlohmann::json array = nlohmann::json::array();
    for (const auto& element : value) array.push_back(ToJson(element));
    return array;
  } else if constexpr (kIsMap<T>) {
    nlohmann::json array = nlohmann::json::array();
    for (const auto& [key, element] : value) {
      nlohmann::json pair = nlohmann::json::array();
      pair.push_back(ToJson(key));
      pair.push_back(ToJson(element));
      array.push_back(std::move(pair));
    }
    return array;
  } else if constexpr (kIsOptional<T>) {
    return value ? ToJson(*value) : nlohmann::json();
  } else {
    FieldWriter writer;
    VisitFields(writer, value);
    return writer.Take();
  }
}

// Reads values; keeps the first error, with the path to it, and then does nothing more.
class JsonReader {
 public:
  explicit JsonReader(std::string root) : path_(std::move(root)) {}

  // INTERNAL "event.header.round: expected a whole number", or OK.
  const Status& status() const { return status_; }

  template <typename T>
  void Read(const nlohmann::json& from, T& into) {
    if (!status_.ok()) return;
    if constexpr (std::is_enum_v<T>) {
      static_assert(kLastEnumerator<T> >= 0, "name the enum's last enumerator");
      int number = 0;
      ReadInteger(from, number);
      if (number < 0 || number > kLastEnumerator<T>) return Fail("no such enumerator");
      into = static_cast<T>(number);
    } else if constexpr (std::same_as<T, bool>) {
      if (!from.is_boolean()) return Fail("expected true or false");
      into = from.get<bool>();
    } else if constexpr (std::integral<T>) {
      ReadInteger(from, into);
    } else if constexpr (std::same_as<T, double>) {
      if (!from.is_number()) return Fail("expected a number");
      into = from.get<double>();
    } else if constexpr (std::same_as<T, std::string>) {
      if (!from.is_string()) return Fail("expected a string");
      into = from.get<std::string>();
    } else if constexpr (kIsVector<T> || std::same_as<T, Eigen::VectorXd>) {
      ReadArray(from, into);
    } else if constexpr (kIsMap<T>) {
      ReadMap(from, into);
    } else if constexpr (kIsOptional<T>) {
      if (from.is_null()) return into.reset();
      Read(from, into.emplace());
    } else {
      if (!from.is_object()) return Fail("expected an object");
      const nlohmann::json* outer = std::exchange(object_, &from);
      VisitFields(*this, into);
      object_ = outer;
    }
  }

  // Called by VisitFields.
  template <typename... Values>
  void Fields(std::string_view names, Values&... values) {
    const auto split = SplitFieldNames<sizeof...(Values)>(names);
    const nlohmann::json& object = *object_;
    if (object.size() != sizeof...(Values)) {
      return Fail("expected " + std::to_string(sizeof...(Values)) + " fields, found " +
                  std::to_string(object.size()));
    }
    std::size_t next = 0;
    (ReadField(object, split[next++], values), ...);
  }

 private:
  void Fail(const std::string& what) {
    if (status_.ok()) status_ = Internal(path_ + ": " + what);
  }

  template <typename T>
  void ReadAt(const std::string& step, const nlohmann::json& from, T& into) {
    const std::size_t length = path_.size();
    path_ += step;
    Read(from, into);
    path_.resize(length);
  }

  template <typename T>
  void ReadField(const nlohmann::json& object, std::string_view name, T& into) {
    if (!status_.ok()) return;
    const auto found = object.find(name);
    if (found == object.end()) return Fail("field " + std::string(name) + " is missing");
    ReadAt("." + std::string(name), *found, into);
  }

  template <typename T>
  void ReadInteger(const nlohmann::json& from, T& into) {
    if (!from.is_number_integer()) return Fail("expected a whole number");
    const bool fits = from.is_number_unsigned() ? std::in_range<T>(from.get<std::uint64_t>())
                                                : std::in_range<T>(from.get<std::int64_t>());
    if (!fits) return Fail("number out of range");
    into = from.get<T>();
  }

  template <typename T>
  void ReadArray(const nlohmann::json& from, T& into) {
    if (!from.is_array()) return Fail("expected an array");
    into.resize(static_cast<decltype(into.size())>(from.size()));
    for (std::size_t i = 0; i < from.size() && status_.ok(); ++i) {
      ReadAt("[" + std::to_string(i) + "]", from[i], into[static_cast<decltype(into.size())>(i)]);
    }
  }

  template <typename Key, typename Value>
  void ReadMap(const nlohmann::json& from, std::map<Key, Value>& into) {
    if (!from.is_array()) return Fail("expected an array");
    into.clear();
    for (std::size_t i = 0; i < from.size() && status_.ok(); ++i) {
      const std::string step = "[" + std::to_string(i) + "]";
      if (!from[i].is_array() || from[i].size() != 2) return Fail("expected [key, value] pairs");
      Key key{};
      ReadAt(step, from[i][0], key);
      const auto [entry, inserted] = into.try_emplace(key);
      if (!inserted) return Fail("a key stands twice");
      ReadAt(step, from[i][1], entry->second);
    }
  }

  std::string path_;
  Status status_;
  const nlohmann::json* object_ = nullptr;
};

// Text of a value that may hold strings from outside; bytes that are not UTF-8 become U+FFFD.
template <typename Json>
std::string DumpJson(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace fedmoe
