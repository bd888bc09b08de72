// Transfers that are cut on the way go on where they broke off.
#include <gtest/gtest.h>

#include "tests/wire/network_fleet.h"

namespace fedmoe {
namespace {

constexpr std::int64_t kValues = 2'000'000;
constexpr std::uint64_t kBytes = kValues * sizeof(float);

// One client, whose model and update have 8 MB.
NetworkFleetOptions LargeModel() {
  NetworkFleetOptions options;
  options.trainers = 1;
  options.core.run.spec = NetworkSpec(1, kValues);
  options.core.run.rounds = 1;
  options.core.run.participation.min_clients = 1;
  options.core.run.participation.heartbeat_timeout_ms = kNetworkLimitMs;
  options.keepalive = {};
  return options;
}

// Each connection breaks after 5 MB: a transfer that began anew would never be through.
TEST(ResumedTransfers, GetThroughOverConnectionsThatBreakBeforeTheirEnd) {
  NetworkFleet fleet(LargeModel());
  FaultProxy& link = fleet.client(0).link();
  link.Set({.up = {.cut_after_bytes = 5'000'000}, .down = {.cut_after_bytes = 5'000'000}});
  fleet.Start();
  const RoundReport report = fleet.log.WaitForRound(1);
  EXPECT_EQ(OutcomeOf(report, "client-0"), "accepted");
  EXPECT_EQ(report.attempts, 1);
  const LinkCounts counts = link.counts();
  EXPECT_GE(counts.cut, 2U);
  // What is sent again is what was in the buffers of a broken connection, and no more.
  EXPECT_LT(counts.bytes_up, kBytes * 3 / 2 + 1'000'000);
  EXPECT_LT(counts.bytes_down, kBytes * 3 / 2 + 1'000'000);
}

// For longer than the transport tries by itself: the client registers again, and goes on.
TEST(ResumedTransfers, GoOnInAnotherSessionAfterAnOutage) {
  NetworkFleet fleet(LargeModel());
  FaultProxy& link = fleet.client(0).link();
  const double pace = 2e7;  // so that there is time to break it off
  link.Set({.down = {.bytes_per_s = pace}});
  fleet.Start();
  ASSERT_TRUE(link.WaitUntil([](const LinkCounts& counts) { return counts.bytes_down > 500'000; }));
  link.Set({.down = {.bytes_per_s = pace, .cut_after_bytes = 5'000'000}, .refuse = true});
  ASSERT_TRUE(link.WaitUntil([](const LinkCounts& counts) { return counts.cut > 0; }));
  const std::uint64_t refused = link.counts().refused;
  // Register() opens connections of its own.
  ASSERT_TRUE(
      link.WaitUntil([refused](const LinkCounts& counts) { return counts.refused > refused + 5; }));
  link.Heal();
  const RoundReport report = fleet.log.WaitForRound(1);
  EXPECT_EQ(OutcomeOf(report, "client-0"), "accepted");
  EXPECT_EQ(report.attempts, 1);
  EXPECT_LT(link.counts().bytes_down, kBytes * 5 / 4);
}

// Each connection breaks within the encoded shard, of 2.1 MB.
TEST(ResumedTransfers, GetThroughWithinAnEncodedShard) {
  for (const bool zstd : {false, true}) {
    SCOPED_TRACE(zstd ? "zstd" : "no zstd");
    NetworkFleetOptions options = LargeModel();
    options.core.run.training.download = {.encoding = Encoding::kInt8, .zstd = zstd};
    NetworkFleet fleet(options);
    FaultProxy& link = fleet.client(0).link();
    link.Set({.down = {.cut_after_bytes = 800'000}});
    fleet.Start();
    const RoundReport report = fleet.log.WaitForRound(1);
    EXPECT_EQ(OutcomeOf(report, "client-0"), "accepted");
    EXPECT_EQ(report.attempts, 1);
    const LinkCounts counts = link.counts();
    EXPECT_GE(counts.cut, 2U);
    EXPECT_LT(counts.bytes_down, kBytes / 2) << "float32 would be 8 MB";
  }
}

}  // namespace
}  // namespace fedmoe
