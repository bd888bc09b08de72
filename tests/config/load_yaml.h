// Loads configurations from text, and shows errors with the file as "x.yaml".
#pragma once

#include <cstddef>
#include <fstream>
#include <string>
#include <vector>

#include "config/client_config.h"
#include "config/coordinator_config.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {

inline std::string ReplaceAll(std::string text, const std::string& from, const std::string& to) {
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at)) {
    text.replace(at, from.size(), to);
    at += to.size();
  }
  return text;
}

// Runs `load` (LoadCoordinatorConfig or LoadClientConfig) on a file with this text.
template <typename Config>
Result<Config> LoadText(Result<Config> (*load)(const ConfigSource&), const std::string& yaml,
                        const std::vector<std::string>& overrides) {
  TempDir directory;
  const std::string path = directory.File("x.yaml");
  std::ofstream(path, std::ios::binary) << yaml;
  Result<Config> result = load({.path = path, .overrides = overrides});
  if (result.ok()) return result;
  return Status(result.status().code(), ReplaceAll(result.status().message(), path, "x.yaml"));
}

inline Result<CoordinatorConfig> LoadCoordinator(const std::string& yaml,
                                                 const std::vector<std::string>& overrides = {}) {
  return LoadText(LoadCoordinatorConfig, yaml, overrides);
}

inline Result<ClientConfig> LoadClient(const std::string& yaml,
                                       const std::vector<std::string>& overrides = {}) {
  return LoadText(LoadClientConfig, yaml, overrides);
}

// The message of a refused configuration; "accepted" if it was not refused.
inline std::string CoordinatorErrors(const std::string& yaml,
                                     const std::vector<std::string>& overrides = {}) {
  const Result<CoordinatorConfig> result = LoadCoordinator(yaml, overrides);
  return result.ok() ? "accepted" : result.status().message();
}

inline std::string ClientErrors(const std::string& yaml,
                                const std::vector<std::string>& overrides = {}) {
  const Result<ClientConfig> result = LoadClient(yaml, overrides);
  return result.ok() ? "accepted" : result.status().message();
}

}  // namespace fedmoe
