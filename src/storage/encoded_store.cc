#include "storage/encoded_store.h"

#include <string_view>
#include <utility>
#include <vector>

#include <spdlog/spdlog.h>

#include "storage/encoded_shard.h"

namespace fedmoe {
namespace {

constexpr std::size_t kOpenFiles = 16;
constexpr std::string_view kTemporarySuffix = ".tmp";

bool IsTemporary(const std::string& name) {
  return std::string_view(name).ends_with(kTemporarySuffix);
}

// The digest that the name of an encoded shard begins with; empty for other names.
Digest DigestOf(const std::string& name) {
  const Digest digest = name.substr(0, kDigestLength);
  return IsDigest(digest) && name.size() > kDigestLength && name[kDigestLength] == '.' ? digest
                                                                                       : Digest();
}

}  // namespace

EncodedStore::EncodedStore(FileSystem& files, std::string directory, const ModelSpec& spec,
                           const ShardStore& shards)
    : files_(files), directory_(std::move(directory)), spec_(spec), shards_(shards) {}

Result<std::unique_ptr<EncodedStore>> EncodedStore::Open(FileSystem& files,
                                                         const std::string& directory,
                                                         const ModelSpec& spec,
                                                         const ShardStore& shards) {
  FEDMOE_RETURN_IF_ERROR(files.CreateDirectories(directory));
  FEDMOE_ASSIGN_OR_RETURN(const std::vector<std::string> names, files.List(directory));
  for (const std::string& name : names) {
    if (!IsTemporary(name) || DigestOf(name).empty()) continue;
    FEDMOE_RETURN_IF_ERROR(files.Remove(JoinPath(directory, name)));
  }
  return std::unique_ptr<EncodedStore>(new EncodedStore(files, directory, spec, shards));
}

std::string EncodedStore::PathOf(const std::string& key) const { return JoinPath(directory_, key); }

std::optional<std::uint64_t> EncodedStore::Ready(const ShardReference& shard) const {
  const std::lock_guard lock(mutex_);
  const auto found = ready_.find(ShardKey(shard));
  return found == ready_.end() ? std::nullopt : std::optional(found->second);
}

bool EncodedStore::CheckedLately(const ShardReference& shard) const {
  const std::lock_guard lock(mutex_);
  const auto found = checked_.find(ShardKey(shard));
  return found != checked_.end() &&
         std::chrono::steady_clock::now() - found->second < std::chrono::seconds(10);
}

bool EncodedStore::IsSound(const ShardReference& shard) const {
  const std::string path = PathOf(ShardKey(shard));
  if (!files_.Exists(path)) return false;
  const Result<std::unique_ptr<RandomAccessFile>> file = files_.Open(path);
  const Status sound = file.ok() ? VerifyEncodedShard(**file, shard, spec_) : file.status();
  if (!sound.ok()) spdlog::warn("{}: {}; it is made again", path, sound.message());
  return sound.ok();
}

// Who reads the file meanwhile goes on reading the old one.
Result<std::uint64_t> EncodedStore::Prepare(const ShardReference& shard, bool damaged) {
  const std::string key = ShardKey(shard);
  if (const auto bytes = Ready(shard); bytes && !damaged) return *bytes;
  if (!IsSound(shard)) FEDMOE_RETURN_IF_ERROR(Make(shard));
  FEDMOE_ASSIGN_OR_RETURN(const std::uint64_t bytes, files_.FileSize(PathOf(key)));
  const std::lock_guard lock(mutex_);
  ready_[key] = bytes;
  if (damaged) checked_[key] = std::chrono::steady_clock::now();
  open_.erase(key);
  return bytes;
}

Status EncodedStore::Make(const ShardReference& shard) {
  const std::string path = PathOf(ShardKey(shard));
  const std::string temporary = path + std::string(kTemporarySuffix);
  Status status = Write(shard, temporary);
  if (status.ok()) status = files_.Rename(temporary, path);
  if (status.ok()) return status;
  // Best effort: Open() removes what stays.
  if (files_.Exists(temporary)) static_cast<void>(files_.Remove(temporary));
  return status.WithContext("shard " + spec_.ShardName(shard.shard));
}

Status EncodedStore::Write(const ShardReference& shard, const std::string& path) {
  FEDMOE_ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, files_.Create(path));
  FEDMOE_RETURN_IF_ERROR(EncodeShard(
      shard, spec_,
      [&](std::uint64_t offset, std::span<std::byte> out) {
        return shards_.ReadShardAt(shard.digest, offset, out);
      },
      [&](std::span<const std::byte> bytes) { return file->Append(bytes); }));
  return file->Close();
}

Status EncodedStore::ReadAt(const ShardReference& shard, std::uint64_t offset,
                            std::span<std::byte> out) const {
  const std::string key = ShardKey(shard);
  std::shared_ptr<const RandomAccessFile> file;
  {
    const std::lock_guard lock(mutex_);
    if (!ready_.contains(key)) return NotFound(PathOf(key) + " is not there any more");
    if (const auto found = open_.find(key); found != open_.end()) file = found->second;
  }
  if (file != nullptr) return file->ReadAt(offset, out);
  FEDMOE_ASSIGN_OR_RETURN(file, files_.Open(PathOf(key)));
  {
    const std::lock_guard lock(mutex_);
    if (open_.size() >= kOpenFiles) open_.erase(open_.begin());
    if (ready_.contains(key)) open_[key] = file;
  }
  return file->ReadAt(offset, out);
}

std::set<Digest> EncodedStore::Needed(ModelVersion newest,
                                      const std::set<ModelVersion>& pinned) const {
  std::set<Digest> needed;
  for (const ModelVersion version : shards_.Versions()) {
    if (version < newest && !pinned.contains(version)) continue;
    const Result<Manifest> manifest = shards_.Get(version);
    if (!manifest.ok()) continue;  // pruned meanwhile
    for (const StoredShard& shard : manifest->shards) needed.insert(shard.digest);
  }
  return needed;
}

Status EncodedStore::Prune(ModelVersion newest, const std::set<ModelVersion>& pinned) {
  // Names first: rounds go on meanwhile, and what a version encodes stands after its commit.
  FEDMOE_ASSIGN_OR_RETURN(const std::vector<std::string> names, files_.List(directory_));
  const std::set<Digest> needed = Needed(newest, pinned);
  for (const std::string& name : names) {
    const Digest digest = DigestOf(name);
    if (digest.empty() || IsTemporary(name) || needed.contains(digest)) continue;
    {
      const std::lock_guard lock(mutex_);
      ready_.erase(name);
      checked_.erase(name);
      open_.erase(name);
    }
    FEDMOE_RETURN_IF_ERROR(files_.Remove(PathOf(name)));
  }
  return Status::Ok();
}

}  // namespace fedmoe
