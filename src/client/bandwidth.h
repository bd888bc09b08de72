// The moving average of one direction's real transfers.
#pragma once

#include <cstdint>

#include "common/ids.h"

namespace fedmoe {

// Not thread-safe.
class Bandwidth {
 public:
  // Smaller transfers measure the round trip, not the line.
  static constexpr std::uint64_t kMinBytes = 64 * 1024;

  // Counts a transfer of at least kMinBytes; one quicker than the clock's millisecond counts as
  // one.
  void Add(std::uint64_t bytes, Milliseconds took_ms);
  // 0: nothing measured yet.
  double bytes_per_s() const { return bytes_per_s_; }
  // Of the last transfer of any size; 0: none since ForgetLast().
  double last_bytes_per_s() const { return last_bytes_per_s_; }
  void ForgetLast() { last_bytes_per_s_ = 0.0; }

 private:
  double bytes_per_s_ = 0.0;
  double last_bytes_per_s_ = 0.0;
};

}  // namespace fedmoe
