#include "common/clock.h"

#include <gtest/gtest.h>

namespace fedmoe {
namespace {

TEST(SteadyClock, NeverGoesBack) {
  const SteadyClock clock;
  Milliseconds before = clock.NowMs();
  for (int i = 0; i < 1000; ++i) {
    const Milliseconds now = clock.NowMs();
    ASSERT_GE(now, before);
    before = now;
  }
}

TEST(ManualClock, MovesOnlyWhenTold) {
  ManualClock clock(100);
  EXPECT_EQ(clock.NowMs(), 100);
  EXPECT_EQ(clock.NowMs(), 100);
  clock.Advance(25);
  EXPECT_EQ(clock.NowMs(), 125);
  EXPECT_EQ(ManualClock().NowMs(), 0);
}

}  // namespace
}  // namespace fedmoe
