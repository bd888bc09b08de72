// Where a configuration comes from.
#pragma once

#include <string>
#include <vector>

namespace fedmoe {

struct ConfigSource {
  std::string path;                    // of the YAML file
  std::vector<std::string> overrides;  // "key.path=value", as --set gave them, in order
};

}  // namespace fedmoe
