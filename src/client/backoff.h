// How long to wait before trying again: exponential backoff with full jitter, so that a fleet that
// lost its coordinator does not come back all at once.
#pragma once

#include <string_view>

#include "common/counter_rng.h"
#include "common/ids.h"

namespace fedmoe {

// Not thread-safe.
class Backoff {
 public:
  // `instance` keys the jitter. Delays are U(0, limit], the limit doubling from initial_ms to
  // max_ms; both are at least 1.
  Backoff(std::string_view instance, Milliseconds initial_ms, Milliseconds max_ms);

  Milliseconds Next();
  // True if the last delay is worth a line for a person: while the limit was still doubling, then
  // whenever the number of attempts has doubled.
  bool worth_telling() const { return worth_telling_; }
  // After a success: the next delay starts from initial_ms again.
  void Reset();

 private:
  const Milliseconds initial_ms_;
  const Milliseconds max_ms_;
  CounterRng rng_;
  Milliseconds limit_ms_;
  std::uint64_t attempts_ = 0;
  bool worth_telling_ = false;
};

}  // namespace fedmoe
