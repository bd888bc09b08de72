// Termination signals as calls on a thread of their own, so that their handling may lock and log.
#pragma once

#include <atomic>
#include <functional>
#include <thread>

namespace fedmoe {

// Create it before any other thread: it blocks SIGINT and SIGTERM for the process and waits for
// them. `on_signal` gets 1 for the first signal, 2 for the second, and so on. Ignores SIGPIPE. One
// a process.
class TerminationSignals {
 public:
  explicit TerminationSignals(std::function<void(int count)> on_signal);
  ~TerminationSignals();
  TerminationSignals(const TerminationSignals&) = delete;
  TerminationSignals& operator=(const TerminationSignals&) = delete;

 private:
  std::function<void(int)> on_signal_;
  std::atomic<bool> done_{false};
  std::thread thread_;
};

}  // namespace fedmoe
