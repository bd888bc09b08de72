#include "storage/shard_store.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "storage/manifest.h"
#include "storage/shard_writer.h"

namespace fedmoe {
namespace {

constexpr std::uint64_t kWindowBytes = 64 << 20;
constexpr std::uint64_t kVerifyBytes = 1 << 20;  // read at a time
constexpr std::size_t kOpenFiles = 16;

// The tensor files that a manifest refers to.
std::set<std::string> FilesOf(const Manifest& manifest) {
  std::set<std::string> names;
  for (const StoredShard& shard : manifest.shards) {
    names.insert(shard.file);
    if (!shard.moments_file.empty()) names.insert(shard.moments_file);
  }
  return names;
}

// Those of them that the version itself brought.
std::set<std::string> OwnFilesOf(const Manifest& manifest) {
  std::set<std::string> own;
  for (const std::string& name : FilesOf(manifest)) {
    if (name == ValuesFileName(manifest.version) || name == MomentsFileName(manifest.version)) {
      own.insert(name);
    }
  }
  return own;
}

}  // namespace

std::vector<Digest> Manifest::Digests() const {
  std::vector<Digest> digests;
  digests.reserve(shards.size());
  for (const StoredShard& shard : shards) digests.push_back(shard.digest);
  return digests;
}

ShardStore::ShardStore(FileSystem& files, std::string directory, const ModelSpec& spec)
    : files_(files),
      directory_(std::move(directory)),
      spec_(spec),
      spec_digest_(SpecDigest(spec)) {}

Result<std::unique_ptr<ShardStore>> ShardStore::Open(FileSystem& files,
                                                     const std::string& directory,
                                                     const ModelSpec& spec,
                                                     const StoreHints& hints) {
  FEDMOE_RETURN_IF_ERROR(files.CreateDirectories(directory));
  std::unique_ptr<ShardStore> store(new ShardStore(files, directory, spec));
  FEDMOE_RETURN_IF_ERROR(store->ReadDirectory(hints));
  return store;
}

std::string ShardStore::PathOf(const std::string& name) const { return JoinPath(directory_, name); }

// All manifests are read before anything is removed: a directory that cannot be understood stays as
// it is.
Status ShardStore::ReadDirectory(const StoreHints& hints) {
  FEDMOE_ASSIGN_OR_RETURN(const std::vector<std::string> names, files_.List(directory_));
  std::set<std::string> needed;
  for (const std::string& name : names) {
    if (KindOfCheckpointFile(name) != CheckpointFileKind::kManifest) continue;
    const ModelVersion version = VersionOfCheckpointFile(name);
    if (hints.newest >= 0 && version > hints.newest) {
      // Its files may be torn where they were not synced yet.
      FEDMOE_RETURN_IF_ERROR(files_.Remove(PathOf(name)));
      continue;
    }
    FEDMOE_ASSIGN_OR_RETURN(Manifest manifest, ReadManifest(files_, PathOf(name), spec_));
    FEDMOE_ASSIGN_OR_RETURN(const bool dropped, DropInterruptedCommit(manifest));
    if (dropped) continue;
    if (const Status whole = CheckFiles(manifest); !whole.ok()) {
      if (version == hints.newest || !hints.restored.contains(name)) return whole;
      FEDMOE_RETURN_IF_ERROR(files_.Remove(PathOf(name)));
      continue;
    }
    needed.merge(FilesOf(manifest));
    manifests_.emplace(manifest.version, std::move(manifest));
  }
  if (hints.newest >= 0 && !manifests_.contains(hints.newest)) {
    return DataLoss(PathOf(ManifestFileName(hints.newest)) + ": is missing");
  }
  for (const auto& [number, manifest] : manifests_) Index(manifest);
  for (const std::string& name : names) {
    const std::optional<CheckpointFileKind> kind = KindOfCheckpointFile(name);
    const bool orphan = kind == CheckpointFileKind::kTensors && !needed.contains(name);
    if (!orphan && kind != CheckpointFileKind::kTemporary) continue;
    FEDMOE_RETURN_IF_ERROR(files_.Remove(PathOf(name)));
  }
  return Status::Ok();
}

// A version whose tensors still have their temporary name was not committed: nobody was told of it.
Result<bool> ShardStore::DropInterruptedCommit(const Manifest& manifest) {
  for (const std::string& name : OwnFilesOf(manifest)) {
    if (files_.Exists(PathOf(name)) || !files_.Exists(PathOf(TemporaryName(name)))) continue;
    FEDMOE_RETURN_IF_ERROR(RemoveManifest(manifest.version));
    return true;
  }
  return false;
}

Status ShardStore::CheckFiles(const Manifest& manifest) {
  const std::string who = PathOf(ManifestFileName(manifest.version));
  std::map<std::string, std::uint64_t> ends;
  for (const StoredShard& shard : manifest.shards) {
    std::uint64_t& end = ends[shard.file];
    end = std::max(end, shard.offset + shard.bytes);
    if (shard.moments_file.empty()) continue;
    std::uint64_t& moments_end = ends[shard.moments_file];
    moments_end =
        std::max(moments_end, shard.moments_offset +
                                  shard.bytes * static_cast<std::uint64_t>(shard.moment_count));
  }
  for (const auto& [name, end] : ends) {
    if (!files_.Exists(PathOf(name))) return DataLoss(who + ": " + name + " is missing");
    FEDMOE_ASSIGN_OR_RETURN(const std::uint64_t size, files_.FileSize(PathOf(name)));
    if (size >= end) continue;
    return DataLoss(who + ": " + name + " is " + std::to_string(size) + " bytes, " +
                    std::to_string(end) + " are needed");
  }
  return Status::Ok();
}

void ShardStore::Index(const Manifest& manifest) {
  for (const StoredShard& shard : manifest.shards) locations_.try_emplace(shard.digest, shard);
}

std::vector<ModelVersion> ShardStore::Versions() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<ModelVersion> versions;
  for (const auto& [version, manifest] : manifests_) versions.push_back(version);
  return versions;
}

Result<Manifest> ShardStore::Get(ModelVersion version) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = manifests_.find(version);
  if (found != manifests_.end()) return found->second;
  return NotFound(directory_ + ": no version " + std::to_string(version));
}

Status ShardStore::CheckStage(ModelVersion version, const Manifest* base,
                              const std::vector<ShardContent>& changed) const {
  const std::string who = "version " + std::to_string(version) + ": ";
  std::set<int> given;
  for (const ShardContent& content : changed) {
    if (content.shard < 0 || content.shard >= spec_.ShardCount()) {
      return InvalidArgument(who + "no shard " + std::to_string(content.shard));
    }
    if (content.moment_count < 0 || content.moment_count > 2) {
      return InvalidArgument(who + std::to_string(content.moment_count) + " moments");
    }
    if (!given.insert(content.shard).second) {
      return InvalidArgument(who + "shard " + spec_.ShardName(content.shard) + " stands twice");
    }
  }
  const auto count = static_cast<std::size_t>(spec_.ShardCount());
  if (base == nullptr && given.size() != count) {
    return InvalidArgument(who + "has no base and not every shard");
  }
  if (base != nullptr && base->shards.size() != count) {
    return InvalidArgument(who + "its base has " + std::to_string(base->shards.size()) + " of " +
                           std::to_string(count) + " shards");
  }
  return Status::Ok();
}

Result<Manifest> ShardStore::Stage(ModelVersion version, const Manifest* base,
                                   const std::vector<ShardContent>& changed, Syncing syncing) {
  FEDMOE_RETURN_IF_ERROR(CheckStage(version, base, changed));
  std::vector<ShardContent> ordered = changed;
  std::sort(ordered.begin(), ordered.end(),
            [](const ShardContent& a, const ShardContent& b) { return a.shard < b.shard; });
  Manifest staged;
  staged.version = version;
  staged.spec_digest = spec_digest_;
  staged.shards.resize(static_cast<std::size_t>(spec_.ShardCount()));
  if (base != nullptr) staged.shards = base->shards;

  ShardWriter writer(files_, directory_, spec_, version, ordered);
  // Also of an earlier staging that had moments where this one has none.
  writer.Remove();
  const auto write = [&]() -> Status {
    FEDMOE_RETURN_IF_ERROR(writer.Begin());
    for (const ShardContent& content : ordered) {
      FEDMOE_ASSIGN_OR_RETURN(staged.shards[static_cast<std::size_t>(content.shard)],
                              writer.Write(content));
    }
    return writer.Finish(syncing == Syncing::kNow);
  };
  if (const Status status = write(); !status.ok()) {
    writer.Remove();
    return status;
  }
  staged.model_digest = ModelDigest(staged.Digests());
  return staged;
}

std::uint64_t ShardStore::StagedBytes(const std::vector<int>& shards, int moment_count) const {
  std::uint64_t bytes = 0;
  for (const int shard : shards) bytes += static_cast<std::uint64_t>(spec_.ShardBytes(shard));
  return bytes * static_cast<std::uint64_t>(1 + moment_count);
}

Result<std::vector<KeptFile>> ShardStore::StagedFiles(const Manifest& staged) const {
  std::vector<KeptFile> contents;
  for (const std::string& name : OwnFilesOf(staged)) {
    FEDMOE_ASSIGN_OR_RETURN(std::string bytes,
                            ReadFile(files_, PathOf(TemporaryName(name)), kWindowBytes));
    contents.push_back({.name = name, .bytes = std::move(bytes)});
  }
  contents.push_back(
      {.name = ManifestFileName(staged.version), .bytes = ManifestToJson(staged, spec_)});
  return contents;
}

Status ShardStore::RemoveManifest(ModelVersion version, Syncing syncing) {
  const std::string path = PathOf(ManifestFileName(version));
  if (!files_.Exists(path)) return Status::Ok();
  FEDMOE_RETURN_IF_ERROR(files_.Remove(path));
  return syncing == Syncing::kNow ? files_.SyncDirectory(directory_) : Status::Ok();
}

Status ShardStore::Commit(const Manifest& staged, Syncing syncing) {
  const std::string path = PathOf(ManifestFileName(staged.version));
  const Result<Manifest> found = Get(staged.version);
  if (found.ok() && *found == staged) {
    Discard(staged);  // of a second staging
    return Status::Ok();
  }
  if (found.ok() && Versions().back() != staged.version) {
    return FailedPrecondition(path + ": another version " + std::to_string(staged.version) +
                              " is committed, and later ones stand on it");
  }
  // No manifest may ever stand beside tensors that are not its own.
  FEDMOE_RETURN_IF_ERROR(RemoveManifest(staged.version, syncing));
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (manifests_.erase(staged.version) > 0) {
      locations_.clear();
      for (const auto& [version, manifest] : manifests_) Index(manifest);
    }
    for (const std::string& name : OwnFilesOf(staged)) {
      verified_.erase(name);
      open_.erase(name);
    }
  }
  for (const std::string& name : OwnFilesOf(staged)) {
    const std::string temporary = PathOf(TemporaryName(name));
    if (files_.Exists(temporary)) {
      FEDMOE_RETURN_IF_ERROR(files_.Rename(temporary, PathOf(name)));
    } else if (!files_.Exists(PathOf(name))) {
      return FailedPrecondition(path + ": version " + std::to_string(staged.version) +
                                " is not staged");
    }
  }
  // The sync of the directory that ends this makes both names durable. A crash before it may leave
  // the manifest's alone: DropInterruptedCommit() knows that by the tensors' temporary name.
  const std::string manifest = ManifestToJson(staged, spec_);
  const Status status = syncing == Syncing::kNow ? WriteFileAtomically(files_, path, manifest)
                                                 : ReplaceFile(files_, path, manifest);
  if (!status.ok()) {
    // The rename may have happened, whole or in part; a version that is reported as failed must
    // not come back.
    static_cast<void>(RemoveManifest(staged.version));
    return status;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  Index(manifests_[staged.version] = staged);
  // Their digests were taken of the bytes as they were written.
  const std::set<std::string> own = OwnFilesOf(staged);
  for (const StoredShard& shard : staged.shards) {
    if (own.contains(shard.file)) verified_[shard.file].insert(shard.offset);
  }
  return Status::Ok();
}

void ShardStore::Discard(const Manifest& staged) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (manifests_.contains(staged.version)) {
      // Only what stands under temporary names is not the committed version's.
      for (const std::string& name : OwnFilesOf(staged)) {
        const std::string temporary = PathOf(TemporaryName(name));
        if (files_.Exists(temporary)) static_cast<void>(files_.Remove(temporary));
      }
      return;
    }
  }
  // A manifest that cannot be removed keeps its tensors.
  if (!RemoveManifest(staged.version).ok()) return;
  for (const std::string& name : OwnFilesOf(staged)) {
    for (const std::string& path : {PathOf(TemporaryName(name)), PathOf(name)}) {
      if (files_.Exists(path)) static_cast<void>(files_.Remove(path));
    }
  }
}

Status ShardStore::Prune(int keep, const std::set<ModelVersion>& pinned, ModelVersion newest) {
  if (keep <= 0) return Status::Ok();
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Manifest> gone;
  std::set<std::string> needed;
  int newer = static_cast<int>(manifests_.size());
  for (const auto& [version, manifest] : manifests_) {
    if (newer-- <= keep || version > newest || pinned.contains(version)) {
      needed.merge(FilesOf(manifest));
    } else {
      gone.push_back(manifest);
    }
  }
  if (gone.empty()) return Status::Ok();
  // Manifests first, durably: a crash leaves tensors without a manifest, never the reverse.
  for (const Manifest& manifest : gone) {
    FEDMOE_RETURN_IF_ERROR(files_.Remove(PathOf(ManifestFileName(manifest.version))));
    manifests_.erase(manifest.version);
  }
  locations_.clear();
  for (const auto& [version, manifest] : manifests_) Index(manifest);
  FEDMOE_RETURN_IF_ERROR(files_.SyncDirectory(directory_));
  std::set<std::string> candidates;
  for (const Manifest& manifest : gone) candidates.merge(FilesOf(manifest));
  for (const std::string& name : candidates) {
    if (needed.contains(name)) continue;
    verified_.erase(name);
    open_.erase(name);
    if (!files_.Exists(PathOf(name))) continue;
    FEDMOE_RETURN_IF_ERROR(files_.Remove(PathOf(name)));
  }
  return Status::Ok();
}

Result<std::shared_ptr<const RandomAccessFile>> ShardStore::OpenFile(
    const std::string& name) const {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (const auto found = open_.find(name); found != open_.end()) return found->second;
  }
  FEDMOE_ASSIGN_OR_RETURN(std::shared_ptr<const RandomAccessFile> file, files_.Open(PathOf(name)));
  const std::lock_guard<std::mutex> lock(mutex_);
  if (open_.size() >= kOpenFiles) open_.erase(open_.begin());
  open_[name] = file;
  return file;
}

Result<StoredShard> ShardStore::Locate(const Digest& digest) const {
  StoredShard shard;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = locations_.find(digest);
    if (found == locations_.end()) return NotFound(directory_ + ": no shard " + digest);
    shard = found->second;
    if (IsVerified(shard)) return shard;
  }
  FEDMOE_RETURN_IF_ERROR(Verify(shard));
  const std::lock_guard<std::mutex> lock(mutex_);
  // It may have been pruned meanwhile.
  if (locations_.contains(digest)) verified_[shard.file].insert(shard.offset);
  return shard;
}

bool ShardStore::IsVerified(const StoredShard& shard) const {
  const auto file = verified_.find(shard.file);
  return file != verified_.end() && file->second.contains(shard.offset);
}

Status ShardStore::Verify(const StoredShard& shard) const {
  FEDMOE_ASSIGN_OR_RETURN(const auto file, OpenFile(shard.file));
  Sha256 digest;
  // Not mapped: a bad sector is then an error that names the file.
  std::vector<std::byte> piece(std::min(kVerifyBytes, shard.bytes));
  for (std::uint64_t done = 0; done < shard.bytes;) {
    piece.resize(std::min(kVerifyBytes, shard.bytes - done));
    FEDMOE_RETURN_IF_ERROR(file->ReadAt(shard.offset + done, piece));
    digest.Update(piece);
    done += piece.size();
  }
  if (digest.Finish() == shard.digest) return Status::Ok();
  return DataLoss(PathOf(shard.file) + ": shard " + spec_.ShardName(shard.shard) +
                  " does not have its digest");
}

Result<std::unique_ptr<MappedRegion>> ShardStore::ReadShard(const Digest& digest) const {
  FEDMOE_ASSIGN_OR_RETURN(const StoredShard shard, Locate(digest));
  FEDMOE_ASSIGN_OR_RETURN(const auto file, OpenFile(shard.file));
  return file->Map(shard.offset, shard.bytes);
}

Status ShardStore::CheckWindow(const StoredShard& shard, std::uint64_t offset,
                               std::uint64_t bytes) const {
  if (bytes > kWindowBytes) {
    return InvalidArgument("read of " + std::to_string(bytes) + " bytes, over the " +
                           std::to_string(kWindowBytes) + " of a window");
  }
  if (offset <= shard.bytes && bytes <= shard.bytes - offset) return Status::Ok();
  return OutOfRange("shard " + spec_.ShardName(shard.shard) + ": " + std::to_string(bytes) +
                    " bytes at offset " + std::to_string(offset) + " end past its " +
                    std::to_string(shard.bytes) + " bytes");
}

Status ShardStore::ReadShardAt(const Digest& digest, std::uint64_t offset,
                               std::span<std::byte> out) const {
  FEDMOE_ASSIGN_OR_RETURN(const StoredShard shard, Locate(digest));
  FEDMOE_RETURN_IF_ERROR(CheckWindow(shard, offset, out.size()));
  FEDMOE_ASSIGN_OR_RETURN(const auto file, OpenFile(shard.file));
  return file->ReadAt(shard.offset + offset, out);
}

Result<std::uint64_t> ShardStore::ShardBytes(const Digest& digest) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = locations_.find(digest);
  if (found == locations_.end()) return NotFound(directory_ + ": no shard " + digest);
  return found->second.bytes;
}

bool ShardStore::Has(int shard, const Digest& digest) const {
  if (shard < 0 || shard >= spec_.ShardCount()) return false;
  const auto index = static_cast<std::size_t>(shard);
  const std::lock_guard<std::mutex> lock(mutex_);
  // The newest first, which is asked for most.
  return std::any_of(manifests_.rbegin(), manifests_.rend(), [&](const auto& entry) {
    return entry.second.shards[index].digest == digest;
  });
}

Status ShardStore::CheckMoment(const StoredShard& shard, int index) const {
  if (index >= 0 && index < shard.moment_count) return Status::Ok();
  return InvalidArgument("shard " + spec_.ShardName(shard.shard) + " has " +
                         std::to_string(shard.moment_count) + " moments, not moment " +
                         std::to_string(index));
}

Status ShardStore::ReadMomentsAt(const StoredShard& shard, int index, std::uint64_t offset,
                                 std::span<std::byte> out) const {
  FEDMOE_RETURN_IF_ERROR(CheckMoment(shard, index));
  FEDMOE_RETURN_IF_ERROR(CheckWindow(shard, offset, out.size()));
  FEDMOE_ASSIGN_OR_RETURN(const auto file, OpenFile(shard.moments_file));
  const std::uint64_t begin =
      shard.moments_offset + shard.bytes * static_cast<std::uint64_t>(index);
  return file->ReadAt(begin + offset, out);
}

Result<std::unique_ptr<MappedRegion>> ShardStore::ReadMoments(const StoredShard& shard,
                                                              int index) const {
  FEDMOE_RETURN_IF_ERROR(CheckMoment(shard, index));
  FEDMOE_ASSIGN_OR_RETURN(const auto file, OpenFile(shard.moments_file));
  return file->Map(shard.moments_offset + shard.bytes * static_cast<std::uint64_t>(index),
                   shard.bytes);
}

}  // namespace fedmoe
