// The spool: each update of the round in hand as one file, NNNN.update, or, if it is small, as a
// record of a segment; the bytes exactly as they came.
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
#include "storage/segment_log.h"
#include "storage/spare_files.h"

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
  // Gives the update its task's name. It is durable once, after that, Sync() has returned OK and,
  // where it has a file of its own, Spool::SyncNames(), in any order and on any threads.
  virtual Status Keep() = 0;
  // Makes the bytes durable.
  virtual Status Sync() = 0;
  // Of a kept update: whether its name needs a sync.
  virtual bool HasFile() const = 0;
};

struct SpoolOptions {
  // Updates up to this size go into segments. 0: none does.
  std::uint64_t segment_update_bytes = 0;
  // Where small updates are while they come in, if not in the spool's own file system, of which it
  // must be a view: small ones need not touch the disk before they are kept. Updates that outlive
  // the spool hold on to it.
  std::shared_ptr<FileSystem> incoming;
  // Of the files that come to be written anew.
  SpareLimits spares;
  std::uint64_t segment_bytes = SegmentLogOptions().segment_bytes;
};

// Thread-safe.
class Spool {
 public:
  // Removes what RemoveUnfinished() does.
  static Result<std::unique_ptr<Spool>> Open(FileSystem& files, const std::string& directory,
                                             const SpoolOptions& options = {});
  // Files that a crash left of updates that were coming, and what was set aside. No error where
  // there is no such directory.
  static Status RemoveUnfinished(FileSystem& files, const std::string& directory);
  // Two streams for one task do not disturb each other: each has its own temporary file, which is
  // made with the first use.
  std::unique_ptr<IncomingUpdate> Begin(TaskId task, std::uint64_t announced_bytes);
  Result<std::unique_ptr<RandomAccessFile>> Read(TaskId task) const;
  bool Has(TaskId task) const;
  // Makes the names of all files kept so far durable: one sync for as many as there are.
  Status SyncNames();
  // Removes every kept update of a task below `end` except those of `keep`. With kYes their places
  // on the disk go to updates that come, and nobody may read them any more.
  Status RemoveExcept(const std::set<TaskId>& keep, TaskId end = std::numeric_limits<TaskId>::max(),
                      Reuse reuse = Reuse::kYes);
  // Removes what is set aside to be written anew: the disk is full, or all is over. Best effort.
  void GiveBack();
  // For the time being no more updates come: nothing that is not needed stays.
  Status Seal();

 private:
  Spool(FileSystem& files, std::string directory, const SpoolOptions& options)
      : incoming_(options.incoming),
        disk_(files),
        files_(options.incoming != nullptr ? *options.incoming : files),
        directory_(directory),
        spares_(files, directory, options.spares),
        segment_update_bytes_(options.segment_update_bytes) {}
  const std::shared_ptr<FileSystem> incoming_;
  FileSystem& disk_;   // where large updates come in
  FileSystem& files_;  // the view of it where small ones do
  std::string directory_;
  SpareFiles spares_;  // of large updates
  std::uint64_t segment_update_bytes_;
  std::unique_ptr<SegmentLog> segments_;
};

}  // namespace fedmoe
