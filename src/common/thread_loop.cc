#include "common/thread_loop.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace fedmoe {

ParallelFor LoopOnThreads(int threads) {
  if (threads < 2) return {};
  return [threads](int parts, const std::function<void(int part)>& body) {
    std::atomic<int> next = 0;
    const auto work = [&] {
      for (int part = next++; part < parts; part = next++) body(part);
    };
    std::vector<std::jthread> others;
    for (int i = 1; i < std::min(threads, parts); ++i) others.emplace_back(work);
    work();
  };
}

}  // namespace fedmoe
