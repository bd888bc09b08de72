// Crashes at chosen operations on the disk, for tests of what a restart finds: scripts/crash_matrix
// kills the real programs at each of them.
//
// FEDMOE_CRASH_POINTS=N:PHASE   the process kills itself with SIGKILL at its N-th operation (from
//                               1) that changes a disk; PHASE is `before` it, `half` (of a write,
//                               half of whose bytes are written; else as after) or `after`
// FEDMOE_CRASH_POINTS=FILE      an absolute path: each operation is appended to it, as one line
//                               "N OPERATION PATH" before it begins
// FEDMOE_CRASH_POINTS=N:PHASE,FILE   both; the last line of the file is then "killed N PHASE"
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "common/disk_hook.h"
#include "common/forwarding_file_system.h"

namespace fedmoe {

inline constexpr char kCrashPointsVariable[] = "FEDMOE_CRASH_POINTS";

// The file system `base`, with crashes. Also the hook that reports of other files, SQLite's, go to:
// all are numbered together. Creating a directory that is there is no operation. Thread-safe; what
// it opens must not outlive it.
class CrashPoints final : public ForwardingFileSystem, public DiskHook {
 public:
  enum class Phase { kBefore, kHalf, kAfter };
  struct Options {
    std::int64_t operation = 0;  // 0: never
    Phase phase = Phase::kBefore;
    std::string trace;  // a path; empty: none
  };

  // INVALID_ARGUMENT quotes what is wrong with the variable's value.
  static Result<Options> Parse(std::string_view value);
  // As the environment says, and a warning in the log; null where the variable is not set, and then
  // nothing is in the way.
  static Result<std::unique_ptr<CrashPoints>> FromEnvironment(FileSystem& base);

  CrashPoints(FileSystem& base, Options options);
  ~CrashPoints() override;
  CrashPoints(const CrashPoints&) = delete;
  CrashPoints& operator=(const CrashPoints&) = delete;

  DiskVerdict Before(DiskOperation operation, const std::string& path) override;
  void After(const DiskVerdict& verdict) override;

  Result<std::unique_ptr<WritableFile>> Create(const std::string& path) override;
  Result<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path) override;
  Result<std::unique_ptr<WritableFile>> Overwrite(const std::string& path) override;
  Status Rename(const std::string& from, const std::string& to) override;
  Status Remove(const std::string& path) override;
  Status CreateDirectories(const std::string& path) override;
  Status SyncDirectory(const std::string& path) override;
  Result<std::unique_ptr<FileLock>> Lock(const std::string& path) override;

 private:
  class File;
  template <typename Call>
  auto Around(DiskOperation operation, const std::string& path, Call call);
  void Trace(const std::string& line) const;
  [[noreturn]] void Die() const;

  const Options options_;
  int trace_ = -1;
  std::mutex mutex_;
  std::int64_t operations_ = 0;
};

}  // namespace fedmoe
