// Small updates that arrive close together are made durable together: with one sync of the disk and
// one commit of the journal, which cost more than the updates themselves.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

namespace fedmoe {

// Who has arrived waits for those on their way, each of them for no longer than `patience` from its
// beginning: a slow client holds up nobody. Thread-safe.
template <typename T>
class Arrivals {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Arrivals(Clock::duration patience) : patience_(patience) {}

  // `number`, which rises from call to call, is on its way.
  void Expect(std::uint64_t number) {
    const std::lock_guard lock(mutex_);
    coming_.emplace(number, Clock::now() + patience_);
  }

  // It will not come, or is not small after all. Who waits for it goes on with the next arrival, or
  // at NextDue().
  void Forget(std::uint64_t number) {
    const std::lock_guard lock(mutex_);
    coming_.erase(number);
  }

  // It is here, expected or not. Returns all that have arrived, in that order, where nobody is to be
  // waited for any more; else nothing, and who comes later takes it along.
  std::vector<T> Arrive(std::uint64_t number, T item) {
    const std::lock_guard lock(mutex_);
    coming_.erase(number);
    arrived_.push_back(std::move(item));
    return TakeIfComplete();
  }

  // Those who waited for somebody long enough.
  std::vector<T> TakeDue() {
    const std::lock_guard lock(mutex_);
    return TakeIfComplete();
  }

  // When to ask for them, if nobody arrives until then.
  std::optional<Clock::time_point> NextDue() const {
    const std::lock_guard lock(mutex_);
    if (coming_.empty()) return arrived_.empty() ? std::nullopt : std::optional(Clock::now());
    return coming_.rbegin()->second;
  }

 private:
  std::vector<T> TakeIfComplete() {
    const Clock::time_point now = Clock::now();
    // They began in the order of their numbers.
    while (!coming_.empty() && coming_.begin()->second <= now) coming_.erase(coming_.begin());
    return coming_.empty() ? std::exchange(arrived_, {}) : std::vector<T>();
  }

  const Clock::duration patience_;
  mutable std::mutex mutex_;
  std::map<std::uint64_t, Clock::time_point> coming_;  // until when each is waited for
  std::vector<T> arrived_;
};

}  // namespace fedmoe
