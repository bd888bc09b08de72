// The file-system seam: everything that fedmoe writes to or reads from disk (but for SQLite's own
// files) goes through here, so that tests can inject short writes, ENOSPC, EIO, failed fsync and
// torn renames at any operation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace fedmoe {

// A file open for writing. Destroying it closes it without a sync. Not thread-safe.
class WritableFile {
 public:
  virtual ~WritableFile() = default;
  // Writes all bytes or fails; after a failure the file's content past the old size is undefined.
  virtual Status Append(std::span<const std::byte> bytes) = 0;
  // fdatasync: the bytes appended so far survive a power cut when this returns OK.
  virtual Status Sync() = 0;
  // Lets the disk begin with what Sync() would otherwise wait for, once that is worth its while.
  // Promises nothing.
  virtual void StartSync() {}
  // Of a file that is overwritten: cuts off what it had before past the bytes written so far.
  virtual Status Trim() { return Status::Ok(); }
  virtual Status Close() = 0;
};

// A read-only mapping of part of a file; unmapped on destruction. data() is aligned as the file
// offset was.
class MappedRegion {
 public:
  virtual ~MappedRegion() = default;
  virtual std::span<const std::byte> bytes() const = 0;
};

class RandomAccessFile {
 public:
  virtual ~RandomAccessFile() = default;
  virtual Result<std::uint64_t> Size() const = 0;
  // Fills `out` wholly from `offset`, or fails (OUT_OF_RANGE past the end). Thread-safe.
  virtual Status ReadAt(std::uint64_t offset, std::span<std::byte> out) const = 0;
  // Maps [offset, offset + length). The offset may be any; pages are handled inside. Up to 8 MiB
  // are read at once, so that a bad sector is an error here; in a longer region it is SIGBUS.
  virtual Result<std::unique_ptr<MappedRegion>> Map(std::uint64_t offset,
                                                    std::uint64_t length) const = 0;
};

// An advisory lock held until destruction (or the process's end).
class FileLock {
 public:
  virtual ~FileLock() = default;
};

// Paths are UTF-8. Every failure names the path and the system's reason: "write runs/a/x: No space
// left on device". ENOSPC and EDQUOT are RESOURCE_EXHAUSTED, ENOENT NOT_FOUND, EEXIST
// ALREADY_EXISTS, EACCES PERMISSION_DENIED, others INTERNAL.
class FileSystem {
 public:
  virtual ~FileSystem() = default;
  // Creates or truncates.
  virtual Result<std::unique_ptr<WritableFile>> Create(const std::string& path) = 0;
  virtual Result<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path) = 0;
  // A file that is there, to be written anew from its first byte in the place that it has on the
  // disk. What it had past the bytes written stays until Trim(). By default it is cut to nothing
  // first.
  virtual Result<std::unique_ptr<WritableFile>> Overwrite(const std::string& path) {
    return Create(path);
  }
  // Bytes that may still be written to the disk that a directory is on; nullopt: it is on none, or
  // that is not known.
  virtual std::optional<std::uint64_t> FreeBytes(const std::string&) { return std::nullopt; }
  virtual Result<std::unique_ptr<RandomAccessFile>> Open(const std::string& path) = 0;
  virtual Status Rename(const std::string& from, const std::string& to) = 0;
  virtual Status Remove(const std::string& path) = 0;
  // All levels that are missing (none is no error); each that it makes survives a power cut.
  virtual Status CreateDirectories(const std::string& path) = 0;
  // fsync of a directory: its entries (creations, renames) survive a power cut.
  virtual Status SyncDirectory(const std::string& path) = 0;
  // Names (not paths) of the entries, sorted.
  virtual Result<std::vector<std::string>> List(const std::string& path) = 0;
  virtual bool Exists(const std::string& path) = 0;
  virtual Result<std::uint64_t> FileSize(const std::string& path) = 0;
  // Takes the lock or fails at once with FAILED_PRECONDITION if another process (or object) holds
  // it. Creates the file, and writes the process id into it.
  virtual Result<std::unique_ptr<FileLock>> Lock(const std::string& path) = 0;
};

// The real one. Thread-safe.
FileSystem& PosixFileSystem();

// path + "/" + name.
std::string JoinPath(std::string_view directory, std::string_view name);

// Writes path.tmp, syncs it, renames it over `path`, syncs the directory: a reader sees the old or
// the new content, whole.
Status WriteFileAtomically(FileSystem& files, const std::string& path,
                           std::span<const std::byte> bytes);
Status WriteFileAtomically(FileSystem& files, const std::string& path, std::string_view text);

// The same without a sync: whole for who reads, but not durable. For what something else keeps.
Status ReplaceFile(FileSystem& files, const std::string& path, std::string_view text);

// Makes the content of a file that is there durable; its name takes a sync of its directory.
Status SyncFile(FileSystem& files, const std::string& path);

// The whole file, or RESOURCE_EXHAUSTED "PATH is N bytes, over the limit of M".
Result<std::string> ReadFile(FileSystem& files, const std::string& path, std::uint64_t max_bytes);

// A view of trivially copyable values as bytes.
template <typename T>
std::span<const std::byte> AsBytes(std::span<const T> values) {
  return std::as_bytes(values);
}
inline std::span<const std::byte> AsBytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace fedmoe
