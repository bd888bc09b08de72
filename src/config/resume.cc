// Which keys may differ between a run and its resumption.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "config/coordinator_config.h"
#include "config/document.h"

namespace fedmoe {
namespace {

using FlatYaml = std::vector<std::pair<std::string, std::string>>;

bool MayChange(const std::string& key) {
  return key.starts_with("server.") || key.starts_with("log.") || key == "storage.directory" ||
         key == "storage.durability" || key.starts_with("simulation.") || key == "run.rounds";
}

const std::string* ValueOf(const FlatYaml& flat, const std::string& key) {
  const auto found =
      std::find_if(flat.begin(), flat.end(), [&](const auto& pair) { return pair.first == key; });
  return found == flat.end() ? nullptr : &found->second;
}

std::string Show(const std::string& value) { return value.empty() ? "\"\"" : value; }

}  // namespace

std::vector<std::string> ResumeConflicts(const std::string& stored_yaml,
                                         const std::string& new_yaml) {
  const Result<FlatYaml> stored = FlattenYaml(stored_yaml);
  if (!stored.ok()) return {"the run's configuration: " + stored.status().message()};
  const Result<FlatYaml> now = FlattenYaml(new_yaml);
  if (!now.ok()) return {"the new configuration: " + now.status().message()};

  std::vector<std::string> conflicts;
  for (const auto& [key, value] : *stored) {
    if (MayChange(key)) continue;
    const std::string* other = ValueOf(*now, key);
    if (other == nullptr) {
      conflicts.push_back(fmt::format("{}: {} in the run, absent now", key, Show(value)));
    } else if (*other != value) {
      conflicts.push_back(fmt::format("{}: {} in the run, {} now", key, Show(value), Show(*other)));
    }
  }
  for (const auto& [key, value] : *now) {
    if (MayChange(key) || ValueOf(*stored, key) != nullptr) continue;
    conflicts.push_back(fmt::format("{}: absent in the run, {} now", key, Show(value)));
  }
  return conflicts;
}

}  // namespace fedmoe
