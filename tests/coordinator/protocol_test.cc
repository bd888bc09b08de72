// What the core answers to clients, honest and not, call by call.
#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/coordinator/raw_client.h"

namespace fedmoe {
namespace {

class ProtocolTest : public ::testing::Test {
 protected:
  ProtocolTest() : coordinator(Options(), directory.File("run")) {}
  static CoreOptions Options() {
    CoreOptions options = FleetOptions();
    options.run.deterministic = false;
    options.run.rounds = 1;
    options.run.participation.min_clients = 2;
    options.run.participation.quorum = 0.5;
    options.run.evaluation.mode = EvaluationMode::kNone;
    return options;
  }
  // Two clients with a task each.
  void StartRound() {
    ASSERT_OK(coordinator.Start());
    honest.Join();
    other.Join();
    honest.TakeTask();
    other.TakeTask();
  }
  // The other's verdict; and that the round completes at its quorum with the honest update.
  void ExpectRejected(const Result<Verdict>& verdict, RejectReason reason,
                      const std::string& detail) {
    ASSERT_OK(verdict.status());
    EXPECT_STREQ(RejectReasonName(verdict->reason), RejectReasonName(reason));
    EXPECT_EQ(verdict->detail, detail);
    const Result<Verdict> accepted = honest.Submit(honest.Answer());
    ASSERT_OK(accepted.status());
    EXPECT_TRUE(accepted->accepted()) << accepted->detail;
  }
  void ExpectCompleted() {
    // The run is over when both know.
    for (RawClient* client : {&honest, &other}) client->HearTheEnd(coordinator.options.run.rounds);
    EXPECT_EQ(coordinator.core().Wait().status, "completed");
  }

  TempDir directory;
  TestCoordinator coordinator;
  RawClient honest{coordinator.slot, "honest"};
  RawClient other{coordinator.slot, "other"};
};

TEST_F(ProtocolTest, NaNIsRejected) {
  StartRound();
  TrainResult result = other.Answer();
  result.blocks[0].delta[7] = std::numeric_limits<float>::quiet_NaN();
  ExpectRejected(other.Submit(result), RejectReason::kNotFinite, "trunk.weight: element 7 is NaN");
  ExpectCompleted();
}

TEST_F(ProtocolTest, InfinityIsRejected) {
  StartRound();
  TrainResult result = other.Answer();
  result.blocks[0].delta[3] = std::numeric_limits<float>::infinity();
  ExpectRejected(other.Submit(result), RejectReason::kNotFinite, "trunk.weight: element 3 is Inf");
  ExpectCompleted();
}

TEST_F(ProtocolTest, AWrongShapeIsRejected) {
  StartRound();
  TrainResult result = other.Answer();
  result.blocks[0].delta.resize(11);
  ExpectRejected(other.Submit(result), RejectReason::kWrongShape,
                 "block 'trunk.weight' has 11 elements, its shape [4, 3] has 12");
  ExpectCompleted();
}

TEST_F(ProtocolTest, AMissingTrunkBlockIsRejected) {
  StartRound();
  TrainResult result = other.Answer();
  result.blocks.erase(result.blocks.begin());
  ExpectRejected(other.Submit(result), RejectReason::kMissingBlock,
                 "block 'trunk.weight' of the trunk is missing");
  ExpectCompleted();
}

TEST_F(ProtocolTest, ABadChecksumIsRejected) {
  StartRound();
  ExpectRejected(other.Submit(other.Answer(),
                              [](UpdateHeader&, std::string& bytes) { bytes[64 + 64 + 5] ^= 1; }),
                 RejectReason::kBadChecksum, "trunk.weight: payload: wrong checksum");
  ExpectCompleted();
}

TEST_F(ProtocolTest, ATooLargeUpdateIsRejectedBeforeAByteIsRead) {
  StartRound();
  const std::uint64_t most = MaxUpdateBytes(other.spec, other.task);
  ExpectRejected(other.Submit(other.Answer(), [&](UpdateHeader& header,
                                                  std::string&) { header.total_bytes = most + 1; }),
                 RejectReason::kOverSize,
                 "the update has " + std::to_string(most + 1) + " bytes, at most " +
                     std::to_string(most) + " are due for this task");
  ExpectCompleted();
}

TEST_F(ProtocolTest, AnUnassignedExpertIsRejected) {
  StartRound();
  TrainResult result = other.Answer();
  int parameter = -1;
  for (int expert = 3; expert >= 0; --expert) {
    const bool held = std::count(other.task.experts.begin(), other.task.experts.end(), expert) > 0;
    if (!held) parameter = other.spec.Find("experts." + std::to_string(expert) + ".weight");
  }
  const ParameterBlock& block = other.spec.blocks[static_cast<std::size_t>(parameter)];
  result.blocks.push_back({.parameter = parameter, .delta = std::vector<float>(20)});
  std::sort(result.blocks.begin(), result.blocks.end(),
            [](const BlockDelta& a, const BlockDelta& b) { return a.parameter < b.parameter; });
  ExpectRejected(other.Submit(result), RejectReason::kUnassignedExpert,
                 "block '" + block.name + "' belongs to expert " + std::to_string(block.expert) +
                     ", the task holds " + std::to_string(other.task.experts[0]) + ", " +
                     std::to_string(other.task.experts[1]));
  ExpectCompleted();
}

TEST_F(ProtocolTest, AnUnknownTaskIsRejected) {
  StartRound();
  const Result<Verdict> verdict =
      other.Submit(other.Answer(), [](UpdateHeader& header, std::string&) { header.task = 99; });
  ASSERT_OK(verdict.status());
  EXPECT_EQ(verdict->reason, RejectReason::kUnknownTask);
  EXPECT_EQ(verdict->detail, "task 99 does not exist in this run");
}

// A header that claims another's name must not count as the other's update: no byte of it came.
TEST_F(ProtocolTest, AnUpdateUnderAnothersNameIsRejected) {
  StartRound();
  const Result<Verdict> verdict =
      other.Submit(other.Answer(), [&](UpdateHeader& header, std::string&) {
        header.task = honest.task.task;
        header.client = "honest";
      });
  ASSERT_OK(verdict.status());
  EXPECT_EQ(verdict->reason, RejectReason::kNotYourTask);
  EXPECT_EQ(verdict->detail, "task " + std::to_string(honest.task.task) + " is of client 'honest'");
}

TEST_F(ProtocolTest, Law3ADuplicateIsAcceptedAndChangesNothing) {
  coordinator.options.run.deterministic = true;
  StartRound();
  const TrainResult first = other.Answer();
  ASSERT_TRUE(other.Submit(first).value().accepted());
  TrainResult second = first;
  second.blocks[0].delta[0] += 1.0f;
  EXPECT_TRUE(other.Submit(second).value().accepted());
  ASSERT_TRUE(honest.Submit(honest.Answer()).value().accepted());
  EXPECT_TRUE(other.Submit(second).value().accepted()) << "also after the commit";
  ExpectCompleted();
}

TEST_F(ProtocolTest, MoreBytesThanAnnouncedAreMalformed) {
  StartRound();
  std::uint64_t due = 0;
  const Result<Verdict> verdict =
      other.Submit(other.Answer(), [&](UpdateHeader& header, std::string& bytes) {
        due = header.total_bytes;
        bytes.append(200, 'x');
      });
  ExpectRejected(verdict, RejectReason::kMalformed,
                 "the header announces " + std::to_string(due) + " bytes, " +
                     std::to_string(due + 200) + " came");
  ExpectCompleted();
}

TEST_F(ProtocolTest, Law3AStaleRoundIsRejectedAndChangesNothing) {
  coordinator.options.run.rounds = 2;
  coordinator.options.run.participation.reassign = false;  // the honest one goes on to round 2
  StartRound();
  ASSERT_OK(other.transport.ReturnTask(other.session, other.task.task, "no time"));
  ASSERT_TRUE(honest.Submit(honest.Answer()).value().accepted());
  honest.TakeTask();
  ASSERT_EQ(honest.task.round, 2);
  const Result<Verdict> verdict = other.Submit(other.Answer());
  ASSERT_OK(verdict.status());
  EXPECT_STREQ(RejectReasonName(verdict->reason), RejectReasonName(RejectReason::kStaleRound));
  other.TakeTask();
  for (RawClient* client : {&honest, &other})
    ASSERT_TRUE(client->Submit(client->Answer()).value().accepted());
  ExpectCompleted();
}

TEST_F(ProtocolTest, FeedbackThatIsNoNumberDoesNotReachTheJournal) {
  StartRound();
  TrainResult result = other.Answer();
  result.feedback.train_loss = std::nan("");
  const Result<Verdict> verdict = other.Submit(result);
  ASSERT_OK(verdict.status());
  EXPECT_EQ(verdict->reason, RejectReason::kBadFeedback);
  coordinator.Kill();
  EXPECT_OK(coordinator.Start());
}

TEST_F(ProtocolTest, RegistrationNamesWhatIsWrong) {
  coordinator.options.max_clients = 2;
  ASSERT_OK(coordinator.Start());
  honest.Join();

  RegisterRequest request = other.Request();
  request.protocol_min = request.protocol_max = 7;
  EXPECT_EQ(other.transport.Register(request).status().ToString(),
            "FAILED_PRECONDITION: no common protocol version: client 'other' speaks 7 to 7, this "
            "coordinator 1 to 1");
  request = other.Request();
  request.profile.up_bytes_per_s = std::nan("");
  EXPECT_EQ(other.transport.Register(request).status().code(), StatusCode::kInvalidArgument);
  request = other.Request();
  request.client = "a/b";
  EXPECT_EQ(other.transport.Register(request).status().ToString(),
            "INVALID_ARGUMENT: client name must be 1 to 64 characters of [A-Za-z0-9._-] (got "
            "'a/b')");
  request = other.Request();
  request.client = "honest";
  EXPECT_EQ(other.transport.Register(request).status().ToString(),
            "ALREADY_EXISTS: client name 'honest' is taken by another instance; choose another "
            "name or stop the other client");
  other.Join();
  request.client = "third";
  EXPECT_EQ(other.transport.Register(request).status().ToString(),
            "RESOURCE_EXHAUSTED: the coordinator has as many clients as it may (2, "
            "server.max_clients)");

  // One that has left makes room, and may not come back where there is none.
  ASSERT_OK(other.transport.Leave(other.session));
  EXPECT_OK(other.transport.Register(request).status());
  EXPECT_EQ(other.transport.Register(other.Request()).status().code(),
            StatusCode::kResourceExhausted);
}

TEST_F(ProtocolTest, TheReplyNamesTheProtocolAgreedOn) {
  ASSERT_OK(coordinator.Start());
  RegisterRequest request = honest.Request();
  request.protocol_max = kProtocolMax + 5;
  EXPECT_EQ(honest.transport.Register(request)->protocol, kProtocolMax);
}

TEST_F(ProtocolTest, TheSameInstanceSupersedesItsOldSession) {
  coordinator.options.poll_hold_ms = 600'000;
  ASSERT_OK(coordinator.Start());
  honest.Join();
  Result<NextTaskReply> old = NextTaskReply{};
  std::thread poll([&] { old = honest.transport.NextTask(honest.session); });
  RawClient again{coordinator.slot, "honest"};
  again.Join();
  poll.join();
  EXPECT_EQ(old.status().code(), StatusCode::kAborted);
}

TEST_F(ProtocolTest, AClientTooSmallIsTurnedAwayOrTrainsTheTrunk) {
  coordinator.options.run.participation.too_small = TooSmallPolicy::kReject;
  ASSERT_OK(coordinator.Start());
  RegisterRequest request = other.Request();
  request.profile.memory_bytes = static_cast<std::uint64_t>(
      PredictMemoryBytes(other.spec, coordinator.options.run.training, 0));
  const Status status = other.transport.Register(request).status();
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(),
              ::testing::MatchesRegex("client 'other' is too small for this model: one expert "
                                      "needs .* MB of memory, its budget is .* MB"));
  coordinator.Kill();
  coordinator.options.run.participation.too_small = TooSmallPolicy::kTrunkOnly;
  ASSERT_OK(coordinator.Start());
  const Result<RegisterReply> reply = other.transport.Register(request);
  ASSERT_OK(reply.status());
  EXPECT_EQ(reply->capacity.experts, 0);
}

TEST_F(ProtocolTest, AHeldPollEnds) {
  coordinator.options.poll_hold_ms = 1;
  ASSERT_OK(coordinator.Start());
  honest.Join();
  const Result<NextTaskReply> reply = honest.transport.NextTask(honest.session);
  ASSERT_OK(reply.status());
  EXPECT_EQ(reply->kind, NextTaskReply::Kind::kNothingYet);
}

TEST_F(ProtocolTest, AFullQueueSaysSo) {
  coordinator.options.queue_limit = 0;
  ASSERT_OK(coordinator.Start());
  EXPECT_EQ(honest.transport.Register(honest.Request()).status().ToString(),
            "RESOURCE_EXHAUSTED: the coordinator's queue is full (0 waiting)");
}

}  // namespace
}  // namespace fedmoe
