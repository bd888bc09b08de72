// Threads for disk and arithmetic, so that neither the round thread nor gRPC's threads wait for
// them.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace fedmoe {

// Thread-safe. What runs in it reports back by posting a command; it never throws.
class WorkerPool {
 public:
  explicit WorkerPool(int threads);
  ~WorkerPool() { Shutdown(); }
  // Runs what is queued, then joins. Idempotent, by one thread.
  void Shutdown();
  // After Shutdown() the job runs here and now.
  void Run(std::function<void()> job);

 private:
  void Loop();

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::function<void()>> jobs_;
  bool stopping_ = false;
  bool stopped_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace fedmoe
