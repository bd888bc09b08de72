// Sees every operation that changes a disk, before and after it, and may stop it: what crash points
// and injected faults have in common. The file-system seam and SQLite's report to the same one.
#pragma once

#include <cstdint>
#include <string>

#include "common/result.h"

namespace fedmoe {

enum class DiskOperation {
  kCreate,
  kOpenForAppend,
  kOverwrite,
  kWrite,
  kTruncate,
  kSync,
  kClose,
  kRename,
  kRemove,
  kCreateDirectories,
  kSyncDirectory,
  kLock,
};

// "create", "write", ...
const char* DiskOperationName(DiskOperation operation);

// What becomes of an operation.
struct DiskVerdict {
  std::int64_t index = 0;  // the hook's own: which operation it was
  bool half = false;       // of a write: its first half is carried out
  bool skip = false;       // of a sync: it is not carried out, and reported as if it were
  Status error;            // not OK: apart from that half nothing is done, and this is its error
};

// Thread-safe.
class DiskHook {
 public:
  virtual ~DiskHook() = default;
  // `path` is a rename's source.
  virtual DiskVerdict Before(DiskOperation operation, const std::string& path) = 0;
  // What Before() let through, or its half, is done.
  virtual void After(const DiskVerdict& verdict) = 0;
};

}  // namespace fedmoe
