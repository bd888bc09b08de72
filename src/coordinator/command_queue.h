// The bounded queue into the round thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <utility>
#include <vector>

namespace fedmoe {

// Many producers, one consumer. Thread-safe.
class CommandQueue {
 public:
  using Command = std::function<void()>;

  explicit CommandQueue(std::size_t limit) : limit_(limit) {}

  // False if the queue is full or closed: the caller answers RESOURCE_EXHAUSTED.
  bool TryPush(Command command) {
    {
      std::lock_guard lock(mutex_);
      if (closed_ || commands_.size() >= limit_) return false;
      commands_.push_back(std::move(command));
      if (commands_.size() > 1) return true;
    }
    ready_.notify_one();
    return true;
  }

  // For completions of work that the consumer itself started: not counted against the limit. False
  // if closed.
  bool Push(Command command) {
    {
      std::lock_guard lock(mutex_);
      if (closed_) return false;
      commands_.push_back(std::move(command));
      if (commands_.size() > 1) return true;  // the first has woken the consumer
    }
    ready_.notify_one();
    return true;
  }

  // All commands waiting, in order; waits for one at most `timeout_ms` (negative: for ever). Empty
  // at the timeout or once closed.
  std::vector<Command> PopAll(std::int64_t timeout_ms) {
    std::unique_lock lock(mutex_);
    const auto ready = [this] { return closed_ || !commands_.empty(); };
    if (timeout_ms < 0) {
      ready_.wait(lock, ready);
    } else {
      ready_.wait_for(lock, std::chrono::milliseconds(timeout_ms), ready);
    }
    return std::exchange(commands_, {});
  }

  // Refuses all that comes from now on and wakes the consumer; what waits can still be popped.
  void Close() {
    std::lock_guard lock(mutex_);
    closed_ = true;
    ready_.notify_all();
  }

  bool closed() const {
    std::lock_guard lock(mutex_);
    return closed_;
  }

 private:
  const std::size_t limit_;
  mutable std::mutex mutex_;
  std::condition_variable ready_;
  std::vector<Command> commands_;
  bool closed_ = false;
};

}  // namespace fedmoe
