// A file system that fails when told to: how tests reach ENOSPC, EIO, short writes, failed syncs
// and torn renames.
//
// Every mutating operation (create, open for append, overwrite, append, sync, trim, close, rename,
// remove, create directories, sync directory) has an index, from 0, in the order of the calls. A
// test runs its subject once to learn the number of operations, then once more for each index with
// a fault there:
//
//   FaultFileSystem files(PosixFileSystem());
//   files.FailAt(3, FaultFileSystem::Fault::kNoSpace);
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/disk_hook.h"
#include "common/forwarding_file_system.h"

namespace fedmoe {

// Reads (opening for reading, reading, mapping, listing) have an index of their own, with
// FailReadAt(). Locks pass through.
//
// Thread-safe; the files that it opens for writing are not; none may outlive it.
// As a DiskHook it numbers and fails the operations of files that do not go through the seam,
// SQLite's, together with its own.
class FaultFileSystem final : public ForwardingFileSystem, public DiskHook {
 public:
  // What goes wrong. A fault leaves the operations that it cannot hit alone: they succeed, also at
  // its index.
  enum class Fault {
    kNoSpace,     // ENOSPC, nothing done; every operation but remove.
    kIoError,     // EIO, nothing done; every operation.
    kShortWrite,  // Append writes half of its bytes, then ENOSPC; nothing else.
    kSyncFails,   // EIO from a sync of a file or directory; nothing else.
    kTornRename,  // Rename moves the file, but only the first half of it, then EIO; nothing else.
    kWorst,       // Of each operation what leaves most behind: kShortWrite, kTornRename, else EIO.
  };

  // `base` does the work; it must outlive this object.
  explicit FaultFileSystem(FileSystem& base) : ForwardingFileSystem(base) {}

  // The operation with this index fails. Replaces an earlier fault, as FailFrom does.
  void FailAt(std::int64_t index, Fault fault);
  // The operation with this index and all after it fail.
  void FailFrom(std::int64_t index, Fault fault);
  // The read with this index fails with EIO, beside what else fails.
  void FailReadAt(std::int64_t index);
  // No more faults; the counts of operations and reads go on.
  void Clear();
  // The number of mutating operations so far, failed ones included; the index of the next one.
  std::int64_t operations() const;
  // The number of reads so far; the index of the next one.
  std::int64_t reads() const;
  // The number of operations and reads that were made to fail so far.
  std::int64_t faults() const;

  DiskVerdict Before(DiskOperation operation, const std::string& path) override;
  void After(const DiskVerdict&) override {}

  Result<std::unique_ptr<WritableFile>> Create(const std::string& path) override;
  Result<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path) override;
  Result<std::unique_ptr<WritableFile>> Overwrite(const std::string& path) override;
  Result<std::unique_ptr<RandomAccessFile>> Open(const std::string& path) override;
  Result<std::vector<std::string>> List(const std::string& path) override;
  Status Rename(const std::string& from, const std::string& to) override;
  Status Remove(const std::string& path) override;
  Status CreateDirectories(const std::string& path) override;
  Status SyncDirectory(const std::string& path) override;

 private:
  class FaultWritableFile;
  class FaultReadFile;
  enum class Operation { kOther, kAppend, kSync, kRename, kRemove };

  static bool Hits(Fault fault, Operation operation);
  // The fault in force, and OK or the error that it makes of an operation, named as the real file
  // system names it.
  struct Decision {
    Fault fault;
    Status status;
  };
  Decision Count(Operation operation, const std::string& name, const std::string& path);
  Status CountRead(const std::string& name, const std::string& path);
  Status TearRename(const std::string& from, const std::string& to);

  mutable std::mutex mutex_;
  std::int64_t operations_ = 0;
  std::int64_t faults_ = 0;
  // Operations in [first_, last_) fail.
  std::int64_t first_ = 0;
  std::int64_t last_ = 0;
  Fault fault_ = Fault::kIoError;
  std::int64_t reads_ = 0;
  std::int64_t failed_read_ = -1;  // -1: none
};

}  // namespace fedmoe
