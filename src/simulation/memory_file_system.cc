#include "simulation/memory_file_system.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace fedmoe {
namespace {

using Bytes = std::shared_ptr<std::vector<std::byte>>;

Status Missing(const char* operation, const std::string& path) {
  return NotFound(std::string(operation) + " " + path + ": no such file in memory");
}

class MemoryWritableFile final : public WritableFile {
 public:
  explicit MemoryWritableFile(Bytes bytes) : bytes_(std::move(bytes)) {}
  Status Append(std::span<const std::byte> bytes) override {
    bytes_->insert(bytes_->end(), bytes.begin(), bytes.end());
    return Status::Ok();
  }
  Status Sync() override { return Status::Ok(); }
  Status Close() override { return Status::Ok(); }

 private:
  Bytes bytes_;
};

class MemoryRegion final : public MappedRegion {
 public:
  MemoryRegion(Bytes bytes, std::uint64_t offset, std::uint64_t length)
      : bytes_(std::move(bytes)), view_(std::span(*bytes_).subspan(offset, length)) {}
  std::span<const std::byte> bytes() const override { return view_; }

 private:
  Bytes bytes_;
  std::span<const std::byte> view_;
};

class MemoryFile final : public RandomAccessFile {
 public:
  MemoryFile(std::string path, Bytes bytes) : path_(std::move(path)), bytes_(std::move(bytes)) {}
  Result<std::uint64_t> Size() const override { return bytes_->size(); }
  Status ReadAt(std::uint64_t offset, std::span<std::byte> out) const override {
    FEDMOE_RETURN_IF_ERROR(CheckRange("read", offset, out.size()));
    if (!out.empty()) std::memcpy(out.data(), bytes_->data() + offset, out.size());
    return Status::Ok();
  }
  Result<std::unique_ptr<MappedRegion>> Map(std::uint64_t offset,
                                            std::uint64_t length) const override {
    FEDMOE_RETURN_IF_ERROR(CheckRange("map", offset, length));
    return std::unique_ptr<MappedRegion>(std::make_unique<MemoryRegion>(bytes_, offset, length));
  }

 private:
  Status CheckRange(const char* operation, std::uint64_t offset, std::uint64_t length) const {
    const std::uint64_t size = bytes_->size();
    if (offset <= size && length <= size - offset) return Status::Ok();
    return OutOfRange(std::string(operation) + " " + path_ + ": " + std::to_string(length) +
                      " bytes at offset " + std::to_string(offset) + " end past the file's " +
                      std::to_string(size) + " bytes");
  }

  std::string path_;
  Bytes bytes_;
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
  Bytes& bytes = files_[path];
  bytes = std::make_shared<std::vector<std::byte>>();
  return std::unique_ptr<WritableFile>(std::make_unique<MemoryWritableFile>(bytes));
}

Result<std::unique_ptr<WritableFile>> MemoryFileSystem::OpenForAppend(const std::string& path) {
  const std::lock_guard lock(mutex_);
  Bytes& bytes = files_[path];
  if (bytes == nullptr) bytes = std::make_shared<std::vector<std::byte>>();
  return std::unique_ptr<WritableFile>(std::make_unique<MemoryWritableFile>(bytes));
}

Result<std::unique_ptr<RandomAccessFile>> MemoryFileSystem::Open(const std::string& path) {
  const std::lock_guard lock(mutex_);
  const auto found = files_.find(path);
  if (found == files_.end()) return Missing("open", path);
  return std::unique_ptr<RandomAccessFile>(std::make_unique<MemoryFile>(path, found->second));
}

Status MemoryFileSystem::Rename(const std::string& from, const std::string& to) {
  const std::lock_guard lock(mutex_);
  const auto found = files_.find(from);
  if (found == files_.end()) return Missing("rename", from);
  Bytes bytes = std::move(found->second);
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
