#include "tests/support/power_cut_file_system.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "common/counter_rng.h"

namespace fedmoe {
namespace {

std::uint64_t SizeOf(FileSystem& files, const std::string& path) {
  const Result<std::uint64_t> size = files.FileSize(path);
  return size.ok() ? *size : 0;
}

}  // namespace

class PowerCutFileSystem::File final : public ForwardingFile {
 public:
  File(std::unique_ptr<WritableFile> base, PowerCutFileSystem& owner, std::shared_ptr<Inode> inode,
       std::uint64_t size)
      : ForwardingFile(std::move(base)), owner_(owner), inode_(std::move(inode)), size_(size) {}

  Status Append(std::span<const std::byte> bytes) override {
    const Status written = ForwardingFile::Append(bytes);
    const std::lock_guard lock(owner_.mutex_);
    if (written.ok()) size_ += bytes.size();
    inode_->written_bytes = size_;
    return written;
  }
  // What is appended while it runs is not of it.
  Status Sync() override {
    std::uint64_t size = 0;
    bool trimmed = false;
    {
      const std::lock_guard lock(owner_.mutex_);
      size = size_;
      trimmed = trimmed_;
    }
    FEDMOE_RETURN_IF_ERROR(ForwardingFile::Sync());
    const std::lock_guard lock(owner_.mutex_);
    inode_->synced_bytes = std::max(inode_->synced_bytes, size);
    if (trimmed) inode_->under.resize(std::min(inode_->under.size(), std::size_t{size}));
    return Status::Ok();
  }
  Status Trim() override {
    FEDMOE_RETURN_IF_ERROR(ForwardingFile::Trim());
    const std::lock_guard lock(owner_.mutex_);
    trimmed_ = true;
    return Status::Ok();
  }

 private:
  PowerCutFileSystem& owner_;
  const std::shared_ptr<Inode> inode_;
  // Guarded by owner_.mutex_.
  std::uint64_t size_;
  bool trimmed_ = false;
};

// One that was there before anybody looked is durable.
std::shared_ptr<PowerCutFileSystem::Inode> PowerCutFileSystem::InodeOf(const std::string& path) {
  std::shared_ptr<Inode>& inode = inodes_[path];
  if (inode == nullptr) {
    inode = std::make_shared<Inode>();
    inode->synced_bytes = SizeOf(base(), path);
  }
  return inode;
}

std::optional<std::string> PowerCutFileSystem::ContentOf(const std::string& path) {
  Result<std::string> content = ReadFile(base(), path, std::numeric_limits<std::uint64_t>::max());
  return content.ok() ? std::optional(std::move(*content)) : std::nullopt;
}

void PowerCutFileSystem::Write(const std::string& path, const std::string& content) {
  const auto file = base().Create(path);
  if (file.ok()) static_cast<void>((*file)->Append(AsBytes(content)));
}

Result<std::unique_ptr<WritableFile>> PowerCutFileSystem::Create(const std::string& path) {
  const std::lock_guard lock(mutex_);
  if (base().Exists(path)) {
    *InodeOf(path) = {};  // it is cut to nothing
  } else {
    inodes_[path] = std::make_shared<Inode>();
    changes_.push_back({.from = "", .to = path, .replaced = {}, .replaced_inode = nullptr});
  }
  return Wrapped<File>(base().Create(path), *this, InodeOf(path), std::uint64_t{0});
}

Result<std::unique_ptr<WritableFile>> PowerCutFileSystem::OpenForAppend(const std::string& path) {
  const std::lock_guard lock(mutex_);
  if (!base().Exists(path)) {
    inodes_[path] = std::make_shared<Inode>();
    changes_.push_back({.from = "", .to = path, .replaced = {}, .replaced_inode = nullptr});
  }
  auto inode = InodeOf(path);
  const std::uint64_t size = SizeOf(base(), path);
  return Wrapped<File>(base().OpenForAppend(path), *this, std::move(inode), size);
}

Result<std::unique_ptr<WritableFile>> PowerCutFileSystem::Overwrite(const std::string& path) {
  const std::lock_guard lock(mutex_);
  const std::shared_ptr<Inode> inode = InodeOf(path);
  *inode = {.synced_bytes = 0, .under = ContentOf(path).value_or("")};
  return Wrapped<File>(base().Overwrite(path), *this, inode, std::uint64_t{0});
}

Status PowerCutFileSystem::Rename(const std::string& from, const std::string& to) {
  const std::lock_guard lock(mutex_);
  Change change{.from = from, .to = to, .replaced = ContentOf(to), .replaced_inode = nullptr};
  if (change.replaced) change.replaced_inode = InodeOf(to);
  const std::shared_ptr<Inode> inode = InodeOf(from);
  FEDMOE_RETURN_IF_ERROR(base().Rename(from, to));
  inodes_.erase(from);
  inodes_[to] = inode;
  changes_.push_back(std::move(change));
  return Status::Ok();
}

Status PowerCutFileSystem::Remove(const std::string& path) {
  const std::lock_guard lock(mutex_);
  Change change{.from = path, .to = "", .replaced = ContentOf(path), .replaced_inode = nullptr};
  if (change.replaced) change.replaced_inode = InodeOf(path);
  FEDMOE_RETURN_IF_ERROR(base().Remove(path));
  inodes_.erase(path);
  changes_.push_back(std::move(change));
  return Status::Ok();
}

Status PowerCutFileSystem::SyncDirectory(const std::string& path) {
  FEDMOE_RETURN_IF_ERROR(base().SyncDirectory(path));
  const std::lock_guard lock(mutex_);
  changes_.clear();
  return Status::Ok();
}

void PowerCutFileSystem::Undo(const Change& change) {
  if (change.from.empty()) {
    static_cast<void>(base().Remove(change.to));
    inodes_.erase(change.to);
    return;
  }
  if (!change.to.empty()) {
    static_cast<void>(base().Rename(change.to, change.from));
    inodes_[change.from] = InodeOf(change.to);
    inodes_.erase(change.to);
  }
  if (!change.replaced) return;
  const std::string& path = change.to.empty() ? change.from : change.to;
  Write(path, *change.replaced);
  inodes_[path] = change.replaced_inode;
}

void PowerCutFileSystem::Cut(std::uint64_t seed) {
  const std::lock_guard lock(mutex_);
  CounterRng random(seed);
  const auto kept = static_cast<std::size_t>(random.NextBelow(changes_.size() + 1));
  while (changes_.size() > kept) {
    Undo(changes_.back());
    changes_.pop_back();
  }
  changes_.clear();
  for (const auto& [path, inode] : inodes_) {
    const std::optional<std::string> content = ContentOf(path);
    if (!content) continue;
    const std::uint64_t written = inode->under.empty() ? content->size() : inode->written_bytes;
    const std::uint64_t loose = written - std::min(written, inode->synced_bytes);
    if (loose == 0 && inode->under.empty()) continue;
    const std::uint64_t kept = inode->synced_bytes + random.NextBelow(loose + 1);
    std::string left = content->substr(0, kept);
    if (inode->under.size() > kept) left += inode->under.substr(kept);
    Write(path, left);
  }
  inodes_.clear();
}

}  // namespace fedmoe
