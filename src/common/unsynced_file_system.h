// A file system without syncs, for what need not survive a power cut: simulations, of whose short
// rounds waiting for the disk would be the most, and runs with Durability::kNone.
#pragma once

#include "common/file_system.h"

namespace fedmoe {

// Passes everything on to `files`, which must outlive it, but Sync and SyncDirectory. Thread-safe
// where `files` is.
class UnsyncedFileSystem final : public FileSystem {
 public:
  explicit UnsyncedFileSystem(FileSystem& files) : files_(files) {}

  Result<std::unique_ptr<WritableFile>> Create(const std::string& path) override;
  Result<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path) override;
  Result<std::unique_ptr<RandomAccessFile>> Open(const std::string& path) override {
    return files_.Open(path);
  }
  Status Rename(const std::string& from, const std::string& to) override {
    return files_.Rename(from, to);
  }
  Status Remove(const std::string& path) override { return files_.Remove(path); }
  Status CreateDirectories(const std::string& path) override {
    return files_.CreateDirectories(path);
  }
  Status SyncDirectory(const std::string&) override { return Status::Ok(); }
  Result<std::vector<std::string>> List(const std::string& path) override {
    return files_.List(path);
  }
  bool Exists(const std::string& path) override { return files_.Exists(path); }
  Result<std::uint64_t> FileSize(const std::string& path) override { return files_.FileSize(path); }
  Result<std::unique_ptr<FileLock>> Lock(const std::string& path) override {
    return files_.Lock(path);
  }

 private:
  FileSystem& files_;
};

}  // namespace fedmoe
