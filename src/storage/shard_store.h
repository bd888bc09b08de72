// Checkpoints: immutable shards named by digest. A version is a manifest (shard -> digest, file,
// offset); the shards that a round changed are one safetensors file, the server optimiser's moments
// another. Layout in the run directory:
//
//   checkpoints/000012.safetensors   tensors of the shards that version 12 changed, by spec name
//   checkpoints/000012.moments.safetensors   "first.NAME", "second.NAME" of the same shards;
//                                            absent for FedAvg
//   checkpoints/000012.json          the manifest; written last, atomically: a version exists if
//                                    and only if its manifest does
//
// A version is synced when it is staged and committed (Syncing::kNow), or by whoever commits it,
// who keeps its files' bytes elsewhere until then (kLater).
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "common/checksum.h"
#include "common/file_system.h"
#include "common/result.h"
#include "federation/model_spec.h"
#include "storage/kept_files.h"

namespace fedmoe {

struct StoredShard {
  int shard = 0;
  Digest digest;
  std::string file;          // name within checkpoints/
  std::uint64_t offset = 0;  // of its bytes in the file
  std::uint64_t bytes = 0;
  std::string moments_file;  // empty: no moments yet
  // First moments of the shard, then second moments if there are two.
  std::uint64_t moments_offset = 0;
  int moment_count = 0;
  std::int64_t steps = 0;  // server steps taken on this shard
  bool operator==(const StoredShard&) const = default;
};

struct Manifest {
  ModelVersion version = 0;
  Digest spec_digest;
  std::vector<StoredShard> shards;  // by shard index
  Digest model_digest;
  std::vector<Digest> Digests() const;
  bool operator==(const Manifest&) const = default;
};

// One changed shard of a new version, produced when asked, window by window.
struct ShardContent {
  int shard = 0;
  int moment_count = 0;  // arrays of the shard's size that `write` gives beside the values
  std::int64_t steps = 0;
  // Must call values(...) with consecutive pieces that add up to the shard's elements; and
  // first(...), second(...) likewise where moment_count says so.
  struct Sinks {
    std::function<Status(std::span<const float>)> values;
    std::function<Status(std::span<const float>)> first;
    std::function<Status(std::span<const float>)> second;
  };
  std::function<Status(const Sinks&)> write;
};

enum class Syncing { kNow, kLater };

// What is known of a store's files from elsewhere.
struct StoreHints {
  ModelVersion newest = -1;  // that anybody was told of; negative: not known
  // Names of files that were put back under their names because something kept them.
  std::set<std::string> restored;
};

// Thread-safe: one writer, any number of readers.
class ShardStore {
 public:
  // Opens `directory` (created if need be), removes what an interrupted write left behind, versions
  // above the newest, and restored ones that had been pruned; reads manifests. DATA_LOSS names a
  // manifest that cannot be read.
  static Result<std::unique_ptr<ShardStore>> Open(FileSystem& files, const std::string& directory,
                                                  const ModelSpec& spec,
                                                  const StoreHints& hints = {});

  std::vector<ModelVersion> Versions() const;
  Result<Manifest> Get(ModelVersion version) const;

  // Writes the files of `version` (base plus changed shards) under temporary names and returns the
  // manifest that it would have. Moments are spooled beside the values, so a shard passes through
  // memory in pieces only. `base` may be null where `changed` has every shard. Staging a version
  // again replaces what was staged. Errors leave no version behind.
  Result<Manifest> Stage(ModelVersion version, const Manifest* base,
                         const std::vector<ShardContent>& changed, Syncing syncing = Syncing::kNow);
  // Bytes of the tensors that Stage() writes for these shards.
  std::uint64_t StagedBytes(const std::vector<int>& shards, int moment_count) const;
  // The files that Commit() will give their names, whole: for small versions.
  Result<std::vector<KeptFile>> StagedFiles(const Manifest& staged) const;
  // Gives the staged version its names, durably with kNow: rename, sync directory, manifest.
  // Idempotent. The newest
  // version may be committed again with other content (a crash can leave a version that its journal
  // does not know); of an older one FAILED_PRECONDITION. After an error the version is absent, or
  // whole if even taking it back failed; Commit() may be tried again.
  Status Commit(const Manifest& staged, Syncing syncing = Syncing::kNow);
  // Removes what Stage() or a failed Commit() left; no effect on a committed version.
  void Discard(const Manifest& staged);

  // Keeps the newest `keep` versions (0: all), those after `newest` (for who decided when that was
  // the newest), and everything that `pinned` versions need; removes files that no kept version
  // refers to.
  Status Prune(int keep, const std::set<ModelVersion>& pinned,
               ModelVersion newest = std::numeric_limits<ModelVersion>::max());

  // Bytes of a shard of any stored version, by digest. The digest is verified on the first read of
  // each location that this object did not write itself.
  Result<std::unique_ptr<MappedRegion>> ReadShard(const Digest& digest) const;
  // Part of a shard's bytes, for streaming; at most 64 MiB.
  Status ReadShardAt(const Digest& digest, std::uint64_t offset, std::span<std::byte> out) const;
  Result<std::uint64_t> ShardBytes(const Digest& digest) const;
  // Whether it is this shard of any stored version; equal shards have one digest.
  bool Has(int shard, const Digest& digest) const;
  // First (index 0) or second (1) moments of a stored shard.
  Result<std::unique_ptr<MappedRegion>> ReadMoments(const StoredShard& shard, int index) const;
  // Part of them, from byte `offset`; at most 64 MiB.
  Status ReadMomentsAt(const StoredShard& shard, int index, std::uint64_t offset,
                       std::span<std::byte> out) const;

 private:
  ShardStore(FileSystem& files, std::string directory, const ModelSpec& spec);
  Status ReadDirectory(const StoreHints& hints);
  Result<bool> DropInterruptedCommit(const Manifest& manifest);
  // That every file that the manifest refers to is there and long enough.
  Status CheckFiles(const Manifest& manifest);
  Status CheckStage(ModelVersion version, const Manifest* base,
                    const std::vector<ShardContent>& changed) const;
  Status RemoveManifest(ModelVersion version, Syncing syncing = Syncing::kNow);
  void Index(const Manifest& manifest);
  bool IsVerified(const StoredShard& shard) const;  // with mutex_ held
  // The shard's location, its digest verified.
  Result<StoredShard> Locate(const Digest& digest) const;
  Status Verify(const StoredShard& shard) const;
  Status CheckMoment(const StoredShard& shard, int index) const;
  Status CheckWindow(const StoredShard& shard, std::uint64_t offset, std::uint64_t bytes) const;
  std::string PathOf(const std::string& name) const;
  // A file of checkpoints/, opened once for many reads.
  Result<std::shared_ptr<const RandomAccessFile>> OpenFile(const std::string& name) const;

  FileSystem& files_;
  std::string directory_;
  const ModelSpec spec_;
  const Digest spec_digest_;
  mutable std::mutex mutex_;
  std::map<ModelVersion, Manifest> manifests_;
  std::map<Digest, StoredShard> locations_;  // the oldest version's where there are several
  // Offsets of the shards whose digests were verified, by file.
  mutable std::map<std::string, std::set<std::uint64_t>> verified_;
  mutable std::map<std::string, std::shared_ptr<const RandomAccessFile>> open_;  // by name
};

}  // namespace fedmoe
