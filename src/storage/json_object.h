// Named members of a JSON object that others wrote, read with errors that name the member.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "common/result.h"
#include "storage/json_codec.h"

namespace fedmoe {

// Keeps the first error, an INVALID_ARGUMENT that begins with `where` and the member, and then
// reads nothing more. The JSON outlives it.
class JsonObjectReader {
 public:
  // `where` is followed by the member's name: "P.json: " or "P.json: clients[3].".
  JsonObjectReader(const nlohmann::json& object, std::string where)
      : object_(object), where_(std::move(where)) {
    if (!object.is_object()) Fail("expected an object");
  }

  const Status& status() const { return status_; }

  template <typename T>
  JsonObjectReader& Need(const std::string& name, T& into) {
    if (status_.ok() && !Take(name, into) && status_.ok()) Fail(name + " is missing");
    return *this;
  }

  // Leaves `into` alone, and gives false, where there is no such member.
  template <typename T>
  bool Take(const std::string& name, T& into) {
    if (!status_.ok()) return false;
    const auto found = object_.find(name);
    if (found == object_.end()) return false;
    JsonReader reader(where_ + name);
    reader.Read(*found, into);
    if (!reader.status().ok()) status_ = InvalidArgument(reader.status().message());
    return status_.ok();
  }

  const nlohmann::json* Find(const std::string& name) const {
    if (!object_.is_object()) return nullptr;
    const auto found = object_.find(name);
    return found == object_.end() ? nullptr : &*found;
  }

  // An error for the first member that is none of `known`.
  void RefuseOthers(const std::vector<std::string>& known) {
    if (!status_.ok()) return;
    for (const auto& [name, value] : object_.items()) {
      if (std::find(known.begin(), known.end(), name) != known.end()) continue;
      std::string names;
      for (const std::string& one : known) names += (names.empty() ? "" : ", ") + one;
      return Fail("unknown field '" + name + "', known are " + names);
    }
  }

  void Fail(const std::string& what) {
    if (status_.ok()) status_ = InvalidArgument(where_ + what);
  }

 private:
  const nlohmann::json& object_;
  std::string where_;
  Status status_;
};

}  // namespace fedmoe
