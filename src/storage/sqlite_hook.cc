#include "storage/sqlite_hook.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>

#include <sqlite3.h>

namespace fedmoe {

// SQLite finds it by its first member.
struct SqliteHook::Vfs {
  sqlite3_vfs base;  // what SQLite sees
  sqlite3_vfs* original;
  DiskHook* hook;
  std::string name;
};

namespace {

// A file of SQLite's: ours in front, the original's behind it in the same allocation.
struct HookedFile {
  sqlite3_file base;
  DiskHook* hook;
  std::string* path;  // owned; freed by xClose
  sqlite3_file* original;
};

HookedFile* Hooked(sqlite3_file* file) { return reinterpret_cast<HookedFile*>(file); }
sqlite3_file* Original(sqlite3_file* file) { return Hooked(file)->original; }

// An injected error as SQLite knows it.
int CodeOf(const Status& error, int otherwise) {
  return error.code() == StatusCode::kResourceExhausted ? SQLITE_FULL : otherwise;
}

// Carries out `call` as the hook says; `code` is what an injected error is reported as.
template <typename Call>
int Around(DiskHook& hook, DiskOperation operation, const std::string& path, int code, Call call) {
  const DiskVerdict verdict = hook.Before(operation, path);
  if (!verdict.error.ok()) return CodeOf(verdict.error, code);
  const int result = verdict.skip ? SQLITE_OK : call();
  hook.After(verdict);
  return result;
}

int Close(sqlite3_file* file) {
  const int code = Original(file)->pMethods->xClose(Original(file));
  delete Hooked(file)->path;
  return code;
}

int Read(sqlite3_file* file, void* bytes, int count, sqlite3_int64 offset) {
  return Original(file)->pMethods->xRead(Original(file), bytes, count, offset);
}

int Write(sqlite3_file* file, const void* bytes, int count, sqlite3_int64 offset) {
  HookedFile* hooked = Hooked(file);
  sqlite3_file* original = hooked->original;
  const DiskVerdict verdict = hooked->hook->Before(DiskOperation::kWrite, *hooked->path);
  if (!verdict.half && !verdict.error.ok()) return CodeOf(verdict.error, SQLITE_IOERR_WRITE);
  const int written = verdict.half ? count / 2 : count;
  const int code = original->pMethods->xWrite(original, bytes, written, offset);
  hooked->hook->After(verdict);
  if (code != SQLITE_OK || verdict.error.ok()) return code;
  return CodeOf(verdict.error, SQLITE_IOERR_WRITE);
}

int Truncate(sqlite3_file* file, sqlite3_int64 size) {
  HookedFile* hooked = Hooked(file);
  return Around(*hooked->hook, DiskOperation::kTruncate, *hooked->path, SQLITE_IOERR_TRUNCATE,
                [&] { return hooked->original->pMethods->xTruncate(hooked->original, size); });
}

int Sync(sqlite3_file* file, int flags) {
  HookedFile* hooked = Hooked(file);
  return Around(*hooked->hook, DiskOperation::kSync, *hooked->path, SQLITE_IOERR_FSYNC,
                [&] { return hooked->original->pMethods->xSync(hooked->original, flags); });
}

int FileSize(sqlite3_file* file, sqlite3_int64* size) {
  return Original(file)->pMethods->xFileSize(Original(file), size);
}
int Lock(sqlite3_file* file, int level) {
  return Original(file)->pMethods->xLock(Original(file), level);
}
int Unlock(sqlite3_file* file, int level) {
  return Original(file)->pMethods->xUnlock(Original(file), level);
}
int CheckReservedLock(sqlite3_file* file, int* out) {
  return Original(file)->pMethods->xCheckReservedLock(Original(file), out);
}
int FileControl(sqlite3_file* file, int operation, void* argument) {
  return Original(file)->pMethods->xFileControl(Original(file), operation, argument);
}
int SectorSize(sqlite3_file* file) { return Original(file)->pMethods->xSectorSize(Original(file)); }
int DeviceCharacteristics(sqlite3_file* file) {
  return Original(file)->pMethods->xDeviceCharacteristics(Original(file));
}
// The log's shared memory is no disk: what stands there is made anew from the log.
int ShmMap(sqlite3_file* file, int region, int size, int extend, void volatile** out) {
  return Original(file)->pMethods->xShmMap(Original(file), region, size, extend, out);
}
int ShmLock(sqlite3_file* file, int offset, int count, int flags) {
  return Original(file)->pMethods->xShmLock(Original(file), offset, count, flags);
}
void ShmBarrier(sqlite3_file* file) { Original(file)->pMethods->xShmBarrier(Original(file)); }
int ShmUnmap(sqlite3_file* file, int remove) {
  return Original(file)->pMethods->xShmUnmap(Original(file), remove);
}

// Version 2: without the calls of version 3 SQLite does not map the database, whose writes would
// then pass us by.
constexpr sqlite3_io_methods kMethods = {
    .iVersion = 2,
    .xClose = Close,
    .xRead = Read,
    .xWrite = Write,
    .xTruncate = Truncate,
    .xSync = Sync,
    .xFileSize = FileSize,
    .xLock = Lock,
    .xUnlock = Unlock,
    .xCheckReservedLock = CheckReservedLock,
    .xFileControl = FileControl,
    .xSectorSize = SectorSize,
    .xDeviceCharacteristics = DeviceCharacteristics,
    .xShmMap = ShmMap,
    .xShmLock = ShmLock,
    .xShmBarrier = ShmBarrier,
    .xShmUnmap = ShmUnmap,
    .xFetch = nullptr,
    .xUnfetch = nullptr,
};

}  // namespace

SqliteHook::SqliteHook(DiskHook& hook) : vfs_(std::make_unique<Vfs>()) {
  static std::atomic<int> counter = 0;
  Vfs& vfs = *vfs_;
  vfs.original = sqlite3_vfs_find(nullptr);
  vfs.hook = &hook;
  vfs.name = "fedmoe-hook-" + std::to_string(++counter);
  vfs.base = *vfs.original;
  vfs.base.pNext = nullptr;
  vfs.base.zName = vfs.name.c_str();
  vfs.base.szOsFile = static_cast<int>(sizeof(HookedFile)) + vfs.original->szOsFile;
  vfs.base.xOpen = [](sqlite3_vfs* self, const char* name, sqlite3_file* file, int flags,
                      int* out) -> int {
    const auto* owner = reinterpret_cast<const Vfs*>(self);
    auto* hooked = new (file) HookedFile{};
    hooked->original = reinterpret_cast<sqlite3_file*>(hooked + 1);
    const auto open = [&] {
      return owner->original->xOpen(owner->original, name, hooked->original, flags, out);
    };
    // A file without a name is a temporary one of SQLite's, which nothing survives.
    const std::string path = name == nullptr ? "" : name;
    int exists = 0;
    if (name != nullptr) {
      owner->original->xAccess(owner->original, name, SQLITE_ACCESS_EXISTS, &exists);
    }
    const bool creates = name != nullptr && exists == 0 && (flags & SQLITE_OPEN_CREATE) != 0;
    const int code = creates
                         ? Around(*owner->hook, DiskOperation::kCreate, path, SQLITE_CANTOPEN, open)
                         : open();
    if (code != SQLITE_OK) return code;
    hooked->hook = owner->hook;
    hooked->path = new std::string(path);
    hooked->base.pMethods = &kMethods;
    return SQLITE_OK;
  };
  vfs.base.xDelete = [](sqlite3_vfs* self, const char* name, int sync_directory) -> int {
    const auto* owner = reinterpret_cast<const Vfs*>(self);
    return Around(*owner->hook, DiskOperation::kRemove, name, SQLITE_IOERR_DELETE,
                  [&] { return owner->original->xDelete(owner->original, name, sync_directory); });
  };
  sqlite3_vfs_register(&vfs.base, 0);
}

SqliteHook::~SqliteHook() { sqlite3_vfs_unregister(&vfs_->base); }

const char* SqliteHook::name() const { return vfs_->name.c_str(); }

}  // namespace fedmoe
