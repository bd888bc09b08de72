#include "storage/spare_files.h"

#include <iterator>
#include <utility>

namespace fedmoe {

Status SpareFiles::Retire(const std::string& path) {
  FEDMOE_ASSIGN_OR_RETURN(const std::uint64_t bytes, files_.FileSize(path));
  std::string spare;
  {
    const std::lock_guard lock(mutex_);
    const bool fits = bytes >= limits_.least_bytes && bytes <= limits_.max_bytes - bytes_;
    if (fits && files_.GainsByOverwriting()) {
      spare = JoinPath(directory_, "spare-" + std::to_string(next_++) + ".tmp");
      bytes_ += bytes;
    }
  }
  if (spare.empty()) return files_.Remove(path);
  const Status renamed = files_.Rename(path, spare);
  const std::lock_guard lock(mutex_);
  if (renamed.ok()) {
    spares_.emplace(bytes, std::move(spare));
  } else {
    bytes_ -= bytes;
  }
  return renamed;
}

std::string SpareFiles::Take(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (spares_.empty()) return {};
  auto found = spares_.lower_bound(bytes);
  if (found == spares_.end()) found = std::prev(found);
  bytes_ -= found->first;
  std::string path = std::move(found->second);
  spares_.erase(found);
  return path;
}

Result<std::unique_ptr<WritableFile>> SpareFiles::Create(const std::string& path,
                                                         std::uint64_t bytes) {
  const std::string spare = Take(bytes);
  if (spare.empty() || !files_.Rename(spare, path).ok()) return files_.Create(path);
  return files_.Overwrite(path);
}

Status SpareFiles::Clear() {
  Status status;
  for (std::string path = Take(0); !path.empty(); path = Take(0)) {
    if (const Status removed = files_.Remove(path); !removed.ok()) status = removed;
  }
  return status;
}

}  // namespace fedmoe
