// What a decorator of a file system leaves as it is.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/file_system.h"

namespace fedmoe {

// Passes everything on to `base`, which must outlive it, but for Overwrite(), which is a Create()
// unless the decorator says how it does it. Thread-safe where `base` is.
class ForwardingFileSystem : public FileSystem {
 public:
  explicit ForwardingFileSystem(FileSystem& base) : base_(base) {}

  Result<std::unique_ptr<WritableFile>> Create(const std::string& path) override {
    return base_.Create(path);
  }
  Result<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path) override {
    return base_.OpenForAppend(path);
  }
  std::optional<std::uint64_t> FreeBytes(const std::string& directory) override {
    return base_.FreeBytes(directory);
  }
  Result<std::unique_ptr<RandomAccessFile>> Open(const std::string& path) override {
    return base_.Open(path);
  }
  Status Rename(const std::string& from, const std::string& to) override {
    return base_.Rename(from, to);
  }
  Status Remove(const std::string& path) override { return base_.Remove(path); }
  Status CreateDirectories(const std::string& path) override {
    return base_.CreateDirectories(path);
  }
  Status SyncDirectory(const std::string& path) override { return base_.SyncDirectory(path); }
  Result<std::vector<std::string>> List(const std::string& path) override {
    return base_.List(path);
  }
  bool Exists(const std::string& path) override { return base_.Exists(path); }
  Result<std::uint64_t> FileSize(const std::string& path) override { return base_.FileSize(path); }
  Result<std::unique_ptr<FileLock>> Lock(const std::string& path) override {
    return base_.Lock(path);
  }

 protected:
  FileSystem& base() const { return base_; }

 private:
  FileSystem& base_;
};

// Passes everything on to `base`.
class ForwardingFile : public WritableFile {
 public:
  explicit ForwardingFile(std::unique_ptr<WritableFile> base) : base_(std::move(base)) {}

  Status Append(std::span<const std::byte> bytes) override { return base_->Append(bytes); }
  Status Sync() override { return base_->Sync(); }
  void StartSync() override { base_->StartSync(); }
  Status Trim() override { return base_->Trim(); }
  Status Close() override { return base_->Close(); }

 private:
  std::unique_ptr<WritableFile> base_;
};

// `file` in a File(file, args...), or its error.
template <typename File, typename... Args>
Result<std::unique_ptr<WritableFile>> Wrapped(Result<std::unique_ptr<WritableFile>> file,
                                              Args&&... args) {
  if (!file.ok()) return file;
  return std::unique_ptr<WritableFile>(
      std::make_unique<File>(std::move(*file), std::forward<Args>(args)...));
}

}  // namespace fedmoe
