// One parallel region, and tasks in it that any thread may take. Without OpenMP, one thread.
#pragma once

#include <atomic>
#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace fedmoe {

// Calls body(thread) on up to `threads` threads at once. Inside, a matrix product runs on the
// thread that calls it: oneDNN and OpenBLAS ask OpenMP, which a team of one does not tell them.
template <typename Body>
void RunOnThreads(int threads, const Body& body) {
#ifdef _OPENMP
#pragma omp parallel num_threads(threads < 1 ? 1 : threads)
  {
    omp_set_num_threads(1);  // of this thread in this region only
    body(omp_get_thread_num());
  }
#else
  static_cast<void>(threads);
  body(0);
#endif
}

// Every thread of the region has come here.
inline void ThreadBarrier() {
#ifdef _OPENMP
#pragma omp barrier
#endif
}

// Hands out 0 to count - 1, each once, to whoever asks first.
class TaskQueue {
 public:
  explicit TaskQueue(std::int64_t count) : count_(count) {}
  template <typename Body>
  void Run(const Body& body) {
    for (std::int64_t i = next_.fetch_add(1, std::memory_order_relaxed); i < count_;
         i = next_.fetch_add(1, std::memory_order_relaxed)) {
      body(i);
    }
  }

 private:
  const std::int64_t count_;
  alignas(64) std::atomic<std::int64_t> next_{0};
};

}  // namespace fedmoe
