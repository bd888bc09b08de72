#include "storage/kept_files.h"

#include <charconv>
#include <utility>

namespace fedmoe {
namespace {

// Ends the name that a record begins with.
constexpr char kNameEnd = '\0';

// The number that the name begins with.
ModelVersion VersionOf(const std::string& name) {
  ModelVersion version = 0;
  std::from_chars(name.data(), name.data() + name.size(), version);
  return version;
}

bool IsThere(FileSystem& files, const std::string& path, const std::string& bytes) {
  const Result<std::uint64_t> size = files.FileSize(path);
  if (!size.ok() || *size != bytes.size()) return false;
  const Result<std::string> content = ReadFile(files, path, bytes.size());
  return content.ok() && *content == bytes;
}

}  // namespace

Result<std::unique_ptr<KeptFiles>> KeptFiles::Open(FileSystem& files, const std::string& directory,
                                                   const SegmentLogOptions& options) {
  FEDMOE_ASSIGN_OR_RETURN(std::unique_ptr<SegmentLog> log,
                          SegmentLog::Open(files, directory, options));
  std::unique_ptr<KeptFiles> kept(new KeptFiles(std::move(log), directory));
  for (const SegmentKey key : kept->log_->Keys()) {
    FEDMOE_ASSIGN_OR_RETURN(const KeptFile file, kept->Read(key));
    kept->keys_[file.name] = key;
    kept->next_ = key + 1;
  }
  return kept;
}

Result<KeptFile> KeptFiles::Read(SegmentKey key) const {
  FEDMOE_ASSIGN_OR_RETURN(const auto record, log_->Read(key));
  FEDMOE_ASSIGN_OR_RETURN(const std::uint64_t size, record->Size());
  std::string text(size, '\0');
  FEDMOE_RETURN_IF_ERROR(record->ReadAt(0, std::as_writable_bytes(std::span(text))));
  const std::size_t end = text.find(kNameEnd);
  const bool plain = end != std::string::npos && end > 0 && text.find('/') >= end;
  if (!plain) {
    return DataLoss(directory_ + ": record " + std::to_string(key) + " has no file's name");
  }
  return KeptFile{.name = text.substr(0, end), .bytes = text.substr(end + 1)};
}

Status KeptFiles::Keep(const std::vector<KeptFile>& files) {
  SegmentPlace place;
  {
    const std::lock_guard lock(mutex_);
    for (const KeptFile& file : files) {
      const std::string name = file.name + kNameEnd;
      FEDMOE_ASSIGN_OR_RETURN(place, log_->Append(next_, {AsBytes(name), AsBytes(file.bytes)}));
      keys_[file.name] = next_++;
    }
  }
  // A segment that is full is synced before the next one begins.
  return log_->Sync(place);
}

Status KeptFiles::Forget(const std::set<std::string>& names) {
  std::set<SegmentKey> keep;
  SegmentKey end = 0;
  {
    const std::lock_guard lock(mutex_);
    for (const std::string& name : names) keys_.erase(name);
    for (const auto& [name, key] : keys_) keep.insert(key);
    end = next_;
  }
  return log_->RemoveExcept(keep, end);
}

std::set<std::string> KeptFiles::Names() const {
  const std::lock_guard lock(mutex_);
  std::set<std::string> names;
  for (const auto& [name, key] : keys_) names.insert(name);
  return names;
}

Status KeptFiles::Settle(FileSystem& files, ModelVersion newest) {
  std::map<SegmentKey, std::string> ordered;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, key] : keys_) {
      if (VersionOf(name) <= newest) ordered.emplace(key, name);
    }
  }
  if (ordered.empty()) return Status::Ok();
  std::set<std::string> names;
  for (const auto& [key, name] : ordered) {
    const std::string path = JoinPath(directory_, name);
    if (files.Exists(path)) FEDMOE_RETURN_IF_ERROR(SyncFile(files, path));
    names.insert(name);
  }
  FEDMOE_RETURN_IF_ERROR(files.SyncDirectory(directory_));
  return Forget(names);
}

Status KeptFiles::Restore(FileSystem& files, ModelVersion newest) const {
  const std::lock_guard lock(mutex_);
  for (const auto& [name, key] : keys_) {
    if (VersionOf(name) > newest) continue;
    FEDMOE_ASSIGN_OR_RETURN(const KeptFile file, Read(key));
    const std::string path = JoinPath(directory_, name);
    if (IsThere(files, path, file.bytes)) continue;
    FEDMOE_RETURN_IF_ERROR(ReplaceFile(files, path, file.bytes));
  }
  return Status::Ok();
}

}  // namespace fedmoe
