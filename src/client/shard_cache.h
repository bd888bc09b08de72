// Shards in memory, as they travelled: a client downloads only what changed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace fedmoe {

// The bytes of a shard, encoded or not. Shared: a task keeps the shards that it works on, whatever
// the cache drops meanwhile.
using CachedShard = std::shared_ptr<const std::vector<std::byte>>;

// By ShardKey(). Least recently used goes first. Holds at most `max_bytes`; a shard above that is
// not kept at all. Not thread-safe.
class ShardCache {
 public:
  explicit ShardCache(std::uint64_t max_bytes) : max_bytes_(max_bytes) {}

  // Null if the cache lacks it; else it becomes the most recently used.
  CachedShard Get(const std::string& key);
  // The caller has verified its digest or its blocks.
  void Put(const std::string& key, CachedShard shard);
  std::uint64_t bytes() const { return bytes_; }

 private:
  struct Entry {
    CachedShard shard;
    std::list<std::string>::iterator place;
  };
  void Drop(const std::string& key);

  const std::uint64_t max_bytes_;
  std::uint64_t bytes_ = 0;
  std::map<std::string, Entry> entries_;
  std::list<std::string> order_;  // most recently used first
};

}  // namespace fedmoe
