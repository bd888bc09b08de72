// A file system that keeps small new files in memory until somebody wants them on the disk. Making
// and removing a file costs a disk more than its bytes do, and files that live for one short round
// never need to be there.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "common/forwarding_file_system.h"

namespace fedmoe {

// A file that is created where there is none stays in memory until it is synced, outgrows
// `max_file_bytes`, or all together would outgrow `max_bytes`; then it goes to `base`, for good,
// under the name that it has. Who needs more than that of a file in memory to survive a crash must
// keep its bytes elsewhere: a sync of the directory alone does not bring it to the disk.
//
// Thread-safe, with one writer a file. Errors are the base's; a file that could not go to the disk
// stays in memory.
class WriteBehindFileSystem final : public ForwardingFileSystem {
 public:
  struct Limits {
    std::uint64_t max_file_bytes = std::uint64_t{512} << 10;
    std::uint64_t max_bytes = std::uint64_t{16} << 20;
  };
  // `base` must outlive this object and its files, and this object its files.
  WriteBehindFileSystem(FileSystem& base, Limits limits);
  ~WriteBehindFileSystem() override;

  Result<std::unique_ptr<WritableFile>> Create(const std::string& path) override;
  Result<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path) override;
  Result<std::unique_ptr<WritableFile>> Overwrite(const std::string& path) override;
  Result<std::unique_ptr<RandomAccessFile>> Open(const std::string& path) override;
  Status Rename(const std::string& from, const std::string& to) override;
  Status Remove(const std::string& path) override;
  Result<std::vector<std::string>> List(const std::string& path) override;
  bool Exists(const std::string& path) override;
  Result<std::uint64_t> FileSize(const std::string& path) override;

  // Of all files in memory.
  std::uint64_t bytes() const;

 private:
  class File;
  struct Entry;
  using EntryPointer = std::shared_ptr<Entry>;

  // All with mutex_ held.
  EntryPointer Find(const std::string& path) const;
  void Forget(const EntryPointer& entry);
  Status Append(Entry& entry, std::span<const std::byte> bytes);
  // Brings it to the disk, under the name that it has now. What was removed stays in memory.
  Status Settle(const EntryPointer& entry);

  const Limits limits_;
  mutable std::mutex mutex_;
  std::map<std::string, EntryPointer> entries_;  // in memory; the base has no file of the name
  std::uint64_t bytes_ = 0;
};

}  // namespace fedmoe
