#include "client/shard_cache.h"

#include <utility>

namespace fedmoe {

CachedShard ShardCache::Get(const std::string& key) {
  const auto found = entries_.find(key);
  if (found == entries_.end()) return nullptr;
  order_.splice(order_.begin(), order_, found->second.place);
  return found->second.shard;
}

void ShardCache::Put(const std::string& key, CachedShard shard) {
  Drop(key);
  const std::uint64_t bytes = shard->size();
  if (bytes > max_bytes_) return;
  while (bytes_ + bytes > max_bytes_) Drop(std::string(order_.back()));
  order_.push_front(key);
  entries_.emplace(key, Entry{std::move(shard), order_.begin()});
  bytes_ += bytes;
}

void ShardCache::Drop(const std::string& key) {
  const auto found = entries_.find(key);
  if (found == entries_.end()) return;
  bytes_ -= found->second.shard->size();
  order_.erase(found->second.place);
  entries_.erase(found);
}

}  // namespace fedmoe
