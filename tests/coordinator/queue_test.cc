// The command queue and the worker pool.
#include <atomic>

#include <gtest/gtest.h>

#include "coordinator/command_queue.h"
#include "coordinator/worker_pool.h"

namespace fedmoe {
namespace {

TEST(CommandQueueTest, KeepsTheOrderAndItsLimit) {
  CommandQueue queue(2);
  std::vector<int> ran;
  EXPECT_TRUE(queue.TryPush([&] { ran.push_back(1); }));
  EXPECT_TRUE(queue.TryPush([&] { ran.push_back(2); }));
  EXPECT_FALSE(queue.TryPush([&] { ran.push_back(3); })) << "full";
  EXPECT_TRUE(queue.Push([&] { ran.push_back(4); })) << "completions are never refused";
  for (CommandQueue::Command& command : queue.PopAll(-1)) command();
  EXPECT_EQ(ran, (std::vector<int>{1, 2, 4}));
  EXPECT_TRUE(queue.PopAll(0).empty());
}

TEST(CommandQueueTest, ClosedItRefusesAllAndGivesOutWhatWaits) {
  CommandQueue queue(2);
  EXPECT_TRUE(queue.TryPush([] {}));
  queue.Close();
  EXPECT_FALSE(queue.TryPush([] {}));
  EXPECT_FALSE(queue.Push([] {}));
  EXPECT_EQ(queue.PopAll(-1).size(), 1u);
  EXPECT_TRUE(queue.PopAll(-1).empty()) << "does not wait";
}

TEST(WorkerPoolTest, RunsAllBeforeItEndsAlsoWhatItsJobsAdd) {
  std::atomic<int> ran = 0;
  WorkerPool pool(2);
  for (int i = 0; i < 100; ++i) {
    pool.Run([&] {
      ++ran;
      pool.Run([&] { ++ran; });
    });
  }
  pool.Shutdown();
  EXPECT_EQ(ran, 200);
  pool.Run([&] { ++ran; });
  EXPECT_EQ(ran, 201) << "after the end a job runs at once";
}

}  // namespace
}  // namespace fedmoe
