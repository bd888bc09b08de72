#include "common/unsynced_file_system.h"

#include <utility>

namespace fedmoe {
namespace {

class UnsyncedFile final : public WritableFile {
 public:
  explicit UnsyncedFile(std::unique_ptr<WritableFile> file) : file_(std::move(file)) {}
  Status Append(std::span<const std::byte> bytes) override { return file_->Append(bytes); }
  Status Sync() override { return Status::Ok(); }
  Status Close() override { return file_->Close(); }

 private:
  std::unique_ptr<WritableFile> file_;
};

Result<std::unique_ptr<WritableFile>> Unsynced(Result<std::unique_ptr<WritableFile>> file) {
  if (!file.ok()) return file;
  return std::unique_ptr<WritableFile>(std::make_unique<UnsyncedFile>(std::move(*file)));
}

}  // namespace

Result<std::unique_ptr<WritableFile>> UnsyncedFileSystem::Create(const std::string& path) {
  return Unsynced(files_.Create(path));
}

Result<std::unique_ptr<WritableFile>> UnsyncedFileSystem::OpenForAppend(const std::string& path) {
  return Unsynced(files_.OpenForAppend(path));
}

}  // namespace fedmoe
