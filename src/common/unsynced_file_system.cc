#include "common/unsynced_file_system.h"

namespace fedmoe {
namespace {

class UnsyncedFile final : public ForwardingFile {
 public:
  using ForwardingFile::ForwardingFile;
  Status Sync() override { return Status::Ok(); }
  void StartSync() override {}
};

}  // namespace

Result<std::unique_ptr<WritableFile>> UnsyncedFileSystem::Create(const std::string& path) {
  return Wrapped<UnsyncedFile>(base().Create(path));
}

Result<std::unique_ptr<WritableFile>> UnsyncedFileSystem::OpenForAppend(const std::string& path) {
  return Wrapped<UnsyncedFile>(base().OpenForAppend(path));
}

Result<std::unique_ptr<WritableFile>> UnsyncedFileSystem::Overwrite(const std::string& path) {
  return Wrapped<UnsyncedFile>(base().Overwrite(path));
}

}  // namespace fedmoe
