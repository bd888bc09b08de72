#include "common/thread_loop.h"

#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace fedmoe {
namespace {

TEST(LoopOnThreads, RunsEveryPartOnce) {
  for (const int threads : {0, 1, 2, 5}) {
    for (const int parts : {0, 1, 2, 7, 100}) {
      std::mutex mutex;
      std::multiset<int> seen;
      RunParts(LoopOnThreads(threads), parts, [&](int part) {
        const std::lock_guard lock(mutex);
        seen.insert(part);
      });
      std::multiset<int> expected;
      for (int part = 0; part < parts; ++part) expected.insert(part);
      EXPECT_EQ(seen, expected) << threads << " threads, " << parts << " parts";
    }
  }
}

TEST(LoopOnThreads, IsSerialBelowTwoThreads) {
  EXPECT_FALSE(LoopOnThreads(1));
  EXPECT_FALSE(LoopOnThreads(-3));
}

TEST(LoopOnThreads, OnePartRunsOnTheCallersThread) {
  std::thread::id ran;
  LoopOnThreads(4)(1, [&](int) { ran = std::this_thread::get_id(); });
  EXPECT_EQ(ran, std::this_thread::get_id());
}

// Both parts wait for each other: on one thread this would not end.
TEST(LoopOnThreads, PartsRunAtTheSameTime) {
  std::mutex mutex;
  std::condition_variable both;
  int here = 0;
  LoopOnThreads(2)(2, [&](int) {
    std::unique_lock lock(mutex);
    ++here;
    both.notify_all();
    both.wait(lock, [&] { return here == 2; });
  });
  EXPECT_EQ(here, 2);
}

}  // namespace
}  // namespace fedmoe
