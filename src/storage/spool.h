// The spool: each update of the round in hand as one file, NNNN.update, the bytes exactly as they
// came.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <set>
#include <span>
#include <string>

#include "common/file_system.h"
#include "common/ids.h"
#include "common/result.h"

namespace fedmoe {

// An update coming in, under a temporary name. Destroying it unfinished removes the file. Not
// thread-safe.
class IncomingUpdate {
 public:
  virtual ~IncomingUpdate() = default;
  // RESOURCE_EXHAUSTED past the size that was announced.
  virtual Status Append(std::span<const std::byte> bytes) = 0;
  virtual std::uint64_t size() const = 0;
  // The bytes so far, for validation before they are kept.
  virtual Result<std::unique_ptr<RandomAccessFile>> Read() = 0;
  // Gives the file its task's name. The update is durable once Sync() and, after Keep(),
  // Spool::SyncNames() have returned OK, in any order and on any threads.
  virtual Status Keep() = 0;
  // Makes the bytes durable.
  virtual Status Sync() = 0;
};

// The name that a task's kept update has within the spool.
std::string KeptUpdateName(TaskId task);

// Thread-safe.
class Spool {
 public:
  // Removes unfinished files that a crash left.
  static Result<std::unique_ptr<Spool>> Open(FileSystem& files, const std::string& directory);
  // Two streams for one task do not disturb each other: each has its own temporary file, which is
  // made with the first use.
  std::unique_ptr<IncomingUpdate> Begin(TaskId task, std::uint64_t announced_bytes);
  Result<std::unique_ptr<RandomAccessFile>> Read(TaskId task) const;
  bool Has(TaskId task) const;
  // Makes the names of all updates kept so far durable: one sync for as many as there are.
  Status SyncNames();
  // Removes every kept update of a task below `end` except those of `keep`.
  Status RemoveExcept(const std::set<TaskId>& keep,
                      TaskId end = std::numeric_limits<TaskId>::max());

 private:
  Spool(FileSystem& files, std::string directory)
      : files_(files), directory_(std::move(directory)) {}
  FileSystem& files_;
  std::string directory_;
};

}  // namespace fedmoe
