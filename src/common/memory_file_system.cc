#include "common/memory_file_system.h"

#include <utility>

namespace fedmoe {
namespace {

Status Missing(const char* operation, const std::string& path) {
  return NotFound(std::string(operation) + " " + path + ": no such file in memory");
}

class MemoryWritableFile final : public WritableFile {
 public:
  explicit MemoryWritableFile(MemoryBytes bytes) : bytes_(std::move(bytes)) {}
  Status Append(std::span<const std::byte> bytes) override {
    bytes_->insert(bytes_->end(), bytes.begin(), bytes.end());
    return Status::Ok();
  }
  Status Sync() override { return Status::Ok(); }
  Status Close() override { return Status::Ok(); }

 private:
  MemoryBytes bytes_;
};

}  // namespace

class MemoryFileSystem::Held final : public FileLock {
 public:
  Held(MemoryFileSystem& files, std::string path) : files_(files), path_(std::move(path)) {}
  ~Held() override {
    const std::lock_guard lock(files_.mutex_);
    files_.locks_.erase(path_);
  }

 private:
  MemoryFileSystem& files_;
  std::string path_;
};

Result<std::unique_ptr<WritableFile>> MemoryFileSystem::Create(const std::string& path) {
  const std::lock_guard lock(mutex_);
  MemoryBytes& bytes = files_[path];
  bytes = std::make_shared<std::vector<std::byte>>();
  return std::unique_ptr<WritableFile>(std::make_unique<MemoryWritableFile>(bytes));
}

Result<std::unique_ptr<WritableFile>> MemoryFileSystem::OpenForAppend(const std::string& path) {
  const std::lock_guard lock(mutex_);
  MemoryBytes& bytes = files_[path];
  if (bytes == nullptr) bytes = std::make_shared<std::vector<std::byte>>();
  return std::unique_ptr<WritableFile>(std::make_unique<MemoryWritableFile>(bytes));
}

Result<std::unique_ptr<RandomAccessFile>> MemoryFileSystem::Open(const std::string& path) {
  const std::lock_guard lock(mutex_);
  const auto found = files_.find(path);
  if (found == files_.end()) return Missing("open", path);
  return OpenMemory(path, found->second);
}

Status MemoryFileSystem::Rename(const std::string& from, const std::string& to) {
  const std::lock_guard lock(mutex_);
  const auto found = files_.find(from);
  if (found == files_.end()) return Missing("rename", from);
  MemoryBytes bytes = std::move(found->second);
  files_.erase(found);
  files_[to] = std::move(bytes);
  return Status::Ok();
}

Status MemoryFileSystem::Remove(const std::string& path) {
  const std::lock_guard lock(mutex_);
  return files_.erase(path) > 0 ? Status::Ok() : Missing("remove", path);
}

Status MemoryFileSystem::CreateDirectories(const std::string& path) {
  const std::lock_guard lock(mutex_);
  directories_.insert(path);
  return Status::Ok();
}

Status MemoryFileSystem::SyncDirectory(const std::string&) { return Status::Ok(); }

Result<std::vector<std::string>> MemoryFileSystem::List(const std::string& path) {
  const std::lock_guard lock(mutex_);
  if (!directories_.contains(path)) return Missing("list", path);
  const std::string prefix = JoinPath(path, "");
  std::vector<std::string> names;
  for (auto file = files_.lower_bound(prefix);
       file != files_.end() && file->first.starts_with(prefix); ++file) {
    std::string name = file->first.substr(prefix.size());
    if (name.find('/') == std::string::npos) names.push_back(std::move(name));
  }
  return names;
}

bool MemoryFileSystem::Exists(const std::string& path) {
  const std::lock_guard lock(mutex_);
  return files_.contains(path) || directories_.contains(path);
}

Result<std::uint64_t> MemoryFileSystem::FileSize(const std::string& path) {
  const std::lock_guard lock(mutex_);
  const auto found = files_.find(path);
  if (found == files_.end()) return Missing("size", path);
  return found->second->size();
}

Result<std::unique_ptr<FileLock>> MemoryFileSystem::Lock(const std::string& path) {
  const std::lock_guard lock(mutex_);
  if (!locks_.insert(path).second) return FailedPrecondition("lock " + path + ": it is held");
  return std::unique_ptr<FileLock>(std::make_unique<Held>(*this, path));
}

}  // namespace fedmoe
