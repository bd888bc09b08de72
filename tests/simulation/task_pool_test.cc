// Jobs run in their own order, on threads that are prepared.
#include "simulation/task_pool.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fedmoe {
namespace {

using ::testing::ElementsAre;

// Opens once for all who wait.
class Gate {
 public:
  void Open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    opened_.notify_all();
  }
  void Wait() {
    std::unique_lock lock(mutex_);
    opened_.wait(lock, [this] { return open_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = false;
};

TEST(TaskPoolTest, TheEarliestOfThoseThatWaitGoesNext) {
  Gate running, filled, done;
  std::vector<int> order;
  TaskPool pool(1, [] {});
  pool.Run(0, 0, [&] {
    running.Open();
    filled.Wait();
  });
  running.Wait();
  pool.Run(9, 4, [&] {
    order.push_back(4);
    done.Open();
  });
  pool.Run(5, 3, [&] { order.push_back(3); });
  pool.Run(2, 2, [&] { order.push_back(2); });
  pool.Run(2, 1, [&] { order.push_back(1); });
  filled.Open();
  done.Wait();
  EXPECT_THAT(order, ElementsAre(1, 2, 3, 4));
}

TEST(TaskPoolTest, EachThreadIsPreparedOnceBeforeItsFirstJob) {
  std::mutex mutex;
  std::multiset<std::thread::id> prepared;
  std::atomic<int> unprepared{0}, left{50};
  Gate done;
  {
    TaskPool pool(3, [&] {
      const std::lock_guard lock(mutex);
      prepared.insert(std::this_thread::get_id());
    });
    for (int i = 0; i < 50; ++i) {
      pool.Run(i, 0, [&] {
        {
          const std::lock_guard lock(mutex);
          if (prepared.count(std::this_thread::get_id()) != 1) ++unprepared;
        }
        if (--left == 0) done.Open();
      });
    }
    done.Wait();
  }
  EXPECT_EQ(prepared.size(), 3u);
  EXPECT_EQ(unprepared, 0);
}

}  // namespace
}  // namespace fedmoe
