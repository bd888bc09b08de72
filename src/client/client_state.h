// What a client keeps on disk between tasks and restarts: its instance key, and the state that
// training left (a local gate, later an error-feedback residual), versioned by committed round.
//
//   instance          32 hexadecimal characters and a line feed
//   lock              held while a client uses the directory
//   committed.state   the state that the next task starts from
//   tentative.state   the state of the last task; becomes committed when its round commits
//   over              that its run is over, from when the client hears it until it ends: the run's
//                     id, a line feed, and what it heard
//
// A .state file: magic "FMCLIENT" | version u32 | run id length u32 | task u64 | state bytes u64 |
// run id | state | crc32c u32 of all before it. Integers are little-endian.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/file_system.h"
#include "common/ids.h"
#include "common/result.h"

namespace fedmoe {

// Every write is atomic. Not thread-safe.
class ClientState {
 public:
  // Creates what is missing. FAILED_PRECONDITION: another client uses the directory; DATA_LOSS
  // names a file that cannot be read.
  static Result<std::unique_ptr<ClientState>> Open(FileSystem& files, const std::string& directory);

  // Random, made once: says that a client that comes back is the same one.
  const std::string& instance() const { return instance_; }

  // State of another run is void from here on.
  void BeginRun(const std::string& run_id);
  // Before an evaluation: promotes the tentative state if its task is `last_committed`. Committed
  // state later than that is void. Other tentative state stays: its round may still be open.
  Status Promote(TaskId last_committed);
  // Before a training task: the same, and tentative state that was not promoted is discarded,
  // unless it is of task `keep`, whose saved update is about to be sent again.
  Status Settle(TaskId last_committed, TaskId keep);
  // Empty: none yet.
  std::span<const std::byte> committed() const;
  // After training `task`. Empty bytes are no state, and leave none.
  Status SaveTentative(TaskId task, std::span<const std::byte> bytes);

  // The run is over, as `detail` says. Kept before the coordinator is told that this is known, for
  // it need not be there any more when a client that dies in between is started again.
  Status SaveEnd(const std::string& detail);
  // Once the client has nothing left to do, or there is more to do than it had heard.
  Status ForgetEnd();
  // What was saved, by an earlier process perhaps, and not yet forgotten.
  struct End {
    std::string run_id;
    std::string detail;
  };
  const std::optional<End>& end() const { return end_; }

 private:
  struct Record {
    std::string run_id;
    TaskId task = 0;
    std::vector<std::byte> bytes;
  };
  ClientState(FileSystem& files, std::string directory, std::unique_ptr<FileLock> lock)
      : files_(files), directory_(std::move(directory)), lock_(std::move(lock)) {}
  Status ReadInstance();
  Result<std::optional<Record>> ReadRecord(const std::string& name) const;
  Status Remove(const char* name);

  FileSystem& files_;
  const std::string directory_;
  const std::unique_ptr<FileLock> lock_;
  std::string instance_;
  std::string run_id_;
  std::optional<Record> committed_;
  std::optional<Record> tentative_;
  std::optional<End> end_;
};

}  // namespace fedmoe
