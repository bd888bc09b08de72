// Stop() in every phase of a client's life.
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/client/client_fakes.h"

namespace fedmoe {
namespace {

using ::testing::ElementsAre;

class ClientStopTest : public ClientHarness {};

TEST_F(ClientStopTest, BeforeItRuns) {
  ClientLoop& loop = Make();
  loop.Stop();
  EXPECT_EQ(loop.Run().end, ClientEnd::kStopped);
  EXPECT_TRUE(transport_.calls().empty());
}

TEST_F(ClientStopTest, WhileItWaitsForTheCoordinator) {
  options_.retry_initial_ms = 1'000'000'000;
  options_.retry_max_ms = 1'000'000'000;
  ClientLoop& loop = Make();
  std::thread stopper;
  transport_.registrations = {[&] {
    stopper = std::thread([&loop] { loop.Stop(); });
    return Unavailable("Connection refused");
  }};
  EXPECT_EQ(loop.Run().end, ClientEnd::kStopped);
  stopper.join();
  EXPECT_THAT(transport_.calls(), ElementsAre("register alice"));
}

TEST_F(ClientStopTest, WhileItWaitsForWork) {
  ClientLoop& loop = Make();
  transport_.polls = {[&]() -> Result<NextTaskReply> {
    transport_.Park();
    return Cancelled("cancelled");
  }};
  std::thread stopper([&] {
    transport_.WaitForParked();
    loop.Stop();
  });
  EXPECT_EQ(loop.Run().end, ClientEnd::kStopped);
  stopper.join();
  EXPECT_THAT(transport_.calls(), ElementsAre("register alice", "poll 1", "leave 1"));
}

TEST_F(ClientStopTest, WhileItFetches) {
  ClientLoop& loop = Make();
  transport_.polls = {[] { return TaskReply(TrainTask(5)); }};
  transport_.fetches = {[&] {
    loop.Stop();
    return Status::Ok();
  }};
  EXPECT_EQ(loop.Run().end, ClientEnd::kStopped);
  EXPECT_THAT(transport_.calls(), ElementsAre("register alice", "poll 1", "fetch 0 2", "leave 1"));
}

TEST_F(ClientStopTest, WhileItTrains) {
  ClientLoop& loop = Make();
  transport_.polls = {[] { return TaskReply(TrainTask(5)); }};
  trainer_.script = {[&](const TrainContext& context) {
    loop.Stop();
    return UntilCancelled(context);
  }};
  EXPECT_EQ(loop.Run().end, ClientEnd::kStopped);
  EXPECT_THAT(transport_.calls(), ElementsAre("register alice", "poll 1", "fetch 0 2", "leave 1"));
}

TEST_F(ClientStopTest, WhileItSubmitsTheUpdateStillArrives) {
  ClientLoop& loop = Make();
  transport_.polls = {[] { return TaskReply(TrainTask(5)); }};
  transport_.submissions = {[&] {
    loop.Stop();
    return Verdict{};
  }};
  EXPECT_EQ(loop.Run().end, ClientEnd::kStopped);
  EXPECT_THAT(transport_.calls(),
              ElementsAre("register alice", "poll 1", "fetch 0 2", "submit 1 5", "leave 1"));
}

TEST_F(ClientStopTest, ASecondStopEndsEvenWhatIsGivenBack) {
  ClientLoop& loop = Make();
  transport_.polls = {[] { return TaskReply(TrainTask(5)); }};
  trainer_.script = {[&](const TrainContext& context) {
    loop.Stop();
    EXPECT_FALSE(transport_.cancelled(true));
    loop.Stop();
    return UntilCancelled(context);
  }};
  EXPECT_EQ(loop.Run().end, ClientEnd::kStopped);
  EXPECT_TRUE(transport_.cancelled(true));
}

}  // namespace
}  // namespace fedmoe
