// A disk without space for SQLite.
#pragma once

#include <atomic>
#include <map>

#include <sqlite3.h>

namespace fedmoe {

// SQLite's default file system with a disk that can be full: SQLite's own files do not go through
// our seam, so this is theirs. One at a time, for databases opened while it lives.
class FullDisk {
 public:
  FullDisk() : original_(sqlite3_vfs_find(nullptr)), copy_(*original_) {
    copy_.zName = "full_disk";
    copy_.xOpen = [](sqlite3_vfs*, const char* name, sqlite3_file* file, int flags, int* out) {
      const int code = current_->original_->xOpen(current_->original_, name, file, flags, out);
      if (code != SQLITE_OK || file->pMethods == nullptr) return code;
      // The database and its log have method tables of their own, with one write in common.
      current_->base_write_ = file->pMethods->xWrite;
      sqlite3_io_methods& methods = current_->methods_[file->pMethods];
      methods = *file->pMethods;
      methods.xWrite = [](sqlite3_file* target, const void* bytes, int count,
                          sqlite3_int64 offset) {
        if (current_->writes_left_ == 0) return SQLITE_FULL;
        if (current_->writes_left_ > 0) --current_->writes_left_;
        return current_->base_write_(target, bytes, count, offset);
      };
      file->pMethods = &methods;
      return code;
    };
    current_ = this;
    sqlite3_vfs_register(&copy_, 1);
  }
  ~FullDisk() {
    sqlite3_vfs_unregister(&copy_);
    sqlite3_vfs_register(original_, 1);
    current_ = nullptr;
  }

  // Writes that still succeed; -1 for all.
  void Allow(int writes) { writes_left_ = writes; }

 private:
  static inline FullDisk* current_ = nullptr;
  sqlite3_vfs* original_;
  sqlite3_vfs copy_;
  std::map<const sqlite3_io_methods*, sqlite3_io_methods> methods_;
  int (*base_write_)(sqlite3_file*, const void*, int, sqlite3_int64) = nullptr;
  std::atomic<int> writes_left_ = -1;
};

}  // namespace fedmoe
