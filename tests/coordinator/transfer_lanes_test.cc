// Chunks in flight are bounded whoever asks, in order, and the slow hold up only the slow.
#include "coordinator/transfer_lanes.h"

#include <future>
#include <limits>
#include <random>
#include <thread>

#include <gtest/gtest.h>

namespace fedmoe {
namespace {

using Lane = TransferLanes::Lane;
using Permit = TransferLanes::Permit;

constexpr TransferLanes::Options kNarrow = {.bytes = {100, 50}, .patience_ms = {20, 20}};
constexpr TransferLanes::Options kPatient = {.bytes = {100, 50}, .patience_ms = {60'000, 60'000}};

// Asks, and keeps what it is given.
struct Asker {
  Asker(TransferLanes& lanes, Lane lane, std::uint64_t bytes) {
    lanes.Ask(
        lane, bytes,
        [this](Permit given) {
          permit = std::move(given);
          granted = true;
        },
        [this] { told = true; });
  }
  Permit permit;
  std::atomic<bool> granted = false;
  std::atomic<bool> told = false;
};

void WaitFor(const std::atomic<bool>& flag) {
  while (!flag) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

TEST(TransferLanesTest, GrantsWhatFitsAtOnceAndTheRestInOrder) {
  TransferLanes lanes(kPatient);
  Asker first(lanes, Lane::kFast, 60), second(lanes, Lane::kFast, 60),
      third(lanes, Lane::kFast, 10);
  EXPECT_TRUE(first.granted);
  EXPECT_FALSE(second.granted);
  EXPECT_FALSE(third.granted) << "it would fit, but came later";
  EXPECT_EQ(lanes.bytes(), 60u);
  first.permit.Reset();
  EXPECT_TRUE(second.granted);
  EXPECT_TRUE(third.granted);
  EXPECT_EQ(lanes.bytes(), 70u);
  first.permit.Reset();  // once more is nothing
  EXPECT_EQ(lanes.bytes(), 70u);
  EXPECT_EQ(lanes.peak_bytes(), 70u);
}

TEST(TransferLanesTest, CarriedBytesAreRefusedPastTheirBound) {
  CarriedBytes carried;
  EXPECT_TRUE(carried.Take(CarriedBytes::kMost - 1));
  EXPECT_FALSE(carried.Take(2));
  EXPECT_FALSE(carried.Take(std::numeric_limits<std::uint64_t>::max()));
  EXPECT_TRUE(carried.Take(1));
  EXPECT_FALSE(carried.Take(1));
  carried.Return(CarriedBytes::kMost - 1);
  EXPECT_TRUE(carried.Take(2));
  EXPECT_EQ(carried.peak_bytes(), CarriedBytes::kMost);
}

TEST(TransferLanesTest, AFullSlowLaneLeavesTheFastOneOpen) {
  TransferLanes lanes(kPatient);
  Asker slow(lanes, Lane::kSlow, 50), waits(lanes, Lane::kSlow, 1), fast(lanes, Lane::kFast, 100);
  EXPECT_FALSE(waits.granted);
  EXPECT_TRUE(fast.granted);
  slow.permit.Reset();  // while who waits for it is there
}

TEST(TransferLanesTest, MoreThanTheLaneHasIsAllOfIt) {
  TransferLanes lanes(kPatient);
  Asker first(lanes, Lane::kSlow, 1'000), second(lanes, Lane::kSlow, 1'000);
  EXPECT_TRUE(first.granted);
  EXPECT_EQ(lanes.bytes(), 50u);
  first.permit.Reset();
  EXPECT_TRUE(second.granted);
}

TEST(TransferLanesTest, APermitThatIsReplacedGivesItsBytesBack) {
  TransferLanes lanes(kPatient);
  Asker first(lanes, Lane::kFast, 60), second(lanes, Lane::kFast, 30);
  first.permit = std::move(second.permit);
  EXPECT_EQ(lanes.bytes(), 30u);
}

TEST(TransferLanesTest, TheStackDoesNotGrowWithThoseWhoWait) {
  TransferLanes lanes(kPatient);
  Asker holder(lanes, Lane::kFast, 100);
  constexpr int kWaiters = 200'000;
  int granted = 0;
  for (int i = 0; i < kWaiters; ++i) {
    lanes.Ask(
        Lane::kFast, 100,
        [&granted](Permit permit) {
          ++granted;
          permit.Reset();  // which grants the next
        },
        [] {});
  }
  holder.permit.Reset();
  EXPECT_EQ(granted, kWaiters);
  EXPECT_EQ(lanes.bytes(), 0u);
}

TEST(TransferLanesTest, WhoKeepsOthersWaitingIsToldOnceToGiveUp) {
  TransferLanes lanes(kNarrow);
  Asker slow(lanes, Lane::kSlow, 50), waits(lanes, Lane::kSlow, 50);
  WaitFor(slow.told);
  EXPECT_FALSE(waits.told) << "it has nothing to give up";
  slow.told = false;
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  EXPECT_FALSE(slow.told);
  slow.permit.Reset();
  EXPECT_TRUE(waits.granted);
}

TEST(TransferLanesTest, WhoKeepsNobodyWaitingMayTakeItsTime) {
  TransferLanes lanes(kNarrow);
  Asker slow(lanes, Lane::kSlow, 50);
  // The other lane's trouble is not its own.
  Asker fast(lanes, Lane::kFast, 100), waits(lanes, Lane::kFast, 1);
  WaitFor(fast.told);
  EXPECT_FALSE(slow.told);
  fast.permit.Reset();  // while who waits for it is there
}

TEST(TransferLanesTest, ThreadsNeverHaveMoreThanTheLanesAreWide) {
  TransferLanes lanes(kPatient);
  std::vector<std::thread> threads;
  std::atomic<int> chunks = 0;
  for (unsigned seed = 0; seed < 8; ++seed) {
    threads.emplace_back([&, seed] {
      std::mt19937 random(seed);
      for (int i = 0; i < 500; ++i) {
        std::promise<Permit> given;
        std::future<Permit> permit = given.get_future();
        lanes.Ask(
            random() % 2 == 0 ? Lane::kFast : Lane::kSlow, 1 + random() % 60,
            [&](Permit granted) { given.set_value(std::move(granted)); }, [] {});
        const Permit held = permit.get();
        ++chunks;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(chunks, 4'000);
  EXPECT_EQ(lanes.bytes(), 0u);
  EXPECT_LE(lanes.peak_bytes(), 150u);
}

}  // namespace
}  // namespace fedmoe
