// Threads that run jobs in an order of their own, not that of arrival.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace fedmoe {

// Thread-safe. Jobs never throw.
class TaskPool {
 public:
  // `prepare` runs once on each thread, before its first job.
  TaskPool(int threads, const std::function<void()>& prepare);
  // Waits for the jobs under way; those that wait are dropped.
  ~TaskPool();
  TaskPool(const TaskPool&) = delete;
  TaskPool& operator=(const TaskPool&) = delete;

  // Of the jobs that wait, the one with the least (at, number) runs next.
  void Run(std::int64_t at, std::uint64_t number, std::function<void()> job);

 private:
  void Loop();

  std::mutex mutex_;
  std::condition_variable ready_;
  std::multimap<std::pair<std::int64_t, std::uint64_t>, std::function<void()>> jobs_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace fedmoe
