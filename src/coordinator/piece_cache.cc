#include "coordinator/piece_cache.h"

#include <algorithm>
#include <utility>

#include "common/checksum.h"
#include "common/file_system.h"

namespace fedmoe {

// Strings whose memory is used again: a new one of 1 MiB is filled with zeros first. Thread-safe.
class PieceCache::Buffers {
 public:
  // One that is not much longer than asked for: a piece that waits for a slow client must not hold
  // on to a fast one's memory.
  std::string Take(std::uint64_t length) {
    const std::lock_guard lock(mutex_);
    const auto fits = std::find_if(free_.begin(), free_.end(), [&](const std::string& buffer) {
      return buffer.capacity() >= length && buffer.capacity() <= 2 * length;
    });
    if (fits == free_.end()) return {};
    std::string buffer = std::move(*fits);
    free_.erase(fits);
    return buffer;
  }
  void Give(std::string buffer) {
    // A short one is filled with zeros in no time.
    if (buffer.capacity() < kLeast) return;
    const std::lock_guard lock(mutex_);
    if (!keeps_) return;
    // Of those there are the oldest may be of a length that nobody asks for any more.
    if (free_.size() == kMost) free_.erase(free_.begin());
    free_.push_back(std::move(buffer));
  }
  void Keep(bool keeps) {
    const std::lock_guard lock(mutex_);
    keeps_ = keeps;
    if (!keeps) std::vector<std::string>().swap(free_);
  }

 private:
  static constexpr std::size_t kMost = 2;
  static constexpr std::size_t kLeast = std::size_t{64} << 10;
  std::mutex mutex_;
  std::vector<std::string> free_;
  bool keeps_ = false;
};

PieceCache::PieceCache(std::uint64_t max_bytes)
    : max_bytes_(max_bytes), buffers_(std::make_shared<Buffers>()) {}

Result<SharedBytes> PieceCache::ReadOnce(std::uint64_t length, const Read& read) {
  auto piece = std::make_unique<ShardBytes>();
  piece->bytes = buffers_->Take(length);
  piece->bytes.resize(static_cast<std::size_t>(length));
  FEDMOE_RETURN_IF_ERROR(read(piece->bytes));
  piece->crc32c = Crc32c(AsBytes(std::string_view(piece->bytes)));
  return SharedBytes(piece.release(), [buffers = buffers_](ShardBytes* let_go) {
    buffers->Give(std::move(let_go->bytes));
    delete let_go;
  });
}

Result<SharedBytes> PieceCache::Get(const std::string& name, std::uint64_t length,
                                    const Read& read) {
  const std::shared_ptr<Entry> entry = Find(name, length);
  if (entry == nullptr) return ReadOnce(length, read);
  const std::lock_guard reading(entry->reading);
  if (entry->bytes != nullptr) return entry->bytes;
  Result<SharedBytes> bytes = ReadOnce(length, read);
  if (bytes.ok()) {
    entry->bytes = *bytes;
  } else {
    Forget(entry);
  }
  return bytes;
}

// Null: there is nobody to keep it for.
std::shared_ptr<PieceCache::Entry> PieceCache::Find(const std::string& name, std::uint64_t length) {
  // Let go without the lock.
  Entries dropped;
  const std::lock_guard lock(mutex_);
  if (fetches_ == 0 || length > max_bytes_) return nullptr;
  const auto known = by_name_.find(name);
  if (known != by_name_.end() && (*known->second)->length == length) {
    entries_.splice(entries_.begin(), entries_, known->second);
    return entries_.front();
  }
  if (known != by_name_.end()) {
    bytes_ -= (*known->second)->length;
    dropped.splice(dropped.begin(), entries_, known->second);
    by_name_.erase(known);
  }
  while (bytes_ + length > max_bytes_) {
    bytes_ -= entries_.back()->length;
    by_name_.erase(entries_.back()->name);
    dropped.splice(dropped.begin(), entries_, std::prev(entries_.end()));
  }
  auto entry = std::make_shared<Entry>();
  entry->name = name;
  entry->length = length;
  entries_.push_front(entry);
  by_name_[name] = entries_.begin();
  bytes_ += length;
  return entry;
}

void PieceCache::Forget(const std::shared_ptr<Entry>& entry) {
  const std::lock_guard lock(mutex_);
  const auto known = by_name_.find(entry->name);
  if (known == by_name_.end() || *known->second != entry) return;
  bytes_ -= entry->length;
  entries_.erase(known->second);
  by_name_.erase(known);
}

void PieceCache::Clear() {
  const std::lock_guard lock(mutex_);
  ForgetAll();
}

void PieceCache::ForgetAll() {
  entries_.clear();
  by_name_.clear();
  bytes_ = 0;
}

void PieceCache::Join() {
  const std::lock_guard lock(mutex_);
  if (fetches_++ == 0) buffers_->Keep(true);
}

void PieceCache::Leave() {
  const std::lock_guard lock(mutex_);
  if (--fetches_ > 0) return;
  ForgetAll();
  buffers_->Keep(false);
}

}  // namespace fedmoe
