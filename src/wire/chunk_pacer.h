// How long the chunks of one transfer are: what the link moves in two seconds, and the less the
// more transfers there are. Slow links and many then keep little of the coordinator's memory
// occupied, and few fast ones send few messages.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "wire/limits.h"

namespace fedmoe {

// Not thread-safe.
class ChunkPacer {
 public:
  // Of so many transfers at once, over however many links. 0: not known, counts as one.
  explicit ChunkPacer(std::size_t transfers) { Share(transfers); }

  void Share(std::size_t transfers) {
    most_bytes_ = std::clamp(kSharedBytes / std::max<std::size_t>(transfers, 1), kFirstBytes,
                             kWireChunkBytes);
    next_bytes_ = std::min(next_bytes_, most_bytes_);
  }
  // Bytes of the next chunk: 16 KiB to kWireChunkBytes.
  std::size_t next_bytes() const { return next_bytes_; }
  // Whether the link moves at least 4 MiB/s; unknown is no.
  bool fast() const { return fast_; }

  // A chunk of `bytes` took `seconds`. The last one of a transfer may be short: it tells little.
  void Record(std::size_t bytes, double seconds) {
    if (bytes < kLeastBytes) return;
    const double pace = static_cast<double>(bytes) / std::max(seconds, kLeastSeconds);
    fast_ = pace >= kFastPace;
    // Up in steps, for the first bytes only fill buffers; down at once.
    const double most = static_cast<double>(std::min(most_bytes_, kGrowth * next_bytes_));
    next_bytes_ = static_cast<std::size_t>(
        std::clamp(pace * kChunkSeconds, static_cast<double>(kLeastBytes), most));
  }

 private:
  static constexpr std::size_t kLeastBytes = std::size_t{16} << 10;
  // More than the first window of a stream, so that the first chunk, too, waits for the link.
  static constexpr std::size_t kFirstBytes = std::size_t{128} << 10;
  static constexpr std::size_t kSharedBytes = std::size_t{8} << 20;
  static constexpr std::size_t kGrowth = 4;
  static constexpr double kChunkSeconds = 2.0;
  static constexpr double kFastPace = 4.0 * (1 << 20);  // bytes/s
  static constexpr double kLeastSeconds = 1e-6;

  std::size_t most_bytes_ = kWireChunkBytes;
  std::size_t next_bytes_ = kFirstBytes;
  bool fast_ = false;
};

}  // namespace fedmoe
