#include "common/write_behind_file_system.h"

#include <algorithm>
#include <utility>

#include "common/memory_file.h"

namespace fedmoe {

struct WriteBehindFileSystem::Entry {
  std::string path;
  bool removed = false;
  bool settled = false;  // on the disk; `file` until it is closed
  MemoryBytes bytes = std::make_shared<std::vector<std::byte>>();
  std::unique_ptr<WritableFile> file;
};

class WriteBehindFileSystem::File final : public WritableFile {
 public:
  File(WriteBehindFileSystem& owner, EntryPointer entry)
      : owner_(owner), entry_(std::move(entry)) {}
  ~File() override { static_cast<void>(Close()); }

  Status Append(std::span<const std::byte> bytes) override {
    {
      const std::lock_guard lock(owner_.mutex_);
      if (!entry_->settled) {
        const std::uint64_t size = entry_->bytes->size() + bytes.size();
        const bool fits = size <= owner_.limits_.max_file_bytes &&
                          owner_.bytes_ + bytes.size() <= owner_.limits_.max_bytes;
        if (fits || entry_->removed) return owner_.Append(*entry_, bytes);
        FEDMOE_RETURN_IF_ERROR(owner_.Settle(entry_));
      }
    }
    return entry_->file == nullptr ? Closed() : entry_->file->Append(bytes);
  }

  Status Sync() override {
    {
      const std::lock_guard lock(owner_.mutex_);
      if (!entry_->settled) FEDMOE_RETURN_IF_ERROR(owner_.Settle(entry_));
      if (!entry_->settled) return Status::Ok();  // removed
    }
    return entry_->file == nullptr ? Closed() : entry_->file->Sync();
  }

  void StartSync() override {
    {
      const std::lock_guard lock(owner_.mutex_);
      if (!entry_->settled) return;
    }
    if (entry_->file != nullptr) entry_->file->StartSync();
  }

  // The descriptor is the last one's to hold: nobody writes to it after this.
  Status Close() override {
    std::unique_ptr<WritableFile> file;
    {
      const std::lock_guard lock(owner_.mutex_);
      file = std::move(entry_->file);
    }
    return file == nullptr ? Status::Ok() : file->Close();
  }

 private:
  Status Closed() const { return FailedPrecondition(entry_->path + " is closed"); }

  WriteBehindFileSystem& owner_;
  const EntryPointer entry_;
};

WriteBehindFileSystem::WriteBehindFileSystem(FileSystem& base, Limits limits)
    : ForwardingFileSystem(base), limits_(limits) {}

WriteBehindFileSystem::~WriteBehindFileSystem() = default;

WriteBehindFileSystem::EntryPointer WriteBehindFileSystem::Find(const std::string& path) const {
  const auto found = entries_.find(path);
  return found == entries_.end() ? nullptr : found->second;
}

void WriteBehindFileSystem::Forget(const EntryPointer& entry) {
  bytes_ -= entry->bytes->size();
  entries_.erase(entry->path);
}

Status WriteBehindFileSystem::Append(Entry& entry, std::span<const std::byte> bytes) {
  entry.bytes->insert(entry.bytes->end(), bytes.begin(), bytes.end());
  if (!entry.removed) bytes_ += bytes.size();
  return Status::Ok();
}

Status WriteBehindFileSystem::Settle(const EntryPointer& entry) {
  if (entry->removed) return Status::Ok();
  FEDMOE_ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, base().Create(entry->path));
  if (const Status written = file->Append(*entry->bytes); !written.ok()) {
    file.reset();
    static_cast<void>(base().Remove(entry->path));
    return written;
  }
  Forget(entry);
  entry->settled = true;
  entry->file = std::move(file);
  return Status::Ok();
}

Result<std::unique_ptr<WritableFile>> WriteBehindFileSystem::Create(const std::string& path) {
  const std::lock_guard lock(mutex_);
  if (const EntryPointer old = Find(path); old != nullptr) {
    Forget(old);
    old->removed = true;
  } else if (limits_.max_file_bytes == 0 || base().Exists(path)) {
    return base().Create(path);
  }
  const auto entry = std::make_shared<Entry>();
  entry->path = path;
  entries_[path] = entry;
  return std::unique_ptr<WritableFile>(std::make_unique<File>(*this, entry));
}

Result<std::unique_ptr<WritableFile>> WriteBehindFileSystem::OpenForAppend(
    const std::string& path) {
  const std::lock_guard lock(mutex_);
  const EntryPointer entry = Find(path);
  if (entry == nullptr) return base().OpenForAppend(path);
  return std::unique_ptr<WritableFile>(std::make_unique<File>(*this, entry));
}

Result<std::unique_ptr<WritableFile>> WriteBehindFileSystem::Overwrite(const std::string& path) {
  {
    const std::lock_guard lock(mutex_);
    if (Find(path) == nullptr) return base().Overwrite(path);
  }
  return Create(path);
}

Result<std::unique_ptr<RandomAccessFile>> WriteBehindFileSystem::Open(const std::string& path) {
  const std::lock_guard lock(mutex_);
  const EntryPointer entry = Find(path);
  if (entry == nullptr) return base().Open(path);
  return OpenMemory(path, entry->bytes);
}

Status WriteBehindFileSystem::Rename(const std::string& from, const std::string& to) {
  const std::lock_guard lock(mutex_);
  const EntryPointer entry = Find(from);
  const bool replaces = entry != nullptr && base().Exists(to);
  if (replaces) FEDMOE_RETURN_IF_ERROR(Settle(entry));
  if (entry == nullptr || replaces) {
    FEDMOE_RETURN_IF_ERROR(base().Rename(from, to));
    if (entry != nullptr) entry->path = to;
  }
  if (const EntryPointer old = Find(to); old != nullptr && old != entry) {
    Forget(old);
    old->removed = true;
  }
  if (entry == nullptr || replaces) return Status::Ok();
  entries_.erase(from);
  entry->path = to;
  entries_[to] = entry;
  return Status::Ok();
}

Status WriteBehindFileSystem::Remove(const std::string& path) {
  const std::lock_guard lock(mutex_);
  const EntryPointer entry = Find(path);
  if (entry == nullptr) return base().Remove(path);
  Forget(entry);
  entry->removed = true;
  return Status::Ok();
}

Result<std::vector<std::string>> WriteBehindFileSystem::List(const std::string& path) {
  FEDMOE_ASSIGN_OR_RETURN(std::vector<std::string> names, base().List(path));
  const std::string prefix = JoinPath(path, "");
  const std::lock_guard lock(mutex_);
  for (auto entry = entries_.lower_bound(prefix);
       entry != entries_.end() && entry->first.starts_with(prefix); ++entry) {
    std::string name = entry->first.substr(prefix.size());
    if (name.find('/') == std::string::npos) names.push_back(std::move(name));
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

bool WriteBehindFileSystem::Exists(const std::string& path) {
  {
    const std::lock_guard lock(mutex_);
    if (Find(path) != nullptr) return true;
  }
  return base().Exists(path);
}

Result<std::uint64_t> WriteBehindFileSystem::FileSize(const std::string& path) {
  {
    const std::lock_guard lock(mutex_);
    if (const EntryPointer entry = Find(path); entry != nullptr) return entry->bytes->size();
  }
  return base().FileSize(path);
}

std::uint64_t WriteBehindFileSystem::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

}  // namespace fedmoe
