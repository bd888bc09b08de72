#include "client/data_path.h"

#include <cstdlib>
#include <string>

#include "common/file_system.h"

namespace fedmoe {
namespace {

// The folder of the dataset that is most often meant; nothing where none is.
std::string UsualFolder(const DataOptions& options) {
  switch (options.dataset) {
    case DatasetKind::kIdx:
      return "mnist";
    case DatasetKind::kImageFolder:
    case DatasetKind::kCifarBinary:
      return "cifar10";
    case DatasetKind::kText:
      return options.partition.kind == PartitionKind::kFiles ? "languages" : "shakespeare";
    case DatasetKind::kDomains:
    case DatasetKind::kCsv:
      break;
  }
  return "";
}

}  // namespace

DataOptions WithDefaultPath(DataOptions options) {
  const std::string folder = UsualFolder(options);
  if (folder.empty() || !options.path.empty()) return options;
  if (const char* directory = std::getenv("FEDMOE_DATA_DIR");
      directory != nullptr && *directory != '\0') {
    options.path = JoinPath(directory, folder);
    return options;
  }
  for (const char* directory : {"data", "../shared/data"}) {
    const std::string candidate = JoinPath(directory, folder);
    if (PosixFileSystem().Exists(candidate)) {
      options.path = candidate;
      return options;
    }
  }
  options.path = JoinPath("data", folder);
  return options;
}

}  // namespace fedmoe
