// A file system whose power can be cut: what was not synced is then lost, or not.
//
// As on a file system with a metadata journal, creations, renames and removals survive in their
// order, up to one that is drawn; a sync of any directory makes all before it durable. Of a file's
// bytes those that were synced survive, and of the others as many as are drawn; in place of the
// rest comes what a file that is overwritten had there.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "common/forwarding_file_system.h"

namespace fedmoe {

// Thread-safe. Files that it opened must not be used after Cut().
class PowerCutFileSystem final : public ForwardingFileSystem {
 public:
  // `base` does the work, and need not sync; it must outlive this object.
  explicit PowerCutFileSystem(FileSystem& base) : ForwardingFileSystem(base) {}

  // Loses what a power cut now might, as `seed` draws it. Nothing may be under way.
  void Cut(std::uint64_t seed);

  Result<std::unique_ptr<WritableFile>> Create(const std::string& path) override;
  Result<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path) override;
  Result<std::unique_ptr<WritableFile>> Overwrite(const std::string& path) override;
  Status Rename(const std::string& from, const std::string& to) override;
  Status Remove(const std::string& path) override;
  Status SyncDirectory(const std::string& path) override;

 private:
  class File;
  // Of one name at a time; follows the file through renames.
  struct Inode {
    std::uint64_t synced_bytes = 0;
    // Of one that is overwritten: what it had before, and how far it has come.
    std::string under;
    std::uint64_t written_bytes = 0;
  };
  struct Change {
    std::string from;  // empty: created
    std::string to;    // empty: removed
    // What stood at `to`, or at `from` where it was removed.
    std::optional<std::string> replaced;
    std::shared_ptr<Inode> replaced_inode;
  };
  std::shared_ptr<Inode> InodeOf(const std::string& path);
  std::optional<std::string> ContentOf(const std::string& path);
  void Write(const std::string& path, const std::string& content);
  void Undo(const Change& change);

  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Inode>> inodes_;  // by path, of files opened for writing
  std::deque<Change> changes_;                            // not yet durable, in order
};

}  // namespace fedmoe
