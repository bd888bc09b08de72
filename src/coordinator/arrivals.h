// Small updates that come close together are made durable together: a sync of the disk and a commit
// of the journal cost more than the updates do.
#pragma once

#include <chrono>
#include <cstdint>
#include <iterator>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

namespace fedmoe {

// Whoever arrives waits for those that are on their way then, not for any that begin later, and for
// none longer than `patience` from its beginning: slow ones, and those that never come, hold up
// nobody for more than that from when it came. Who arrives meanwhile goes with the first.
// Thread-safe.
template <typename T>
class Arrivals {
 public:
  using Time = std::chrono::steady_clock::time_point;

  explicit Arrivals(std::chrono::steady_clock::duration patience) : patience_(patience) {}

  // `number` is on its way. Numbers and times rise from call to call.
  void Expect(std::uint64_t number, Time now) {
    const std::lock_guard lock(mutex_);
    DropLate(now);
    if (!closed_) coming_.emplace(number, now + patience_);
  }

  // It is here, expected or not. Returns all that have arrived, in that order, if nobody is waited
  // for any more; else nothing, and they go with who comes later, or with TakeDue().
  std::vector<T> Arrive(std::uint64_t number, T item, Time now) {
    const std::lock_guard lock(mutex_);
    coming_.erase(number);
    if (arrived_.empty()) last_ = coming_.empty() ? 0 : coming_.rbegin()->first;
    arrived_.push_back(std::move(item));
    return Take(now);
  }

  // When TakeDue() is to be called; nullopt: nobody is waited for.
  std::optional<Time> NextDue() const {
    const std::lock_guard lock(mutex_);
    if (arrived_.empty()) {
      return coming_.empty() ? std::nullopt : std::optional(coming_.rbegin()->second);
    }
    const auto after = coming_.upper_bound(last_);
    return after == coming_.begin() ? Time() : std::prev(after)->second;
  }

  // Those who have waited long enough.
  std::vector<T> TakeDue(Time now) {
    const std::lock_guard lock(mutex_);
    return Take(now);
  }

  // Nobody is waited for from here on. Returns those who have arrived.
  std::vector<T> Close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    coming_.clear();
    return std::exchange(arrived_, {});
  }

 private:
  void DropLate(Time now) {
    while (!coming_.empty() && coming_.begin()->second <= now) coming_.erase(coming_.begin());
  }
  std::vector<T> Take(Time now) {
    DropLate(now);
    const bool waits = !coming_.empty() && coming_.begin()->first <= last_;
    return waits ? std::vector<T>() : std::exchange(arrived_, {});
  }

  const std::chrono::steady_clock::duration patience_;
  mutable std::mutex mutex_;
  std::map<std::uint64_t, Time> coming_;  // until when each is waited for
  std::vector<T> arrived_;
  std::uint64_t last_ = 0;  // that the first of them waits for
  bool closed_ = false;
};

}  // namespace fedmoe
