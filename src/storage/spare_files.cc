#include "storage/spare_files.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <utility>

namespace fedmoe {

Status SpareFiles::Retire(const std::string& path) {
  FEDMOE_ASSIGN_OR_RETURN(const std::uint64_t bytes, files_.FileSize(path));
  const std::uint64_t most =
      std::min(limits_.max_bytes, files_.FreeBytes(directory_).value_or(0) / kSparesOfFree);
  std::string spare;
  bool too_many = false;
  {
    const std::lock_guard lock(mutex_);
    too_many = bytes_ > most;
    if (!too_many && bytes >= limits_.least_bytes && bytes <= most - bytes_) {
      spare = JoinPath(directory_, "spare-" + std::to_string(next_++) + ".tmp");
      bytes_ += bytes;
    }
  }
  if (too_many) FEDMOE_RETURN_IF_ERROR(Clear());
  if (spare.empty()) return files_.Remove(path);
  const Status renamed = files_.Rename(path, spare);
  const std::lock_guard lock(mutex_);
  if (renamed.ok()) {
    spares_.emplace(bytes, std::move(spare));
    return renamed;
  }
  bytes_ -= bytes;
  // To remove one takes less.
  return files_.Exists(path) ? files_.Remove(path) : renamed;
}

std::string SpareFiles::Take(std::uint64_t bytes, std::uint64_t most) {
  const std::lock_guard lock(mutex_);
  auto found = spares_.lower_bound(bytes);
  if (found == spares_.end() || found->first > most) {
    if (found == spares_.begin()) return {};
    found = std::prev(found);
  }
  bytes_ -= found->first;
  std::string path = std::move(found->second);
  spares_.erase(found);
  return path;
}

// Who sends little does not hold a large place, of which the rest would be of no use to others.
Result<std::unique_ptr<WritableFile>> SpareFiles::Create(const std::string& path,
                                                         std::uint64_t bytes) {
  const std::string spare = Take(bytes, 2 * bytes);
  if (spare.empty()) return files_.Create(path);
  // One that is not to be had is done without.
  if (!files_.Rename(spare, path).ok()) {
    static_cast<void>(files_.Remove(spare));
    return files_.Create(path);
  }
  Result<std::unique_ptr<WritableFile>> file = files_.Overwrite(path);
  if (!file.ok()) static_cast<void>(files_.Remove(path));
  return file;
}

Status SpareFiles::Clear() {
  constexpr std::uint64_t kAny = std::numeric_limits<std::uint64_t>::max();
  Status status;
  for (std::string path = Take(0, kAny); !path.empty(); path = Take(0, kAny)) {
    if (const Status removed = files_.Remove(path); !removed.ok()) status = removed;
  }
  return status;
}

}  // namespace fedmoe
