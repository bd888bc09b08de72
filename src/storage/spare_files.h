// Files that nobody needs any more, as places for new ones: to write to a place that the disk has
// given out already takes half the time of a new file, and removing one takes time as well.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "common/file_system.h"
#include "common/result.h"

namespace fedmoe {

struct SpareLimits {
  std::uint64_t least_bytes = std::uint64_t{1} << 20;  // of a file; shorter ones are removed
  std::uint64_t max_bytes = std::uint64_t{1} << 30;    // of all spares
};

// Spares are never more than this part of what is free on the disk.
inline constexpr std::uint64_t kSparesOfFree = 8;

// Spares stand in `directory` as spare-N.tmp. Thread-safe.
class SpareFiles {
 public:
  // `files` must outlive this object.
  SpareFiles(FileSystem& files, std::string directory, const SpareLimits& limits = {})
      : files_(files), directory_(std::move(directory)), limits_(limits) {}

  // The file is gone from its path: it is a spare, or removed, as all are in memory. Nobody may
  // read it any more, not even who has it open.
  Status Retire(const std::string& path);
  // A new file, of about so many bytes, in a spare's place if one is to be had. See
  // FileSystem::Overwrite(): it is to be trimmed.
  Result<std::unique_ptr<WritableFile>> Create(const std::string& path, std::uint64_t bytes);
  // Removes all spares.
  Status Clear();

 private:
  // Takes one out, of at most so many bytes: the shortest that has `bytes`, or else the longest.
  // Empty: there is none.
  std::string Take(std::uint64_t bytes, std::uint64_t most);

  FileSystem& files_;
  const std::string directory_;
  const SpareLimits limits_;
  std::mutex mutex_;
  std::multimap<std::uint64_t, std::string> spares_;  // paths by size
  std::uint64_t bytes_ = 0;
  std::uint64_t next_ = 1;
};

}  // namespace fedmoe
