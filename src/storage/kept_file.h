// Small files of a run whose bytes the journal keeps until they are on the disk by themselves: a
// short round then waits for the journal alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/file_system.h"
#include "common/result.h"

namespace fedmoe {

// The most that is kept of one version of the model: what is longer is better synced by itself than
// written twice.
inline constexpr std::uint64_t kMaxKeptBytes = std::uint64_t{512} << 10;

struct KeptFile {
  std::string path;  // within the run directory: "checkpoints/000012.json"
  std::string bytes;
};

// Puts back those that are missing or not what they were. Without a sync: they are still kept. What
// else stands there stays.
Status RestoreKeptFiles(FileSystem& files, const std::string& run_directory,
                        const std::vector<KeptFile>& kept);

}  // namespace fedmoe
