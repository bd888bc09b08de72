// Signs of life beside a transfer.
#include "client/pulse.h"

#include <atomic>
#include <latch>
#include <thread>

#include <gtest/gtest.h>

namespace fedmoe {
namespace {

TEST(Pulse, BeatsForAsLongAsItLivesWhateverBecomesOfTheBeats) {
  std::atomic<int> beats{0};
  std::latch third{3};
  {
    const Pulse pulse(1, [&]() -> Result<HeartbeatReply> {
      if (++beats <= 3) third.count_down();
      if (beats % 2 == 0) return Unavailable("no coordinator is there");
      return HeartbeatReply{};
    });
    third.wait();
    EXPECT_EQ(pulse.word(), Status::Ok());
  }
  const int at_its_end = beats;
  EXPECT_GE(at_its_end, 3);
}

TEST(Pulse, EndsWithTheWordThatTheTaskIsNotWanted) {
  std::atomic<int> beats{0};
  const Pulse pulse(1, [&]() -> Result<HeartbeatReply> {
    ++beats;
    return HeartbeatReply{.cancel = true, .reason = CancelReason::kRoundAborted};
  });
  while (pulse.word().ok()) std::this_thread::yield();
  EXPECT_EQ(pulse.word().code(), StatusCode::kCancelled);
  EXPECT_EQ(pulse.reason(), CancelReason::kRoundAborted);
  EXPECT_EQ(beats, 1);
}

TEST(Pulse, EndsWithTheWordThatTheSessionIsVoid) {
  const Status aborted = Aborted("register again");
  const Pulse pulse(1, [&]() -> Result<HeartbeatReply> { return aborted; });
  while (pulse.word().ok()) std::this_thread::yield();
  EXPECT_EQ(pulse.word(), aborted);
}

TEST(Pulse, ATransferThatIsShortNeedsNone) {
  std::atomic<int> beats{0};
  {
    const Pulse pulse(3'600'000, [&]() -> Result<HeartbeatReply> {
      ++beats;
      return HeartbeatReply{};
    });
  }
  EXPECT_EQ(beats, 0);
}

}  // namespace
}  // namespace fedmoe
