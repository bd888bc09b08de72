#include "client/data_path.h"

#include <cstdlib>

#include "common/file_system.h"

namespace fedmoe {

DataOptions WithDefaultPath(DataOptions options) {
  if (options.dataset == DatasetKind::kDomains || !options.path.empty()) return options;
  if (const char* directory = std::getenv("FEDMOE_DATA_DIR");
      directory != nullptr && *directory != '\0') {
    options.path = JoinPath(directory, "mnist");
    return options;
  }
  for (const char* candidate : {"data/mnist", "../shared/data/mnist"}) {
    if (PosixFileSystem().Exists(candidate)) {
      options.path = candidate;
      return options;
    }
  }
  options.path = "data/mnist";
  return options;
}

}  // namespace fedmoe
