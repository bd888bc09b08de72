// Shards by digest, in memory: a client downloads only what changed.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <vector>

#include "common/checksum.h"

namespace fedmoe {

// A shard's float32 values. Shared: a task keeps the shards that it works on, whatever the cache
// drops meanwhile.
using CachedShard = std::shared_ptr<const std::vector<float>>;

// Least recently used goes first. Holds at most `max_bytes`; a shard above that is not kept at all.
// Not thread-safe.
class ShardCache {
 public:
  explicit ShardCache(std::uint64_t max_bytes) : max_bytes_(max_bytes) {}

  // Null if the cache lacks it; else it becomes the most recently used.
  CachedShard Get(const Digest& digest);
  // The caller has verified the digest.
  void Put(const Digest& digest, CachedShard shard);
  std::uint64_t bytes() const { return bytes_; }

 private:
  struct Entry {
    CachedShard shard;
    std::list<Digest>::iterator place;
  };
  void Drop(const Digest& digest);

  const std::uint64_t max_bytes_;
  std::uint64_t bytes_ = 0;
  std::map<Digest, Entry> entries_;
  std::list<Digest> order_;  // most recently used first
};

}  // namespace fedmoe
