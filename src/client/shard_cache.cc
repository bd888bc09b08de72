#include "client/shard_cache.h"

#include <utility>

namespace fedmoe {
namespace {

std::uint64_t BytesOf(const CachedShard& shard) { return shard->size() * sizeof(float); }

}  // namespace

CachedShard ShardCache::Get(const Digest& digest) {
  const auto found = entries_.find(digest);
  if (found == entries_.end()) return nullptr;
  order_.splice(order_.begin(), order_, found->second.place);
  return found->second.shard;
}

void ShardCache::Put(const Digest& digest, CachedShard shard) {
  Drop(digest);
  const std::uint64_t bytes = BytesOf(shard);
  if (bytes > max_bytes_) return;
  while (bytes_ + bytes > max_bytes_) Drop(Digest(order_.back()));
  order_.push_front(digest);
  entries_.emplace(digest, Entry{std::move(shard), order_.begin()});
  bytes_ += bytes;
}

void ShardCache::Drop(const Digest& digest) {
  const auto found = entries_.find(digest);
  if (found == entries_.end()) return;
  bytes_ -= BytesOf(found->second.shard);
  order_.erase(found->second.place);
  entries_.erase(found);
}

}  // namespace fedmoe
