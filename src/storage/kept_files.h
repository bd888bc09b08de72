// Small files of versions of the model, whose names begin with the version's number, and whose
// bytes are kept in segments until they are on the disk by themselves. A version of the model that
// is soon replaced costs one sync, and never a file of its own.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "common/file_system.h"
#include "common/ids.h"
#include "common/result.h"
#include "storage/segment_log.h"

namespace fedmoe {

// The most that is kept of one version: what is longer is better synced by itself than written
// twice.
inline constexpr std::uint64_t kMaxKeptBytes = std::uint64_t{512} << 10;

struct KeptFile {
  std::string name;  // within the directory
  std::string bytes;
};

// Thread-safe.
class KeptFiles {
 public:
  // Reads what is kept in `directory`, which is there: of each name the last.
  static Result<std::unique_ptr<KeptFiles>> Open(FileSystem& files, const std::string& directory,
                                                 const SegmentLogOptions& options = {});

  // Durable on return, with one sync for all. After an error some may be kept.
  Status Keep(const std::vector<KeptFile>& files);
  // They are durable by themselves, or gone. No error for one that is not kept; what was forgotten
  // may be kept again after Open().
  Status Forget(const std::set<std::string>& names);
  std::set<std::string> Names() const;
  // Brings those of versions up to `newest` (later ones may be kept and not yet committed) that
  // stand in `files` to the disk by themselves, in the order in which they were kept, and forgets
  // them.
  Status Settle(FileSystem& files, ModelVersion newest);
  // For the time being nothing more is kept: segments that hold nothing go.
  Status Seal() { return log_->Seal(); }

  // Writes those of versions up to `newest` that are missing in `files`, or not what they were, to
  // their directory. Without a sync: they are still kept. What else stands there stays.
  Status Restore(FileSystem& files, ModelVersion newest) const;

 private:
  KeptFiles(std::unique_ptr<SegmentLog> log, std::string directory)
      : log_(std::move(log)), directory_(std::move(directory)) {}
  Result<KeptFile> Read(SegmentKey key) const;

  const std::unique_ptr<SegmentLog> log_;
  const std::string directory_;
  mutable std::mutex mutex_;
  std::map<std::string, SegmentKey> keys_;  // by name
  SegmentKey next_ = 1;
};

}  // namespace fedmoe
