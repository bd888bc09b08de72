// Pieces of shards that were read a moment ago. All clients of a round fetch the same shards at the
// same time: each piece is read, and its checksum taken, once for those who are near each other.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/result.h"

namespace fedmoe {

struct ShardBytes {
  std::string bytes;
  std::uint32_t crc32c = 0;
};
// Shared by those who send it. Its memory is used again when the last of them lets go.
using SharedBytes = std::shared_ptr<const ShardBytes>;

// Thread-safe. What it gave out may outlive it.
class PieceCache {
 public:
  // Fills the string, which has the piece's length.
  using Read = std::function<Status(std::string& bytes)>;

  // Keeps `max_bytes` at the most, while somebody fetches, and nothing else.
  explicit PieceCache(std::uint64_t max_bytes = std::uint64_t{4} << 20);

  // The piece of that name and length: what was read before, perhaps for another who waits for it
  // now, or what `read` brings, on this thread. `read`'s errors, which are not kept.
  Result<SharedBytes> Get(const std::string& name, std::uint64_t length, const Read& read);
  // The same, always read, for pieces that are not worth keeping.
  Result<SharedBytes> ReadOnce(std::uint64_t length, const Read& read);
  // Of which some may be damaged.
  void Clear();

  // A download begins, ends: with the last of them all is let go.
  void Join();
  void Leave();

 private:
  struct Entry {
    std::mutex reading;  // held by who reads; others wait for it
    SharedBytes bytes;   // null: not there yet, or it could not be read; guarded by `reading`
    std::string name;
    std::uint64_t length = 0;
  };
  using Entries = std::list<std::shared_ptr<Entry>>;
  class Buffers;

  std::shared_ptr<Entry> Find(const std::string& name, std::uint64_t length);
  void Forget(const std::shared_ptr<Entry>& entry);
  void ForgetAll();  // with the lock

  const std::uint64_t max_bytes_;
  const std::shared_ptr<Buffers> buffers_;
  std::mutex mutex_;
  Entries entries_;  // the one that was asked for last is first
  std::unordered_map<std::string, Entries::iterator> by_name_;
  std::uint64_t bytes_ = 0;
  std::size_t fetches_ = 0;
};

}  // namespace fedmoe
