#include "common/file_system.h"

namespace fedmoe {
namespace {

// The directory that holds `path`'s entry.
std::string ParentOf(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

Status Write(FileSystem& files, const std::string& path, std::span<const std::byte> bytes,
             bool sync) {
  FEDMOE_ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, files.Create(path));
  FEDMOE_RETURN_IF_ERROR(file->Append(bytes));
  if (sync) FEDMOE_RETURN_IF_ERROR(file->Sync());
  return file->Close();
}

// By way of a temporary name.
Status Replace(FileSystem& files, const std::string& path, std::span<const std::byte> bytes,
               bool sync) {
  const std::string temporary = path + ".tmp";
  Status status = Write(files, temporary, bytes, sync);
  if (status.ok()) status = files.Rename(temporary, path);
  // Best effort: what failed first is what the caller must hear, and the next write truncates the
  // leftover.
  if (!status.ok() && files.Exists(temporary)) static_cast<void>(files.Remove(temporary));
  return status;
}

}  // namespace

std::string JoinPath(std::string_view directory, std::string_view name) {
  std::string path(directory);
  if (!path.empty() && path.back() != '/') path += '/';
  path += name;
  return path;
}

Status WriteFileAtomically(FileSystem& files, const std::string& path,
                           std::span<const std::byte> bytes) {
  FEDMOE_RETURN_IF_ERROR(Replace(files, path, bytes, /*sync=*/true));
  return files.SyncDirectory(ParentOf(path));
}

Status WriteFileAtomically(FileSystem& files, const std::string& path, std::string_view text) {
  return WriteFileAtomically(files, path, AsBytes(text));
}

Status ReplaceFile(FileSystem& files, const std::string& path, std::string_view text) {
  return Replace(files, path, AsBytes(text), /*sync=*/false);
}

Status SyncFile(FileSystem& files, const std::string& path) {
  FEDMOE_ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, files.OpenForAppend(path));
  FEDMOE_RETURN_IF_ERROR(file->Sync());
  return file->Close();
}

Result<std::string> ReadFile(FileSystem& files, const std::string& path, std::uint64_t max_bytes) {
  FEDMOE_ASSIGN_OR_RETURN(const std::unique_ptr<RandomAccessFile> file, files.Open(path));
  FEDMOE_ASSIGN_OR_RETURN(const std::uint64_t size, file->Size());
  if (size > max_bytes) {
    return ResourceExhausted(path + " is " + std::to_string(size) + " bytes, over the limit of " +
                             std::to_string(max_bytes));
  }
  std::string content(size, '\0');
  FEDMOE_RETURN_IF_ERROR(file->ReadAt(0, std::as_writable_bytes(std::span(content))));
  return content;
}

}  // namespace fedmoe
