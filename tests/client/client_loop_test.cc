#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/client/client_fakes.h"

namespace fedmoe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

class ClientLoopTest : public ClientHarness {};

TEST_F(ClientLoopTest, TrainsATaskHandsItInAndEndsWithTheRun) {
  transport_.polls = {[] { return TaskReply(TrainTask(5)); }};
  const ClientOutcome outcome = Run();
  EXPECT_EQ(outcome.end, ClientEnd::kRunOver);
  EXPECT_EQ(outcome.detail, "completed");
  EXPECT_THAT(transport_.calls(), ElementsAre("register alice", "poll 1", "fetch 0 2", "submit 1 5",
                                              "poll 1", "leave 1"));
  ASSERT_EQ(transport_.headers.size(), 1U);
  EXPECT_EQ(transport_.headers[0].client, "alice");
  EXPECT_EQ(transport_.headers[0].round, 1);
  EXPECT_EQ(log(),
            "registered with host:7070 for run test: up to 1 expert (memory)\n"
            "round 1: training 1 expert (1) on 512 examples\n"
            "round 1: sent 0.0 MB, accepted\n");
}

TEST_F(ClientLoopTest, FetchesOnlyWhatTheCacheLacks) {
  transport_.polls = {[] { return TaskReply(TrainTask(5)); },
                      [] {
                        TaskAssignment task = TrainTask(6, 2);
                        task.experts = {0, 1};
                        task.shards = {ReferenceTo(0), ReferenceTo(1), ReferenceTo(2)};
                        return TaskReply(task);
                      }};
  Run();
  EXPECT_THAT(transport_.calls(),
              ElementsAre("register alice", "poll 1", "fetch 0 2", "submit 1 5", "poll 1",
                          "fetch 1", "submit 1 6", "poll 1", "leave 1"));
}

std::string BytesOfShard(int shard) {
  const std::vector<float> values = ShardOf(shard);
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

TEST_F(ClientLoopTest, ShardsThatComeWithATaskAreNotFetched) {
  const auto second = [](std::string bytes) {
    TaskAssignment task = TrainTask(6, 2);
    task.experts = {0, 1};
    task.shards = {ReferenceTo(0), ReferenceTo(1), ReferenceTo(2)};
    NextTaskReply reply = TaskReply(task);
    reply.carried = {{.index = 1, .bytes = std::move(bytes)}};
    return reply;
  };
  transport_.polls = {[] { return TaskReply(TrainTask(5)); },
                      [&] { return second(BytesOfShard(1)); }};
  Run();
  EXPECT_THAT(transport_.calls(), ElementsAre("register alice", "poll 1", "fetch 0 2", "submit 1 5",
                                              "poll 1", "submit 1 6", "poll 1", "leave 1"));
  // They may come once the session has a fetch that says how fast the link is.
  ASSERT_EQ(transport_.requests.size(), 3U);
  EXPECT_EQ(transport_.requests[0].carry_bytes, 0U);
  EXPECT_GT(transport_.requests[1].carry_bytes, 0U);
  EXPECT_LE(transport_.requests[1].carry_bytes, kMaxCarryBytes);
  EXPECT_THAT(transport_.requests[1].held, ElementsAre(DigestPrefix(ReferenceTo(0).digest),
                                                       DigestPrefix(ReferenceTo(2).digest)));
  EXPECT_EQ(transport_.requests[2].held.size(), 3U);
}

TEST_F(ClientLoopTest, AShardThatCameDamagedWithATaskIsFetched) {
  transport_.polls = {[] {
    NextTaskReply reply = TaskReply(TrainTask(5));
    reply.carried = {{.index = 0, .bytes = BytesOfShard(0)},
                     {.index = 1, .bytes = BytesOfShard(1)}};
    return reply;
  }};
  Run();
  EXPECT_THAT(transport_.calls(), ElementsAre("register alice", "poll 1", "fetch 2", "submit 1 5",
                                              "poll 1", "leave 1"));
}

TEST_F(ClientLoopTest, OnASlowLinkShardsComeByACallOfTheirOwn) {
  transport_.fetches = {[] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    return Status::Ok();
  }};
  transport_.polls = {[] { return TaskReply(TrainTask(5)); }};
  Run();
  // 24 bytes within 50 ms are at most 960 in two seconds.
  EXPECT_LE(transport_.requests[1].carry_bytes, 960U);
}

TEST_F(ClientLoopTest, HandsInAnEvaluation) {
  transport_.polls = {[] {
    TaskAssignment task = TrainTask(9);
    task.kind = TaskKind::kEvaluate;
    task.version = 3;
    return TaskReply(task);
  }};
  Run();
  ASSERT_EQ(transport_.evaluations.size(), 1U);
  EXPECT_EQ(transport_.evaluations[0].task, 9U);
  EXPECT_EQ(transport_.evaluations[0].correct, 3.0);
  EXPECT_THAT(log(), HasSubstr("version 3: 3 of 4 examples correct\n"));
}

TEST_F(ClientLoopTest, WaitsForACoordinatorThatIsNotThereAndSaysSo) {
  for (int i = 0; i < 5; ++i) {
    transport_.registrations.push_back([] { return Unavailable("Connection refused"); });
  }
  EXPECT_EQ(Run().end, ClientEnd::kRunOver);
  EXPECT_EQ(transport_.calls().size(), 8U);
  EXPECT_THAT(log(), MatchesRegex("coordinator host:7070 cannot be reached \\(Connection "
                                  "refused\\); trying again in 0\\.00[12] s\n(.|\n)*"));
}

// Killed once the coordinator knew that the client knew: nobody may be there to say it again.
TEST_F(ClientLoopTest, KnowsWhenStartedAgainThatItsRunIsOver) {
  EXPECT_EQ(Run().end, ClientEnd::kRunOver);
  OpenState();
  options_.end_patience_ms = 5;
  for (int i = 0; i < 1'000; ++i) {
    transport_.registrations.push_back([] { return Unavailable("Connection refused"); });
  }
  const ClientOutcome outcome = Run();
  EXPECT_EQ(outcome.end, ClientEnd::kRunOver);
  EXPECT_EQ(outcome.detail, "completed");
  EXPECT_GT(transport_.calls().size(), 5U);
  EXPECT_EQ(transport_.calls().back(), "register alice");
}

// The coordinator was about to go when it came back.
TEST_F(ClientLoopTest, KnowsTheEndThoughItCouldRegisterAgain) {
  EXPECT_EQ(Run().end, ClientEnd::kRunOver);
  OpenState();
  options_.end_patience_ms = 5;
  transport_.polls = {[this] {
    EXPECT_TRUE(state_->end().has_value());
    return Unavailable("Socket closed");
  }};
  transport_.registrations = {[this] { return transport_.Welcome(); }};
  for (int i = 0; i < 1'000; ++i) {
    transport_.registrations.push_back([] { return Unavailable("Connection refused"); });
  }
  EXPECT_EQ(Run().detail, "completed");
}

TEST_F(ClientLoopTest, GoesOnWithItsRunThoughThatHadBeenOver) {
  EXPECT_EQ(Run().end, ClientEnd::kRunOver);
  OpenState();
  transport_.polls = {[] { return TaskReply(TrainTask(5)); },
                      [this] {
                        EXPECT_FALSE(state_->end().has_value());
                        return RunOver();
                      }};
  EXPECT_EQ(Run().end, ClientEnd::kRunOver);
  EXPECT_THAT(transport_.calls(), ::testing::Contains("submit 2 5"));
}

TEST_F(ClientLoopTest, TakesPartInANewRunThoughItsLastOneIsOver) {
  EXPECT_EQ(Run().end, ClientEnd::kRunOver);
  OpenState();
  transport_.run_id = "run-2";
  transport_.registrations = {[] { return ResourceExhausted("too many clients"); }};
  transport_.polls = {[this] {
    EXPECT_FALSE(state_->end().has_value());
    return TaskReply(TrainTask(5));
  }};
  EXPECT_EQ(Run().end, ClientEnd::kRunOver);
  EXPECT_THAT(transport_.calls(), ::testing::Contains("submit 2 5"));
}

TEST_F(ClientLoopTest, GivesUpAtTheLimit) {
  options_.retry_limit_ms = 5;
  options_.retry_max_ms = 1;
  for (int i = 0; i < 1000; ++i) {
    transport_.registrations.push_back([] { return Unavailable("Connection refused"); });
  }
  const ClientOutcome outcome = Run();
  EXPECT_EQ(outcome.end, ClientEnd::kGaveUp);
  EXPECT_THAT(outcome.detail, MatchesRegex("gave up after 0\\.[0-9]+ s without coordinator "
                                           "host:7070 \\(Connection refused\\)"));
}

TEST_F(ClientLoopTest, TriesAgainWhenTheCoordinatorIsBusy) {
  transport_.polls = {[] { return ResourceExhausted("the queue is full"); }};
  EXPECT_EQ(Run().end, ClientEnd::kRunOver);
  EXPECT_THAT(transport_.calls(), ElementsAre("register alice", "poll 1", "poll 1", "leave 1"));
  EXPECT_THAT(log(), HasSubstr("coordinator host:7070 is too busy (the queue is full); trying"));
}

TEST_F(ClientLoopTest, RegistersAgainWhenItsSessionHasEnded) {
  transport_.polls = {[] { return NextTaskReply{}; }, [] { return Aborted("unknown session"); }};
  EXPECT_EQ(Run().end, ClientEnd::kRunOver);
  EXPECT_THAT(transport_.calls(), ElementsAre("register alice", "poll 1", "poll 1",
                                              "register alice", "poll 2", "leave 2"));
  EXPECT_THAT(log(), HasSubstr("the session has ended (unknown session); registering again\n"
                               "registered again with host:7070\n"));
}

TEST_F(ClientLoopTest, SendsAnUpdateAgainThatCouldNotBeSent) {
  transport_.polls = {[] { return TaskReply(TrainTask(5)); },
                      [] { return TaskReply(TrainTask(5)); }};
  transport_.submissions = {[] { return Unavailable("Connection reset"); }};
  EXPECT_EQ(Run().end, ClientEnd::kRunOver);
  EXPECT_THAT(transport_.calls(),
              ElementsAre("register alice", "poll 1", "fetch 0 2", "submit 1 5", "register alice",
                          "poll 2", "submit again 2 5", "poll 2", "leave 2"));
  EXPECT_EQ(trainer_.trained, 1);
  EXPECT_THAT(log(), HasSubstr("round 1: sending the finished update again\n"));
}

TEST_F(ClientLoopTest, TrainsAgainForAnotherAttempt) {
  transport_.polls = {[] { return TaskReply(TrainTask(5)); },
                      [] {
                        TaskAssignment task = TrainTask(5);
                        task.attempt = 2;
                        return TaskReply(task);
                      }};
  transport_.submissions = {[] { return Unavailable("Connection reset"); }};
  Run();
  EXPECT_EQ(trainer_.trained, 2);
}

TEST_F(ClientLoopTest, ARejectionIsToldAndNotFatal) {
  transport_.polls = {[] { return TaskReply(TrainTask(5)); }};
  transport_.submissions = {[] { return Verdict{RejectReason::kStaleRound, "round 1 is over"}; }};
  EXPECT_EQ(Run().end, ClientEnd::kRunOver);
  EXPECT_THAT(log(), HasSubstr("round 1: sent 0.0 MB, rejected: stale_round (round 1 is over)\n"));
}

TEST_F(ClientLoopTest, AHeartbeatCancelsTheTask) {
  transport_.heartbeat_interval_ms = 1;
  transport_.polls = {[] { return TaskReply(TrainTask(5)); }};
  transport_.beats = {[] { return HeartbeatReply{}; },
                      [] {
                        return HeartbeatReply{true, CancelReason::kRoundAborted};
                      }};
  trainer_.script = {UntilCancelled};
  EXPECT_EQ(Run().end, ClientEnd::kRunOver);
  EXPECT_THAT(transport_.calls(), ElementsAre("register alice", "poll 1", "fetch 0 2", "beat 1 5",
                                              "beat 1 5", "poll 1", "leave 1"));
  EXPECT_THAT(log(), HasSubstr("round 1: task cancelled: the round was aborted\n"));
}

TEST_F(ClientLoopTest, ALostSessionWhileTrainingIsReplacedAndTheWorkGoesOn) {
  transport_.heartbeat_interval_ms = 1;
  transport_.polls = {[] { return TaskReply(TrainTask(5)); }};
  std::atomic<bool> beaten{false};
  transport_.beats = {[] { return Unavailable("away"); }, [] { return Aborted("unknown session"); },
                      [&] {
                        beaten = true;
                        return HeartbeatReply{};
                      }};
  trainer_.script = {[&](const TrainContext& context) {
    while (!beaten && !context.cancelled()) std::this_thread::yield();
    return Status::Ok();
  }};
  EXPECT_EQ(Run().end, ClientEnd::kRunOver);
  EXPECT_EQ(trainer_.trained, 1);
  ASSERT_EQ(transport_.headers.size(), 1U);
  EXPECT_THAT(transport_.calls(), ::testing::Contains("submit 2 5"));
}

TEST_F(ClientLoopTest, ALostSessionThatLeadsToAnotherRunDropsTheWork) {
  transport_.heartbeat_interval_ms = 1;
  transport_.polls = {[] { return TaskReply(TrainTask(5)); }};
  transport_.beats = {[&] {
    transport_.run_id = "run-2";
    return Aborted("unknown session");
  }};
  trainer_.script = {UntilCancelled};
  EXPECT_EQ(Run().end, ClientEnd::kRunOver);
  EXPECT_TRUE(transport_.headers.empty());
}

// The worker reads what Prepare and BeginRun replace: a sanitizer sees it if they do not wait.
TEST_F(ClientLoopTest, AnotherRunBeginsOnlyWhenTheWorkOfTheLastHasEnded) {
  transport_.heartbeat_interval_ms = 1;
  trainer_.with_state = true;
  std::atomic<bool> training{false};
  transport_.polls = {[] { return TaskReply(TrainTask(5, 1, 0)); },
                      [] { return TaskReply(TrainTask(6, 2, 5)); }};
  // The first task may be under way when a beat is due, too.
  transport_.on_beat = [&](TaskId task) -> Result<HeartbeatReply> {
    if (task != 6) return HeartbeatReply{};
    transport_.run_id = "run-2";
    return Aborted("unknown session");
  };
  int prepared = 0;
  trainer_.on_prepare = [&] {
    EXPECT_FALSE(training) << "prepared while a task was being trained";
    ++prepared;
  };
  trainer_.script = {[](const TrainContext&) { return Status::Ok(); },
                     [&](const TrainContext& context) {
                       training = true;
                       while (!context.cancelled()) trainer_.TouchAll();
                       // A batch that had begun still ends.
                       for (int i = 0; i < 1000; ++i) trainer_.TouchAll();
                       training = false;
                       return Cancelled("cancelled");
                     }};
  EXPECT_EQ(Run().end, ClientEnd::kRunOver);
  EXPECT_EQ(prepared, 2);
  EXPECT_THAT(trainer_.states, ElementsAre("", "state of 5"));
  EXPECT_THAT(transport_.calls(), ::testing::Not(::testing::Contains("submit 2 6")));
}

TEST_F(ClientLoopTest, EveryReasonToCancelIsToldInWords) {
  const std::map<CancelReason, std::string> words = {
      {CancelReason::kRoundOver, "the round is over without it"},
      {CancelReason::kRoundAborted, "the round was aborted"},
      {CancelReason::kSuperseded, "another session of this client took over"},
      {CancelReason::kRunOver, "the run is over"},
      {CancelReason::kTimedOut, "the coordinator heard nothing from this client for too long"}};
  transport_.heartbeat_interval_ms = 1;
  for (const auto& [reason, text] : words) {
    transport_.polls = {[] { return TaskReply(TrainTask(5, 3)); }};
    transport_.beats = {[reason = reason] { return HeartbeatReply{true, reason}; }};
    trainer_.script = {UntilCancelled};
    Run();
    EXPECT_THAT(log(), HasSubstr("round 3: task cancelled: " + text + "\n"));
  }
}

TEST_F(ClientLoopTest, WaitsForACoordinatorThatIsStoppingAndSaysSoOnce) {
  const auto stopping = [] {
    return Unavailable("the coordinator is stopping: stopped by a user");
  };
  transport_.polls = {stopping, stopping, stopping, [] { return Unavailable("gone"); }};
  EXPECT_EQ(Run().end, ClientEnd::kRunOver);
  EXPECT_THAT(transport_.calls(), ElementsAre("register alice", "poll 1", "poll 1", "poll 1",
                                              "poll 1", "register alice", "poll 2", "leave 2"));
  const std::string line =
      "coordinator host:7070 is stopping: stopped by a user; waiting for it to come back\n";
  EXPECT_THAT(log(), HasSubstr(line));
  EXPECT_EQ(log().find("stopping"), log().rfind("stopping"));
}

TEST_F(ClientLoopTest, AnEndWithoutADetailIsStillTold) {
  transport_.polls = {[] {
    return NextTaskReply{.kind = NextTaskReply::Kind::kRunOver, .task = {}, .detail = ""};
  }};
  EXPECT_EQ(Run().detail, "the run is completed");
  transport_.registrations = {[] { return FailedPrecondition(""); }};
  EXPECT_EQ(Run().detail, "the coordinator gave no reason");
}

// Each try takes `step_ms`; the coordinator never has room. Returns the number of tries.
int TriesOfSubmission(FakeTransport& transport, FakeTrainer& trainer, ClientState& state,
                      const ClientLoopOptions& options, Milliseconds timeout_ms,
                      Milliseconds step_ms) {
  ManualClock clock;
  int tries = 0;
  transport.polls = {[timeout_ms] {
    TaskAssignment task = TrainTask(5);
    task.timeout_ms = timeout_ms;
    return TaskReply(task);
  }};
  for (int i = 0; i < 50; ++i) {
    transport.submissions.push_back([&] {
      ++tries;
      clock.Advance(step_ms);
      return ResourceExhausted("no space left on device");
    });
  }
  ClientLoop loop(transport, trainer, state, clock, options);
  EXPECT_EQ(loop.Run().end, ClientEnd::kRunOver);
  return tries;
}

TEST_F(ClientLoopTest, OffersAnUpdateUntilTheTasksTimeoutThenGivesItBack) {
  EXPECT_EQ(TriesOfSubmission(transport_, trainer_, *state_, options_, 90'000, 30'000), 3);
  EXPECT_THAT(transport_.calls(), ::testing::Contains("return 5: the update could not be sent: no "
                                                      "space left on device"));
}

TEST_F(ClientLoopTest, OffersAnUpdateWithoutATimeoutForTenMinutes) {
  EXPECT_EQ(TriesOfSubmission(transport_, trainer_, *state_, options_, 0, 120'000), 5);
  EXPECT_THAT(transport_.calls(), ::testing::Contains("return 5: the update could not be sent: no "
                                                      "space left on device"));
}

TEST_F(ClientLoopTest, GivesATaskBackThatTakesTooLong) {
  transport_.polls = {[] {
    TaskAssignment task = TrainTask(5);
    task.timeout_ms = 2;
    return TaskReply(task);
  }};
  trainer_.script = {UntilCancelled};
  EXPECT_EQ(Run().end, ClientEnd::kRunOver);
  EXPECT_THAT(transport_.calls(), ::testing::Contains("return 5: not done within the task's 2 ms"));
}

// Such as the name of a file. A string that is no UTF-8 would not get through.
TEST_F(ClientLoopTest, AReasonIsUtf8) {
  transport_.polls = {[] { return TaskReply(TrainTask(5)); }};
  trainer_.script = {[](const TrainContext&) { return DataLoss("caf\xE9.png: not an image"); }};
  EXPECT_EQ(Run().end, ClientEnd::kRunOver);
  EXPECT_THAT(transport_.calls(),
              ::testing::Contains("return 5: DATA_LOSS: caf\xEF\xBF\xBD.png: not an image"));
}

TEST_F(ClientLoopTest, GivesATaskBackThatItsTrainerCannotDo) {
  transport_.polls = {[] { return TaskReply(TrainTask(5)); }};
  trainer_.script = {[](const TrainContext&) { return Internal("the loss is not finite"); }};
  EXPECT_EQ(Run().end, ClientEnd::kRunOver);
  EXPECT_THAT(transport_.calls(),
              ::testing::Contains("return 5: INTERNAL: the loss is not finite"));
}

TEST_F(ClientLoopTest, GivesATaskBackThatDoesNotFitTheModel) {
  transport_.polls = {[] {
                        TaskAssignment task = TrainTask(5);
                        task.shards[1].bytes = 1 << 30;
                        return TaskReply(task);
                      },
                      [] {
                        TaskAssignment task = TrainTask(6);
                        task.experts = {2};
                        return TaskReply(task);
                      }};
  EXPECT_EQ(Run().end, ClientEnd::kRunOver);
  EXPECT_THAT(
      transport_.calls(),
      ElementsAre("register alice", "poll 1",
                  "return 5: the task's shard 1 is shard 2 of 1073741824 bytes, the model has "
                  "shard 2 of 8 bytes there",
                  "poll 1", "return 6: the task's experts (2) must rise and be below 2", "poll 1",
                  "leave 1"));
}

TEST_F(ClientLoopTest, FetchesADamagedShardOnceMore) {
  int sent = 0;
  transport_.damage = [&sent](std::vector<std::byte>& bytes) {
    if (++sent == 2) bytes[0] ^= std::byte{1};
  };
  transport_.polls = {[] { return TaskReply(TrainTask(5)); }};
  EXPECT_EQ(Run().end, ClientEnd::kRunOver);
  EXPECT_THAT(transport_.calls(), ElementsAre("register alice", "poll 1", "fetch 0 2", "fetch 2",
                                              "submit 1 5", "poll 1", "leave 1"));
  EXPECT_THAT(log(), MatchesRegex("(.|\n)*the shard of expert 1 is damaged: its SHA-256 is "
                                  "[0-9a-f]+, not [0-9a-f]+; fetching it again\n(.|\n)*"));
}

TEST_F(ClientLoopTest, GivesTheTaskBackWhenAShardStaysDamaged) {
  transport_.damage = [](std::vector<std::byte>& bytes) { bytes[0] ^= std::byte{1}; };
  transport_.polls = {[] { return TaskReply(TrainTask(5)); }};
  EXPECT_EQ(Run().end, ClientEnd::kRunOver);
  EXPECT_EQ(trainer_.trained, 0);
  EXPECT_THAT(transport_.calls()[4],
              ::testing::StartsWith("return 5: shards could not be fetched: the trunk's shard is "
                                    "damaged: its SHA-256 is "));
}

TEST_F(ClientLoopTest, ALostFetchIsTakenUpAfterRegisteringAgain) {
  transport_.polls = {[] { return TaskReply(TrainTask(5)); },
                      [] { return TaskReply(TrainTask(5)); }};
  transport_.fetches = {[] { return Unavailable("Connection reset"); }};
  EXPECT_EQ(Run().end, ClientEnd::kRunOver);
  EXPECT_THAT(transport_.calls(),
              ElementsAre("register alice", "poll 1", "fetch 0 2", "register alice", "poll 2",
                          "fetch 0 2", "submit 2 5", "poll 2", "leave 2"));
}

TEST_F(ClientLoopTest, StateIsPromotedByACommittedRoundAndDiscardedByAnother) {
  trainer_.with_state = true;
  transport_.polls = {[] { return TaskReply(TrainTask(5, 1, 0)); },
                      [] { return TaskReply(TrainTask(6, 2, 5)); },   // round 1 committed
                      [] { return TaskReply(TrainTask(7, 2, 5)); }};  // round 2 did not
  Run();
  EXPECT_THAT(trainer_.states, ElementsAre("", "state of 5", "state of 5"));
}

// A second task in a round starts from the committed state, too, and leaves the first one's alone.
TEST_F(ClientLoopTest, StateOfTheFirstTaskSurvivesASecondOne) {
  trainer_.with_state = true;
  transport_.polls = {[] { return TaskReply(TrainTask(5, 1, 0)); },
                      [] {
                        TaskAssignment second = TrainTask(6, 1, 0);
                        second.follows = 5;
                        return TaskReply(second);
                      },
                      [] { return TaskReply(TrainTask(7, 2, 5)); }};  // round 1 committed
  Run();
  EXPECT_THAT(trainer_.states, ElementsAre("", "", "state of 5"));
}

TEST_F(ClientLoopTest, RefusesAModelThatItsBuildMakesDifferently) {
  options_.build_spec = [](const std::string&, const auto&) -> Result<ModelSpec> {
    ModelSpec other = TinySpec();
    other.top_k = 2;
    return other;
  };
  ModelSpec other = TinySpec();
  other.top_k = 2;
  const ClientOutcome outcome = Run();
  EXPECT_EQ(outcome.end, ClientEnd::kRefused);
  EXPECT_EQ(outcome.detail, "model spec differs: the coordinator's digest is " +
                                SpecDigest(TinySpec()) + ", this build makes " + SpecDigest(other) +
                                "; run the same version of fedmoe on both");
  EXPECT_THAT(transport_.calls(), ElementsAre("register alice", "leave 1"));
}

TEST_F(ClientLoopTest, RefusesAModelThatItsBuildDoesNotKnow) {
  options_.build_spec = [](const std::string&, const auto&) -> Result<ModelSpec> {
    return InvalidArgument("model.preset must be one of moe_mlp (got 'tiny')");
  };
  EXPECT_EQ(Run().detail,
            "this build cannot make the coordinator's model: model.preset must be one of moe_mlp "
            "(got 'tiny'); run the same version of fedmoe on both");
}

TEST_F(ClientLoopTest, EndsWhenItsDataDoNotFitTheModel) {
  trainer_.prepared = InvalidArgument("the data have 9 classes, the model 8");
  const ClientOutcome outcome = Run();
  EXPECT_EQ(outcome.end, ClientEnd::kRefused);
  EXPECT_EQ(outcome.detail, "the data have 9 classes, the model 8");
}

TEST_F(ClientLoopTest, EndsWithTheCoordinatorsWordWhenItIsTurnedAway) {
  for (const Status& refusal : {AlreadyExists("client 'alice' is taken by another instance"),
                                FailedPrecondition("no common protocol version")}) {
    transport_.registrations = {[&] { return refusal; }};
    const ClientOutcome outcome = Run();
    EXPECT_EQ(outcome.end, ClientEnd::kRefused);
    EXPECT_EQ(outcome.detail, refusal.message());
  }
  EXPECT_THAT(transport_.calls(), ElementsAre("register alice", "register alice"));
}

}  // namespace
}  // namespace fedmoe
