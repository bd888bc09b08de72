// The clock port: the only way in which the shells learn the time. The pure core never asks; it is
// told.
#pragma once

#include <atomic>

#include "common/ids.h"

namespace fedmoe {

class Clock {
 public:
  virtual ~Clock() = default;
  // Monotonic milliseconds from an arbitrary origin. Thread-safe.
  virtual Milliseconds NowMs() const = 0;
};

// std::chrono::steady_clock.
class SteadyClock final : public Clock {
 public:
  Milliseconds NowMs() const override;
};

// For tests: time moves only when told to. Thread-safe.
class ManualClock final : public Clock {
 public:
  explicit ManualClock(Milliseconds start_ms = 0) : now_ms_(start_ms) {}
  Milliseconds NowMs() const override { return now_ms_.load(); }
  void Advance(Milliseconds by_ms) { now_ms_ += by_ms; }

 private:
  std::atomic<Milliseconds> now_ms_;
};

}  // namespace fedmoe
