#include "simulation/task_pool.h"

namespace fedmoe {

TaskPool::TaskPool(int threads, const std::function<void()>& prepare) {
  for (int i = 0; i < threads; ++i) {
    threads_.emplace_back([this, prepare] {
      prepare();
      Loop();
    });
  }
}

TaskPool::~TaskPool() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  ready_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void TaskPool::Run(std::int64_t at, std::uint64_t number, std::function<void()> job) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.emplace(std::pair(at, number), std::move(job));
  }
  ready_.notify_one();
}

void TaskPool::Loop() {
  while (true) {
    std::function<void()> job;
    {
      std::unique_lock lock(mutex_);
      ready_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
      if (stopping_) return;
      job = std::move(jobs_.begin()->second);
      jobs_.erase(jobs_.begin());
    }
    job();
  }
}

}  // namespace fedmoe
