#include "client/backoff.h"

#include <gtest/gtest.h>

#include "client/bandwidth.h"

namespace fedmoe {
namespace {

TEST(BackoffTest, DelaysStayWithinADoublingLimitAndFillIt) {
  constexpr Milliseconds kLimits[] = {100, 200, 400, 500, 500, 500};
  Milliseconds longest[6] = {};
  for (int client = 0; client < 200; ++client) {
    Backoff backoff("client-" + std::to_string(client), 100, 500);
    for (int i = 0; i < 6; ++i) {
      const Milliseconds delay_ms = backoff.Next();
      EXPECT_GE(delay_ms, 1);
      EXPECT_LE(delay_ms, kLimits[i]);
      longest[i] = std::max(longest[i], delay_ms);
    }
  }
  for (int i = 0; i < 6; ++i) EXPECT_GT(longest[i], kLimits[i] * 9 / 10);
}

TEST(BackoffTest, ClientsDiffer) {
  Backoff a("a", 1'000'000, 1'000'000), b("b", 1'000'000, 1'000'000);
  EXPECT_NE(a.Next(), b.Next());
}

TEST(BackoffTest, TellsWhileItDoublesAndThenEverMoreSeldom) {
  Backoff backoff("a", 100, 400);
  std::string told;
  for (int i = 1; i <= 16; ++i) {
    backoff.Next();
    if (backoff.worth_telling()) told += std::to_string(i) + " ";
  }
  EXPECT_EQ(told, "1 2 4 8 16 ");
  backoff.Reset();
  EXPECT_LE(backoff.Next(), 100);
  EXPECT_TRUE(backoff.worth_telling());
}

TEST(BandwidthTest, AveragesTransfersThatAreLargeEnough) {
  Bandwidth bandwidth;
  EXPECT_EQ(bandwidth.bytes_per_s(), 0.0);
  bandwidth.Add(Bandwidth::kMinBytes - 1, 1);
  EXPECT_EQ(bandwidth.bytes_per_s(), 0.0);
  bandwidth.Add(100'000, 100);
  EXPECT_EQ(bandwidth.bytes_per_s(), 1e6);
  bandwidth.Add(200'000, 100);
  EXPECT_DOUBLE_EQ(bandwidth.bytes_per_s(), 1.3e6);
}

TEST(BandwidthTest, ATransferQuickerThanTheClockTookAMillisecond) {
  Bandwidth bandwidth;
  bandwidth.Add(100'000, 0);
  EXPECT_EQ(bandwidth.bytes_per_s(), 1e8);
}

}  // namespace
}  // namespace fedmoe
