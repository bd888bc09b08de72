// Sessions and their polls: signs of life, whom a task goes to, how a run's end is told.
#include <future>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/coordinator/raw_client.h"

namespace fedmoe {
namespace {

class SessionTest : public ::testing::Test {
 protected:
  SessionTest() : coordinator(Options(), directory.File("run")) {}
  static CoreOptions Options() {
    CoreOptions options = FleetOptions();
    options.run.rounds = 2;
    options.run.participation.min_clients = 2;
    options.run.evaluation.mode = EvaluationMode::kNone;
    options.poll_hold_ms = 600'000;
    return options;
  }
  nlohmann::json Status() {
    Pending<std::string> status;
    coordinator.core().Status(status.Callback());
    return nlohmann::json::parse(status.Get().value());
  }
  // All that was asked of the core before has been dealt with.
  void Settle() {
    Status();
    Status();
  }
  void Park(const RawClient& client, const std::shared_ptr<Poll>& poll,
            Pending<NextTaskReply>& pending) {
    coordinator.core().NextTask(client.session, poll, pending.Callback());
    Settle();
  }
  void StartRound() {
    ASSERT_OK(coordinator.Start());
    honest.Join();
    other.Join();
    honest.TakeTask();
    other.TakeTask();
  }
  void FinishRound() {
    for (RawClient* client : {&honest, &other}) {
      ASSERT_TRUE(client->Submit(client->Answer()).value().accepted());
    }
  }

  TempDir directory;
  ManualClock clock;
  TestCoordinator coordinator;
  RawClient honest{coordinator.slot, "honest"};
  RawClient other{coordinator.slot, "other"};
};

TEST_F(SessionTest, AParkedPollIsASignOfLife) {
  coordinator.clock = &clock;
  coordinator.options.run.participation.heartbeat_timeout_ms = 30'000;
  coordinator.options.poll_hold_ms = 30'000;
  ASSERT_OK(coordinator.Start());
  honest.Join();
  Pending<NextTaskReply> parked;
  Park(honest, std::make_shared<Poll>(), parked);
  clock.Advance(30'000);
  Settle();
  EXPECT_EQ(Status()["clients"][0]["connected"], true);
}

TEST_F(SessionTest, WithoutAPollItsClientIsLost) {
  coordinator.clock = &clock;
  coordinator.options.run.participation.heartbeat_timeout_ms = 30'000;
  ASSERT_OK(coordinator.Start());
  honest.Join();
  clock.Advance(30'000);
  Settle();
  EXPECT_EQ(Status()["clients"][0]["connected"], false);
}

TEST_F(SessionTest, ANewSessionEndsThePollOfOneThatHasLeft) {
  ASSERT_OK(coordinator.Start());
  honest.Join();
  Pending<NextTaskReply> old;
  Park(honest, std::make_shared<Poll>(), old);
  ASSERT_OK(honest.transport.Leave(honest.session));
  honest.Join();
  Settle();
  ASSERT_TRUE(old.answered());
  EXPECT_EQ(old.Get().status().ToString(),
            "ABORTED: the session was superseded by a newer one of the same client");
  other.Join();
  honest.TakeTask();
}

TEST_F(SessionTest, AnAbandonedPollEndsAndNoOther) {
  ASSERT_OK(coordinator.Start());
  honest.Join();
  Pending<NextTaskReply> first, second;
  const auto first_poll = std::make_shared<Poll>();
  Park(honest, first_poll, first);
  Park(honest, std::make_shared<Poll>(), second);
  ASSERT_TRUE(first.answered()) << "one poll a session";
  coordinator.core().AbandonPoll(first_poll);
  Settle();
  EXPECT_FALSE(second.answered());
  other.Join();
  EXPECT_EQ(second.Get()->kind, NextTaskReply::Kind::kTask);
}

TEST_F(SessionTest, AnAbandonedPollTakesNoTask) {
  ASSERT_OK(coordinator.Start());
  honest.Join();
  Pending<NextTaskReply> gone;
  const auto poll = std::make_shared<Poll>();
  Park(honest, poll, gone);
  coordinator.core().AbandonPoll(poll);
  EXPECT_EQ(gone.Get().status().code(), StatusCode::kCancelled);
  other.Join();
  honest.TakeTask();
}

TEST_F(SessionTest, ASettledTaskIsNotGivenOutAgain) {
  StartRound();
  honest.Join();  // its task is due to the new session
  ASSERT_TRUE(honest.Submit(honest.Answer()).value().accepted());
  Pending<NextTaskReply> next;
  Park(honest, std::make_shared<Poll>(), next);
  EXPECT_FALSE(next.answered());
}

TEST_F(SessionTest, AStoppedRunAsksItsClientsToWait) {
  StartRound();
  Pending<NextTaskReply> parked;
  Park(honest, std::make_shared<Poll>(), parked);
  coordinator.core().RequestStop(false);
  const std::string text =
      "UNAVAILABLE: the coordinator is stopping: stopped after round 0 as requested";
  EXPECT_EQ(parked.Get().status().ToString(), text);
  EXPECT_EQ(other.transport.NextTask(other.session).status().ToString(), text);
  EXPECT_EQ(coordinator.core().Wait().status, "stopped");
}

TEST_F(SessionTest, ADrainFinishesTheRoundInHand) {
  StartRound();
  coordinator.core().RequestStop(true);
  FinishRound();
  for (RawClient* client : {&honest, &other}) {
    EXPECT_EQ(client->transport.NextTask(client->session).status().ToString(),
              "UNAVAILABLE: the coordinator is stopping: stopped after round 1 as requested");
  }
  const RunSummary summary = coordinator.core().Wait();
  EXPECT_EQ(summary.status, "stopped");
  EXPECT_EQ(summary.rounds, 1);
}

TEST_F(SessionTest, ACompletedRunSaysSo) {
  coordinator.options.run.rounds = 1;
  StartRound();
  FinishRound();
  for (RawClient* client : {&honest, &other}) client->HearTheEnd();
  EXPECT_EQ(coordinator.core().Wait().status, "completed");
}

TEST_F(SessionTest, AClientHasTwoUploadsUnderWayAtMost) {
  StartRound();
  const UpdateHeader header{
      .task = honest.task.task, .client = "honest", .round = 1, .total_bytes = 128};
  const auto begin = [&] {
    Pending<UploadStart> start;
    coordinator.core().BeginUpdate(honest.session, header, start.Callback());
    return start.Get();
  };
  const Result<UploadStart> first = begin();
  ASSERT_OK(first.status());
  {
    const Result<UploadStart> second = begin();
    ASSERT_OK(second.status());
    EXPECT_EQ(
        begin().status().ToString(),
        "RESOURCE_EXHAUSTED: client 'honest' has 2 uploads under way already; ask again when one "
        "has ended");
  }
  // The place is free once the second has wholly ended, a moment after it was let go.
  Result<Verdict> verdict = honest.Submit(honest.Answer());
  while (verdict.status().code() == StatusCode::kResourceExhausted) {
    verdict = honest.Submit(honest.Answer());
  }
  ASSERT_OK(verdict.status());
  EXPECT_TRUE(verdict->accepted());
  coordinator.Kill();
  EXPECT_EQ(PosixFileSystem().List(directory.File("run/spool"))->size(), 1u)
      << "the one accepted; the first, still held, has had no byte";
}

// ---- Small updates are made durable together.

class WaitingUpdate : public SessionTest {
 protected:
  // `other` has begun, and `honest` is through but for its acknowledgement.
  void Wait() {
    StartRound();
    Pending<UploadStart> started;
    coordinator.core().BeginUpdate(
        other.session, {.task = other.task.task, .client = "other", .round = 1, .total_bytes = 128},
        started.Callback());
    held = started.Get();
    ASSERT_OK(held.status());
    submitting = std::async(std::launch::async, [this] { return honest.Submit(honest.Answer()); });
  }

  Result<UploadStart> held = Internal("not begun");
  std::future<Result<Verdict>> submitting;
};

TEST_F(WaitingUpdate, IsNotHeldUpForLong) {
  Wait();
  EXPECT_TRUE(submitting.get().value().accepted());
}

TEST_F(WaitingUpdate, IsToldWhenTheCoordinatorGoesDown) {
  coordinator.options.patience_ms = 3'600'000;
  Wait();
  EXPECT_EQ(submitting.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  coordinator.Kill();
  held = Internal("gone");
  EXPECT_FALSE(submitting.get().ok());
}

// Its client was killed while the end was being made durable, and comes back to hear of it.
TEST_F(SessionTest, APollThatWasAbandonedIsNotToldOfTheEnd) {
  coordinator.options.run.rounds = 1;
  coordinator.options.linger_ms = 60'000;
  StartRound();
  ASSERT_TRUE(honest.Submit(honest.Answer()).value().accepted());
  const auto gone = std::make_shared<Poll>();
  Pending<NextTaskReply> parked;
  Park(honest, gone, parked);
  gone->abandoned = true;  // and the word of it is still on its way
  ASSERT_TRUE(other.Submit(other.Answer()).value().accepted());
  EXPECT_EQ(parked.Get().status().ToString(), "CANCELLED: the caller has gone");
  other.HearTheEnd();
  EXPECT_FALSE(coordinator.core().WaitFor(100));
  honest.Join();
  honest.HearTheEnd();
  EXPECT_EQ(coordinator.core().Wait().status, "completed");
}

// The word of the end was sent, and its reader killed before it could act on it.
TEST_F(SessionTest, AClientThatHasNotSaidThatItHeardOfTheEndIsWaitedFor) {
  coordinator.options.run.rounds = 1;
  coordinator.options.linger_ms = 60'000;
  StartRound();
  FinishRound();
  other.HearTheEnd();
  EXPECT_EQ(honest.transport.NextTask(honest.session)->kind, NextTaskReply::Kind::kRunOver);
  EXPECT_FALSE(coordinator.core().WaitFor(100));
  honest.Join();
  honest.HearTheEnd();
  EXPECT_EQ(coordinator.core().Wait().status, "completed");
}

TEST_F(SessionTest, AClientThatNeverSaysThatItHeardOfTheEndIsWaitedForNoLongerThanTheLinger) {
  coordinator.options.run.rounds = 1;
  coordinator.options.linger_ms = 50;
  StartRound();
  FinishRound();
  for (RawClient* client : {&honest, &other}) {
    EXPECT_EQ(client->transport.NextTask(client->session)->kind, NextTaskReply::Kind::kRunOver);
  }
  EXPECT_EQ(coordinator.core().Wait().status, "completed");
}

TEST_F(SessionTest, WhatChangesNothingIsNotJournaled) {
  StartRound();
  const TrainResult answer = honest.Answer();
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(honest.Submit(answer).value().accepted());
  coordinator.Kill();
  const auto journal = Journal::Open(directory.File("run/journal.sqlite")).value();
  const std::vector<Event> events = journal->Recover().value()->events;
  EXPECT_EQ(std::count_if(
                events.begin(), events.end(),
                [](const Event& event) { return std::holds_alternative<UpdateReceived>(event); }),
            1);
}

TEST_F(SessionTest, AnEvaluationThatIsNoNumberIsABadResult) {
  coordinator.options.run.rounds = 1;
  coordinator.options.run.evaluation.mode = EvaluationMode::kEvaluator;
  RawClient evaluator{coordinator.slot, "evaluator"};
  ASSERT_OK(coordinator.Start());
  RegisterRequest request = evaluator.Request();
  request.role = ClientRole::kEvaluator;
  const Result<RegisterReply> reply = evaluator.transport.Register(request);
  ASSERT_OK(reply.status());
  evaluator.session = {"evaluator", reply->session};
  for (RawClient* client : {&honest, &other}) client->Join();
  for (RawClient* client : {&honest, &other}) {
    client->TakeTask();
    ASSERT_TRUE(client->Submit(client->Answer()).value().accepted());
  }
  evaluator.TakeTask();
  EXPECT_OK(evaluator.transport.SubmitEvaluation(
      evaluator.session,
      {.task = evaluator.task.task, .correct = std::nan(""), .loss = 1.0, .examples = 2.0}));
  for (RawClient* client : {&honest, &other, &evaluator}) client->HearTheEnd();
  EXPECT_EQ(coordinator.core().Wait().status, "completed");
  const auto report = nlohmann::json::parse(ReadAll(directory.File("run/rounds.jsonl")));
  EXPECT_TRUE(report["global_accuracy"].is_null()) << report;
}

}  // namespace
}  // namespace fedmoe
