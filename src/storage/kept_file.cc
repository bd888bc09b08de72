#include "storage/kept_file.h"

namespace fedmoe {
namespace {

bool IsThere(FileSystem& files, const std::string& path, const std::string& bytes) {
  const Result<std::uint64_t> size = files.FileSize(path);
  if (!size.ok() || *size != bytes.size()) return false;
  const Result<std::string> content = ReadFile(files, path, bytes.size());
  return content.ok() && *content == bytes;
}

}  // namespace

Status RestoreKeptFiles(FileSystem& files, const std::string& run_directory,
                        const std::vector<KeptFile>& kept) {
  for (const KeptFile& file : kept) {
    const std::string path = JoinPath(run_directory, file.path);
    if (IsThere(files, path, file.bytes)) continue;
    FEDMOE_RETURN_IF_ERROR(ReplaceFile(files, path, file.bytes));
  }
  return Status::Ok();
}

}  // namespace fedmoe
