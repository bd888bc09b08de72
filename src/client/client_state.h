// What a client keeps on disk between tasks and restarts: its instance key, and the state that
// training left (a local gate, an error-feedback residual), versioned by committed round.
//
//   instance   32 hexadecimal characters and a line feed
//   lock       held while a client uses the directory
//   state.0    the states of two tasks, in either order: of the last one that a committed round
//   state.1    merged, and of the last one trained, whose round may be open still
//   over       that its run is over, from when the client hears it until it ends: the run's id, a
//              line feed, and what it heard
//
// Which of the two is committed is the coordinator's word, with every task; no file says it. A new
// state replaces the one that is not committed, so that whatever becomes of that write, what is
// committed was not touched.
//
// A state file: magic "FMCLIENT" | version u32 | run id length u32 | task u64 | state bytes u64 |
// crc32c u32 of these | run id | state | crc32c u32 of all before it. Integers are little-endian.
#pragma once

#include <array>
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
  // Creates what is missing. A file that is cut short, as by a write that failed, is dropped with a
  // warning. FAILED_PRECONDITION: another client uses the directory; DATA_LOSS names a file that is
  // damaged otherwise.
  static Result<std::unique_ptr<ClientState>> Open(FileSystem& files, const std::string& directory);

  // Random, made once: says that a client that comes back is the same one.
  const std::string& instance() const { return instance_; }

  // State of another run is void from here on, and none is committed until one of the next two
  // says which.
  void BeginRun(const std::string& run_id);
  // Before an evaluation: committed is the state of task `last_committed`, and no other: an earlier
  // residual was sent since, and would count twice. Warns where that state should be here and is
  // not. Removes nothing: the round of another may still be open.
  void Promote(TaskId last_committed);
  // Before a training task: the same, and removes the state that is not committed, unless it is of
  // task `keep`, whose saved update is about to be sent again.
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
  static constexpr std::size_t kSlots = 2;
  Status ReadInstance();
  std::string SlotPath(std::size_t slot) const;
  Result<std::optional<Record>> ReadRecord(std::size_t slot);
  // Where the next state goes.
  std::size_t FreeSlot() const;
  // No error where there is none.
  Status Remove(const std::string& path);

  FileSystem& files_;
  const std::string directory_;
  const std::unique_ptr<FileLock> lock_;
  std::string instance_;
  std::string run_id_;
  std::array<std::optional<Record>, kSlots> slots_;  // as on disk, of this run
  std::optional<std::size_t> committed_;             // the slot
  bool dropped_ = false;                             // one that was cut short, not yet told of
  std::optional<End> end_;
};

}  // namespace fedmoe
