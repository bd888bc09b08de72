// When clients can be reached: traces, days, always.
#include "simulation/availability.h"

#include <fstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

using ::testing::ElementsAre;

constexpr Milliseconds kDayMs = 86'400'000;

std::string TraceError(const std::string& text) {
  const auto trace = ParseTrace("t.csv", text);
  return trace.ok() ? "accepted" : trace.status().message();
}

TEST(TraceTest, SpansAreSortedAndJoinedWhereTheyTouch) {
  const auto trace = ParseTrace("t.csv",
                                "client,start_s,end_s\r\n"
                                "b,5,6.5\n"
                                "a,20,30\n"
                                "\n"
                                "a,0,10\n"
                                "a,10,12\n"
                                "a,25,28\n");
  ASSERT_TRUE(trace.ok()) << trace.status().message();
  ASSERT_EQ(trace->size(), 2u);
  EXPECT_THAT(trace->at("a"), ElementsAre(OnlineSpan{0, 12'000}, OnlineSpan{20'000, 30'000}));
  EXPECT_THAT(trace->at("b"), ElementsAre(OnlineSpan{5'000, 6'500}));
}

TEST(TraceTest, SaysWhatIsWrongAndWhere) {
  EXPECT_EQ(TraceError("a,0,1\n"), "t.csv:1: the first line must be client,start_s,end_s");
  EXPECT_EQ(TraceError("client,start_s,end_s\na,0\n"),
            "t.csv:2: a row must be client,start_s,end_s");
  EXPECT_EQ(TraceError("client,start_s,end_s\na,0,1,2\n"),
            "t.csv:2: a row must be client,start_s,end_s");
  const std::string rise = "start_s and end_s must be 0 to 1e+09 and rise (got ";
  EXPECT_EQ(TraceError("client,start_s,end_s\na,0,1\nb,2,1\n"), "t.csv:3: " + rise + "2,1)");
  EXPECT_EQ(TraceError("client,start_s,end_s\nb,-1,1\n"), "t.csv:2: " + rise + "-1,1)");
  EXPECT_EQ(TraceError("client,start_s,end_s\nb,0,nan\n"), "t.csv:2: " + rise + "0,nan)");
  EXPECT_EQ(TraceError("client,start_s,end_s\nb,0,1e10\n"), "t.csv:2: " + rise + "0,1e10)");
  EXPECT_EQ(TraceError("client,start_s,end_s\nb,soon,1\n"), "t.csv:2: " + rise + "soon,1)");
}

TEST(AvailabilityTest, AlwaysNeverChanges) {
  const auto always = Availability::Make({}, {"a"}, 1);
  ASSERT_TRUE(always.ok());
  EXPECT_TRUE(always->OnlineAt(0, 0));
  EXPECT_TRUE(always->OnlineAt(0, 1'000 * kDayMs));
  EXPECT_EQ(always->NextChangeMs(0, 0), -1);
}

TEST(AvailabilityTest, ATraceIsFollowedToTheMillisecond) {
  TempDir directory;
  const std::string path = directory.File("t.csv");
  std::ofstream(path) << "client,start_s,end_s\na,1,2\na,4,5\n";
  const SimulationOptions options{.availability = AvailabilityKind::kTrace, .trace = path};
  const auto trace = Availability::Make(options, {"a", "b"}, 1);
  ASSERT_TRUE(trace.ok()) << trace.status().message();
  EXPECT_FALSE(trace->OnlineAt(0, 0));
  EXPECT_EQ(trace->NextChangeMs(0, 0), 1'000);
  EXPECT_TRUE(trace->OnlineAt(0, 1'000));
  EXPECT_EQ(trace->NextChangeMs(0, 1'000), 2'000);
  EXPECT_FALSE(trace->OnlineAt(0, 2'000));
  EXPECT_EQ(trace->NextChangeMs(0, 2'000), 4'000);
  EXPECT_EQ(trace->NextChangeMs(0, 4'500), 5'000);
  EXPECT_EQ(trace->NextChangeMs(0, 5'000), -1);
  EXPECT_FALSE(trace->OnlineAt(1, 1'500)) << "a client that the trace does not name never comes";
  EXPECT_EQ(trace->NextChangeMs(1, 0), -1);

  const auto other = Availability::Make(options, {"client-00", "client-01"}, 1);
  EXPECT_EQ(other.status().message(),
            path + ": no trainer of the fleet is named 'a' (they are client-00 to client-01)");
}

TEST(AvailabilityTest, EachDayHasOneStretchOfTheRightLengthAtEachClientsOwnTime) {
  std::vector<ClientId> clients;
  for (int i = 0; i < 200; ++i) clients.push_back("client-" + std::to_string(i));
  const SimulationOptions options{.availability = AvailabilityKind::kDaily, .online_share = 0.25};
  const auto daily = Availability::Make(options, clients, 7);
  ASSERT_TRUE(daily.ok());
  int online_at_start = 0;
  for (std::size_t client = 0; client < clients.size(); ++client) {
    online_at_start += daily->OnlineAt(client, 0) ? 1 : 0;
    Milliseconds online_ms = 0;
    int changes = 0;
    for (Milliseconds at = 0; at < kDayMs; ++changes) {
      const Milliseconds next = daily->NextChangeMs(client, at);
      ASSERT_GT(next, at);
      ASSERT_NE(daily->OnlineAt(client, at), daily->OnlineAt(client, next));
      ASSERT_EQ(daily->OnlineAt(client, at), daily->OnlineAt(client, next - 1));
      if (daily->OnlineAt(client, at)) online_ms += std::min(next, kDayMs) - at;
      at = next;
    }
    EXPECT_EQ(online_ms, kDayMs / 4);
    EXPECT_LE(changes, 3);
    EXPECT_EQ(daily->OnlineAt(client, 12'345), daily->OnlineAt(client, 12'345 + 3 * kDayMs));
  }
  EXPECT_GT(online_at_start, 25);
  EXPECT_LT(online_at_start, 75);
}

}  // namespace
}  // namespace fedmoe
