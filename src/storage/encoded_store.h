// Shards as they travel to trainers, each encoded once for all of them: files DIGEST.SHARD.ENCODING
// of the run directory's encoded/. A cache: what is lost or damaged is made again, with the same
// bytes, from the checkpoint.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>

#include "common/file_system.h"
#include "common/result.h"
#include "federation/model_spec.h"
#include "federation/task.h"
#include "storage/shard_store.h"

namespace fedmoe {

// Thread-safe, but for Prepare() of one shard by two threads at once.
class EncodedStore {
 public:
  // `files` and `shards` outlive it. Removes what a crash left half written.
  static Result<std::unique_ptr<EncodedStore>> Open(FileSystem& files, const std::string& directory,
                                                    const ModelSpec& spec,
                                                    const ShardStore& shards);

  // The bytes of the encoded shard, if it is ready to be read.
  std::optional<std::uint64_t> Ready(const ShardReference& shard) const;
  // Makes it so: checks the file that is there, if this object did not write it or it is said to be
  // `damaged`; where there is none, or it is not sound, encodes the shard, in windows, under a
  // temporary name. Nothing is synced. Errors of the disk leave no file; those of EncodeShard().
  Result<std::uint64_t> Prepare(const ShardReference& shard, bool damaged);
  // Whether Prepare() has checked it, as damaged, within the last ten seconds.
  bool CheckedLately(const ShardReference& shard) const;
  // Part of it. NOT_FOUND where it was pruned.
  Status ReadAt(const ShardReference& shard, std::uint64_t offset, std::span<std::byte> out) const;

  // Keeps what version `newest`, later ones and those pinned consist of.
  Status Prune(ModelVersion newest, const std::set<ModelVersion>& pinned);

 private:
  EncodedStore(FileSystem& files, std::string directory, const ModelSpec& spec,
               const ShardStore& shards);
  std::string PathOf(const std::string& key) const;
  // Whether the file is there and sound.
  bool IsSound(const ShardReference& shard) const;
  Status Make(const ShardReference& shard);
  Status Write(const ShardReference& shard, const std::string& path);
  std::set<Digest> Needed(ModelVersion newest, const std::set<ModelVersion>& pinned) const;

  FileSystem& files_;
  const std::string directory_;
  const ModelSpec spec_;
  const ShardStore& shards_;
  mutable std::mutex mutex_;
  std::map<std::string, std::uint64_t> ready_;                            // bytes, by ShardKey
  std::map<std::string, std::chrono::steady_clock::time_point> checked_;  // of those, as damaged
  mutable std::map<std::string, std::shared_ptr<const RandomAccessFile>> open_;
};

}  // namespace fedmoe
