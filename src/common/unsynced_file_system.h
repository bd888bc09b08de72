// A file system without syncs, for what need not survive a power cut: simulations, of whose short
// rounds waiting for the disk would be the most, and runs with Durability::kNone.
#pragma once

#include "common/forwarding_file_system.h"

namespace fedmoe {

// Passes everything on but Sync and SyncDirectory. Thread-safe where
// its base is.
class UnsyncedFileSystem final : public ForwardingFileSystem {
 public:
  using ForwardingFileSystem::ForwardingFileSystem;

  Result<std::unique_ptr<WritableFile>> Create(const std::string& path) override;
  Result<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path) override;
  Result<std::unique_ptr<WritableFile>> Overwrite(const std::string& path) override;
  Status SyncDirectory(const std::string&) override { return Status::Ok(); }
};

}  // namespace fedmoe
