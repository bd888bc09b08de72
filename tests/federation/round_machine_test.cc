// The round machine, rule by rule: selection, admission, liveness, cells.
#include "federation/round_machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/federation/round_driver.h"

namespace fedmoe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(Selection, WaitsForTheLeastNumberOfClientsThenDispatchesAtOnce) {
  RoundDriver run(TinyOptions());
  EXPECT_EQ(run.Join("a", 1), "admit a session=1 experts=1\n");
  EXPECT_EQ(run.state.phase, Phase::kSelection);
  EXPECT_EQ(run.Join("b", 3),
            "admit b session=2 experts=3\n"
            "dispatch a task=1 train round=1 attempt=1 experts=[3]\n"
            "dispatch b task=2 train round=1 attempt=1 experts=[0 1 2]\n");
  EXPECT_EQ(run.state.phase, Phase::kReporting);
}

TEST(Selection, EvaluatorsDoNotCountAsTrainers) {
  RoundDriver run(TinyOptions());
  run.Join("a");
  EXPECT_EQ(run.JoinEvaluator("e"), "admit e session=2 experts=4\n");
  EXPECT_EQ(run.state.phase, Phase::kSelection);
}

TEST(Selection, TasksNameTheShardsByContentAndCarryTheRoundsLearningRate) {
  RunOptions options = TinyOptions();
  options.training.learning_rate = 0.4;
  options.training.schedule = LearningRateSchedule::kCosine;
  options.training.final_learning_rate_fraction = 0.5;
  RoundDriver run(options);
  run.Join("a", 2);
  run.Join("b", 2);
  const TaskAssignment first = run.TaskOf("a");
  ASSERT_EQ(first.shards.size(), 3u);
  EXPECT_EQ(first.shards[0], (ShardReference{kTrunkShard, run.state.shards[0], 64}));
  const int shard = ShardOfExpert(first.experts[0]);
  EXPECT_EQ(first.shards[1],
            (ShardReference{shard, run.state.shards[static_cast<std::size_t>(shard)], 32}));
  EXPECT_EQ(first.timeout_ms, 60'000);
  EXPECT_EQ(first.seed, 7u);
  EXPECT_DOUBLE_EQ(first.training.learning_rate, 0.4);
  run.CommitRound();
  EXPECT_DOUBLE_EQ(run.TaskOf("a").training.learning_rate, 0.2);
  EXPECT_EQ(run.TaskOf("a").last_committed_task, first.task);
}

TEST(Selection, PerRoundDrawsSoManyBySeedAndAttempt) {
  RunOptions options = TinyOptions();
  options.participation.min_clients = 6;
  options.participation.per_round = 3;
  options.participation.deadline_ms = 1'000;
  options.participation.max_aborts = 20;
  RoundDriver run(options);
  RoundDriver reversed(options);
  for (const char* name : {"a", "b", "c", "d", "e", "f"}) run.Join(name);
  for (const char* name : {"f", "e", "d", "c", "b", "a"}) reversed.Join(name);
  EXPECT_EQ(run.state.cohort.size(), 3u);
  EXPECT_EQ(run.state.cohort, reversed.state.cohort);
  const std::vector<ClientId> first = run.state.cohort;
  bool other = false;
  for (int attempt = 2; attempt < 10; ++attempt) {
    run.Tick(1'000);
    EXPECT_EQ(run.state.attempt, attempt);
    EXPECT_TRUE(std::is_sorted(run.state.cohort.begin(), run.state.cohort.end()));
    other |= run.state.cohort != first;
  }
  EXPECT_TRUE(other) << "every attempt drew the same cohort";
}

TEST(Selection, AClientWithoutExpertsTrainsTheTrunk) {
  RoundDriver run(TinyOptions());
  const double trunk = PredictMemoryBytes(run.options.spec, run.options.training, 0);
  run.Join("a", 2);
  const auto bytes = static_cast<std::uint64_t>(trunk);
  EXPECT_EQ(run.JoinWith("b", CapacityProfile{.memory_bytes = bytes, .examples = 10}),
            "admit b session=2 experts=0\n"
            "dispatch a task=1 train round=1 attempt=1 experts=[0 1]\n"
            "dispatch b task=2 train round=1 attempt=1 experts=[]\n");
  EXPECT_EQ(run.TaskOf("b").shards.size(), 1u);
}

TEST(Admission, AnotherInstanceMayNotTakeAConnectedName) {
  RoundDriver run(TinyOptions());
  run.Join("a", 2, "first");
  EXPECT_EQ(run.Join("a", 2, "second"),
            "turn-away a ALREADY_EXISTS: client name 'a' is taken by another instance; choose "
            "another name or stop the other client\n");
  EXPECT_FALSE(run.changed);
  EXPECT_EQ(run.state.clients["a"].instance, "first");
}

TEST(Admission, AnotherInstanceMayTakeALostNameAndStartsAfresh) {
  RoundDriver run(TinyOptions());
  run.Join("a", 2, "first");
  run.Join("b");
  run.CommitRound();
  const TaskAssignment open = run.TaskOf("a");
  run.Leave("a");
  EXPECT_EQ(run.Join("a", 2, "second"), "admit a session=3 experts=2\n");
  EXPECT_EQ(run.state.clients["a"].last_committed_task, 0u);
  EXPECT_TRUE(run.state.fitness.rows.contains("a")) << "fitness is keyed by name";
  EXPECT_EQ(run.Apply(run.UpdateFor(open)),
            "reject a task=3 task_cancelled: task 3 was cancelled\n");
}

TEST(Admission, TheSameInstanceSupersedesItsSessionAndGetsItsTaskAgain) {
  RoundDriver run(TinyOptions());
  run.Join("a", 1);
  run.Join("b", 3);
  const std::string before = Dump(run.state.tasks.at(1));
  EXPECT_EQ(run.Join("a", 1),
            "admit a session=3 experts=1 superseded\n"
            "dispatch a task=1 train round=1 attempt=1 experts=[3]\n");
  EXPECT_EQ(Dump(run.state.tasks.at(1)), before);
  run.Apply(ClientLeft{.at_ms = 0, .client = "a", .session = 1});
  EXPECT_TRUE(run.state.clients["a"].connected) << "the old session has no say any more";
}

TEST(Admission, ATooSmallClientIsTurnedAwayWithTheNumbers) {
  RunOptions options = TinyOptions();
  options.participation.too_small = TooSmallPolicy::kReject;
  options.spec.blocks[0].shape = {250'000};
  for (int e = 0; e < 4; ++e)
    options.spec.blocks[static_cast<std::size_t>(1 + e)].shape = {500'000};
  RoundDriver run(options);
  const auto join = [&](CapacityProfile profile) { return run.JoinWith("a", profile); };
  EXPECT_EQ(join({.memory_bytes = 3'000'000}),
            "turn-away a FAILED_PRECONDITION: client 'a' is too small for this model: the trunk "
            "needs 4.0 MB of memory, its budget is 3.0 MB\n");
  EXPECT_EQ(join({.memory_bytes = 5'000'000}),
            "turn-away a FAILED_PRECONDITION: client 'a' is too small for this model: one expert "
            "needs 12.0 MB of memory, its budget is 5.0 MB\n");
  EXPECT_EQ(join({.down_bytes_per_s = 10'000.0}),
            "turn-away a FAILED_PRECONDITION: client 'a' is too small for this model: a round "
            "with the trunk alone takes it 100.0 s, the deadline is 60.0 s\n");
  EXPECT_EQ(join({.down_bytes_per_s = 40'000.0}),
            "turn-away a FAILED_PRECONDITION: client 'a' is too small for this model: a round "
            "with one expert takes it 75.0 s, the deadline is 60.0 s\n");
  run.options.participation.too_small = TooSmallPolicy::kTrunkOnly;
  EXPECT_EQ(join({.memory_bytes = 5'000'000}), "admit a session=1 experts=0\n");
  EXPECT_THAT(run.JoinWith("b", {.memory_bytes = 3'000'000}), HasSubstr("the trunk needs 4.0 MB"));
}

TEST(Admission, StrategyNoneNeedsNoExpertCapacity) {
  RunOptions options = TinyOptions();
  options.participation.too_small = TooSmallPolicy::kReject;
  options.alignment.strategy = AlignmentStrategy::kNone;
  RoundDriver run(options);
  const auto trunk =
      static_cast<std::uint64_t>(PredictMemoryBytes(options.spec, options.training, 0));
  EXPECT_EQ(run.JoinWith("a", {.memory_bytes = trunk}), "admit a session=1 experts=0\n");
}

TEST(Liveness, ASilentClientIsLostAndItsTaskCancelled) {
  RoundDriver run(TinyOptions());
  run.Join("a");
  run.Join("b");
  EXPECT_EQ(run.Tick(23'999, {"b"}), "");
  EXPECT_FALSE(run.changed);
  EXPECT_EQ(run.Tick(1, {"b"}), "cancel tasks=[2] timed_out\n");
  EXPECT_FALSE(run.state.clients["b"].connected);
  EXPECT_EQ(run.state.tasks.at(2).status, TaskStatus::kLost);
  EXPECT_EQ(run.Beat("b"), "") << "a lost session must register again";
  EXPECT_FALSE(run.state.clients["b"].connected);
}

TEST(Liveness, HeartbeatsCountInEighthsOfTheTimeout) {
  RoundDriver run(TinyOptions());
  run.Join("a");
  run.now_ms = 2'999;
  run.Beat("a");
  EXPECT_FALSE(run.changed);
  EXPECT_EQ(run.state.clients["a"].last_heard_ms, 0);
  run.now_ms = 3'000;
  run.Beat("a");
  EXPECT_TRUE(run.changed);
  EXPECT_EQ(run.state.clients["a"].last_heard_ms, 3'000);
}

TEST(Liveness, AnUpdateIsASignOfLife) {
  RoundDriver run(TinyOptions());
  run.Join("a");
  run.Join("b");
  run.now_ms = 2'000;
  run.Update("a");
  EXPECT_EQ(run.state.clients["a"].last_heard_ms, 2'000);
}

TEST(Liveness, AClientBackInTimeGetsItsLostTaskAgain) {
  RoundDriver run(TinyOptions());
  run.Join("a", 1);
  run.Join("b", 3);
  EXPECT_EQ(run.Leave("a"), "");
  EXPECT_EQ(run.state.cells[4], CellState::kAbandoned);
  EXPECT_EQ(run.Join("a", 1),
            "admit a session=3 experts=1\n"
            "dispatch a task=1 train round=1 attempt=1 experts=[3]\n");
  EXPECT_EQ(run.state.cells[4], CellState::kOpen);
}

TEST(Liveness, AnUpdateOfALostClientCountsWhileTheRoundReports) {
  RoundDriver run(TinyOptions());
  run.Join("a");
  run.Join("b");
  run.Leave("a");
  EXPECT_EQ(run.Update("a"), "accept a task=1\n");
}

TEST(Liveness, AReturnedTaskIsLostAndItsClientStays) {
  RoundDriver run(TinyOptions());
  run.Join("a");
  run.Join("b");
  EXPECT_EQ(run.Return("a"), "");
  EXPECT_EQ(run.state.tasks.at(1).status, TaskStatus::kLost);
  EXPECT_TRUE(run.state.clients["a"].connected);
  EXPECT_EQ(run.Update("b"),
            "accept b task=2\n"
            "dispatch b task=3 train round=1 attempt=1 experts=[1 3] follows=2\n");
  EXPECT_THAT(run.Update("b"), HasSubstr("aggregate round=1 base=0 updates=[2 3]"));
}

TEST(Liveness, NobodyLeftAbortsAtOnceAndTheNextAttemptWaits) {
  RoundDriver run(TinyOptions());
  run.Join("a");
  run.Join("b");
  run.Leave("a");
  EXPECT_EQ(run.Leave("b"),
            "abort round=1 attempt=1 too_few_updates: 0 of 2 updates accepted, at least 1 "
            "needed\n");
  EXPECT_EQ(run.state.phase, Phase::kSelection);
  EXPECT_EQ(run.state.attempt, 2);
  run.Join("a", 1);
  EXPECT_THAT(run.Join("b", 1), HasSubstr("dispatch a task=3 train round=1 attempt=2"));
}

// Four clients of one expert each, two experts: every expert has two clients, and its quorum of 75
// % is both of them; the trunk's is three of four.
class Cells : public ::testing::Test {
 protected:
  Cells() : run(Options()) {
    for (const char* name : {"a", "b", "c", "d"}) run.Join(name, 1);
  }
  static RunOptions Options() {
    RunOptions options = TinyOptions(2);
    options.participation.min_clients = 4;
    options.participation.quorum = 0.75;
    return options;
  }
  // Index of the cell of the client's expert.
  std::size_t CellOf(const ClientId& client) {
    return static_cast<std::size_t>(ShardOfExpert(run.TaskOf(client).experts.at(0)));
  }
  // The other client with the same expert.
  ClientId PartnerOf(const ClientId& client) {
    for (const ClientId& other : run.state.cohort) {
      if (other != client && CellOf(other) == CellOf(client)) return other;
    }
    return {};
  }
  RoundDriver run;
};

TEST_F(Cells, StartOpenAndCloseCompleteOneByOne) {
  EXPECT_THAT(run.state.cells, ElementsAre(CellState::kOpen, CellState::kOpen, CellState::kOpen));
  run.Update("a");
  run.Update(PartnerOf("a"));
  EXPECT_EQ(run.state.cells[CellOf("a")], CellState::kComplete);
  EXPECT_EQ(run.state.cells[kTrunkShard], CellState::kOpen);
}

TEST_F(Cells, AnExpertWithoutClientsIsUnassigned) {
  RoundDriver small(TinyOptions(8));
  small.Join("a", 1);
  small.Join("b", 1);
  EXPECT_EQ(std::count(small.state.cells.begin(), small.state.cells.end(), CellState::kUnassigned),
            6);
}

TEST_F(Cells, QuorumStartsTheGraceAfterWhichNobodyIsWaitedFor) {
  const ClientId slow = "d";
  for (const char* name : {"a", "b", "c"}) run.Update(name);
  EXPECT_EQ(run.state.cell_quorum_ms[kTrunkShard], 0) << "3 of 4 is the trunk's quorum";
  EXPECT_EQ(run.state.cell_quorum_ms[CellOf(slow)], -1) << "1 of 2 is not 75 %";
  EXPECT_EQ(run.Tick(5'000), "");
  EXPECT_EQ(run.state.cells[kTrunkShard], CellState::kGrace);
  EXPECT_EQ(run.state.cells[CellOf(slow)], CellState::kOpen);
  EXPECT_EQ(run.Update(slow),
            "accept d task=4\naggregate round=1 base=0 updates=[1 2 3 4] shards=[0 1 2]\n")
      << "merged into cells already closed, too";
}

TEST_F(Cells, TheDeadlineClosesWhatIsOpenAndCancelsTheRest) {
  for (const char* name : {"a", "b", "c"}) run.Update(name);
  run.Tick(5'000);
  EXPECT_EQ(NextTickMs(run.state, run.options), 5'000 + 24'000);
  EXPECT_EQ(run.Tick(55'000),
            "cancel tasks=[4] round_over\n"
            "aggregate round=1 base=0 updates=[1 2 3] shards=[0 1 2]\n");
  EXPECT_EQ(run.state.cells[CellOf("d")], CellState::kDeadline);
  EXPECT_EQ(run.Update("d"), "reject d task=4 stale_round: round 1 went on without task 4\n");
}

TEST_F(Cells, TooFewUpdatesAtTheDeadlineAbortTheAttemptAndTheSameRoundStartsAgain) {
  run.Update("a");
  run.Update("b");
  const std::string text = run.Tick(60'000);
  EXPECT_THAT(text, HasSubstr("abort round=1 attempt=1 too_few_updates: 2 of 4 updates accepted, "
                              "at least 3 needed\ncancel tasks=[3 4] round_aborted\n"));
  EXPECT_THAT(text, HasSubstr("dispatch a task=5 train round=1 attempt=2"));
  EXPECT_EQ(run.state.version, 0);
}

TEST_F(Cells, ARejectedUpdateCountsAsReportedAndIsCounted) {
  run.Update("a");
  run.Update("b");
  run.Update("c");
  EXPECT_EQ(run.Update("d", {RejectReason::kNotFinite, "trunk.weight has NaN at 3"}),
            "reject d task=4 not_finite: trunk.weight has NaN at 3\n"
            "aggregate round=1 base=0 updates=[1 2 3] shards=[0 1 2]\n");
  EXPECT_EQ(run.state.cells[CellOf("d")], CellState::kComplete);
  run.Aggregate();
  run.Checkpoint();
  const RoundReport report = run.Last<Report>().report;
  EXPECT_EQ(report.rejected, (std::map<std::string, int>{{"not_finite", 1}}));
  EXPECT_EQ(report.clients[3].outcome, "not_finite");
}

TEST_F(Cells, MaxAbortsFailsTheRun) {
  run.Tick(60'000);
  run.Tick(60'000);
  EXPECT_THAT(run.Tick(60'000),
              HasSubstr("finish failed: round 1 was aborted 3 times, at last: 0 of 4 updates "
                        "accepted, at least 3 needed\n"));
  EXPECT_EQ(run.state.phase, Phase::kFinished);
  EXPECT_EQ(run.Join("e"), "turn-away e UNAVAILABLE: the run is over\n");
  EXPECT_EQ(NextTickMs(run.state, run.options), -1);
}

TEST(Updates, AreRefusedWithTheReason) {
  RoundDriver run(TinyOptions());
  run.Join("a", 2);
  run.Join("b", 2);
  TaskAssignment task = run.TaskOf("a");
  task.task = 99;
  EXPECT_EQ(run.Apply(run.UpdateFor(task)),
            "reject a task=99 unknown_task: task 99 does not exist in this run\n");
  task = run.TaskOf("a");
  task.client = "b";
  EXPECT_EQ(run.Apply(run.UpdateFor(task)),
            "reject b task=1 not_your_task: task 1 is of client 'a'\n");
  task = run.TaskOf("a");
  task.round = 9;
  EXPECT_EQ(run.Apply(run.UpdateFor(task)),
            "reject a task=1 stale_round: the update is of round 9, task 1 of round 1\n");
  EXPECT_FALSE(run.changed);
  UpdateReceived odd = run.UpdateFor(run.TaskOf("a"));
  odd.header.feedback.tokens.pop_back();
  EXPECT_EQ(run.Apply(odd),
            "reject a task=1 bad_feedback: feedback.tokens has 3 entries, the model has 4 "
            "experts\n");
  EXPECT_TRUE(run.changed);
  EXPECT_EQ(run.Update("a"),
            "reject a task=1 already_rejected: an earlier update of task 1 was rejected: "
            "bad_feedback\n");
}

TEST(Updates, MeasuredBandwidthChangesCapacityAtTheCommitUnlessDeterministic) {
  for (const bool deterministic : {false, true}) {
    RunOptions options = TinyOptions();
    options.deterministic = deterministic;
    RoundDriver run(options);
    run.Join("a", 4);
    run.Join("b", 4);
    UpdateReceived update = run.UpdateFor(run.TaskOf("a"));
    update.header.feedback.up_bytes_per_s = 2.0;  // 60 s: a trunk of 64 bytes and one expert of 32
    run.Apply(update);
    EXPECT_EQ(run.state.clients["a"].capacity.experts, 4);
    run.Update("b");
    run.Aggregate();
    run.Checkpoint();
    EXPECT_EQ(run.state.clients["a"].capacity.experts, deterministic ? 4 : 1);
  }
}

TEST(Deterministic, LostTasksAreWaitedForWithoutGrace) {
  RunOptions options = TinyOptions();
  options.deterministic = true;
  RoundDriver run(options);
  run.Join("a");
  run.Join("b");
  run.Update("a");
  run.Leave("b");
  EXPECT_EQ(run.Tick(50'000), "");
  EXPECT_THAT(run.Join("b"), HasSubstr("dispatch b task=2 train round=1 attempt=1"));
  EXPECT_THAT(run.Update("b"), HasSubstr("aggregate round=1 base=0 updates=[1 2]"));
}

TEST(Deterministic, AnyMissingUpdateAbortsTheAttempt) {
  RunOptions options = TinyOptions();
  options.deterministic = true;
  RoundDriver run(options);
  run.Join("a");
  run.Join("b");
  run.Update("a");
  EXPECT_THAT(run.Tick(60'000), HasSubstr("abort round=1 attempt=1 incomplete: 1 of 2 assigned "
                                          "clients reported; missing: b\n"));
}

TEST(Deterministic, AReturnedTaskOfAConnectedClientAbortsTheAttemptAtOnce) {
  RunOptions options = TinyOptions();
  options.deterministic = true;
  RoundDriver run(options);
  run.Join("a");
  run.Join("b");
  EXPECT_THAT(run.Return("b"),
              HasSubstr("abort round=1 attempt=1 incomplete: client 'b' returned task 2: shutting "
                        "down\ncancel tasks=[1] round_aborted\n"
                        "dispatch a task=3 train round=1 attempt=2"));
  run.Return("a");
  EXPECT_THAT(run.Return("a"),
              HasSubstr("finish failed: round 1 was aborted 3 times, at last: client 'a' returned "
                        "task 5: shutting down\n"));
}

}  // namespace
}  // namespace fedmoe
