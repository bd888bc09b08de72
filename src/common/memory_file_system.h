// Files that live in this process's memory alone: the spool and the clients' state of a simulation,
// which nobody reads after it.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "common/file_system.h"
#include "common/memory_file.h"

namespace fedmoe {

// Thread-safe, and like a disk in what it promises: an open file keeps its bytes when it is renamed
// or removed. One writer a file; regions and readers must not be open while it is appended to.
class MemoryFileSystem final : public FileSystem {
 public:
  Result<std::unique_ptr<WritableFile>> Create(const std::string& path) override;
  Result<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path) override;
  Result<std::unique_ptr<RandomAccessFile>> Open(const std::string& path) override;
  Status Rename(const std::string& from, const std::string& to) override;
  Status Remove(const std::string& path) override;
  Status CreateDirectories(const std::string& path) override;
  Status SyncDirectory(const std::string& path) override;
  Result<std::vector<std::string>> List(const std::string& path) override;
  bool Exists(const std::string& path) override;
  Result<std::uint64_t> FileSize(const std::string& path) override;
  Result<std::unique_ptr<FileLock>> Lock(const std::string& path) override;

 private:
  class Held;

  std::mutex mutex_;
  std::map<std::string, MemoryBytes> files_;
  std::set<std::string> directories_;
  std::set<std::string> locks_;
};

}  // namespace fedmoe
