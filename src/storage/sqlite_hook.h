// SQLite's own files do not go through the file-system seam. This reports what is done to them to a
// DiskHook, as the seam's decorators do: creating, writing, cutting, syncing, removing.
#pragma once

#include <memory>
#include <string>

#include "common/disk_hook.h"

namespace fedmoe {

// Registers, under name(), a virtual file system of SQLite's that does what the default one does
// and reports to `hook`, which must outlive it. Databases opened with it must be closed before it
// is destroyed.
class SqliteHook {
 public:
  explicit SqliteHook(DiskHook& hook);
  ~SqliteHook();
  SqliteHook(const SqliteHook&) = delete;
  SqliteHook& operator=(const SqliteHook&) = delete;

  // For sqlite3_open_v2.
  const char* name() const;

 private:
  struct Vfs;
  std::unique_ptr<Vfs> vfs_;
};

}  // namespace fedmoe
