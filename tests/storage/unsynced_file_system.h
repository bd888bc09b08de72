// The real file system, but no sync reaches the disk: for tests that repeat thousands of operations
// and cut no power.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "common/file_system.h"

namespace fedmoe {

class UnsyncedFileSystem final : public FileSystem {
 public:
  Result<std::unique_ptr<WritableFile>> Create(const std::string& path) override {
    return Wrap(base_.Create(path));
  }
  Result<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path) override {
    return Wrap(base_.OpenForAppend(path));
  }
  Result<std::unique_ptr<RandomAccessFile>> Open(const std::string& path) override {
    return base_.Open(path);
  }
  Status Rename(const std::string& from, const std::string& to) override {
    return base_.Rename(from, to);
  }
  Status Remove(const std::string& path) override { return base_.Remove(path); }
  Status CreateDirectories(const std::string& path) override {
    std::error_code error;
    std::filesystem::create_directories(path, error);
    return error ? Internal(path + ": " + error.message()) : Status::Ok();
  }
  Status SyncDirectory(const std::string&) override { return Status::Ok(); }
  Result<std::vector<std::string>> List(const std::string& path) override {
    return base_.List(path);
  }
  bool Exists(const std::string& path) override { return base_.Exists(path); }
  Result<std::uint64_t> FileSize(const std::string& path) override { return base_.FileSize(path); }
  Result<std::unique_ptr<FileLock>> Lock(const std::string& path) override {
    return base_.Lock(path);
  }

 private:
  class File final : public WritableFile {
   public:
    explicit File(std::unique_ptr<WritableFile> base) : base_(std::move(base)) {}
    Status Append(std::span<const std::byte> bytes) override { return base_->Append(bytes); }
    Status Sync() override { return Status::Ok(); }
    Status Close() override { return base_->Close(); }

   private:
    std::unique_ptr<WritableFile> base_;
  };

  static Result<std::unique_ptr<WritableFile>> Wrap(Result<std::unique_ptr<WritableFile>> file) {
    if (!file.ok()) return file.status();
    return std::unique_ptr<WritableFile>(std::make_unique<File>(std::move(file).value()));
  }

  FileSystem& base_ = PosixFileSystem();
};

}  // namespace fedmoe
