// The eight laws of the design, at the level of the round machine. docs/laws.md lists them.
#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/federation/round_driver.h"

namespace fedmoe {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

RoundDriver Reporting(const RunOptions& options = TinyOptions()) {
  RoundDriver run(options);
  for (const char* name : {"a", "b", "c"}) run.Join(name, 2);
  return run;
}

RunOptions ThreeClients() {
  RunOptions options = TinyOptions();
  options.participation.min_clients = 3;
  return options;
}

TEST(RoundLaws, Law1AVersionIsPublishedOnlyAfterItsCheckpointIsDurable) {
  RoundDriver run = Reporting(ThreeClients());
  for (const char* name : {"a", "b", "c"}) run.Update(name);
  run.Aggregate();
  run.Tick(10'000);
  EXPECT_THAT(ToText(run.history), Not(HasSubstr("publish")));
  EXPECT_EQ(run.state.version, 0);
  EXPECT_EQ(run.state.shards, InitialShards(run.options.spec));
  const std::vector<Digest> written = run.Last<WriteCheckpoint>().shards;
  EXPECT_THAT(run.Checkpoint(), HasSubstr("publish version=1"));
  EXPECT_EQ(run.Last<PublishModel>().shards, written);
  EXPECT_EQ(run.state.shards, written);
  // The next round's tasks start from what was published, not before.
  EXPECT_EQ(run.TaskOf("a").version, 1);
  EXPECT_EQ(run.TaskOf("a").shards[0].digest, written[0]);
}

TEST(RoundLaws, Law2AnUpdateIsAcknowledgedOnlyWhenItIsCompleteValidAndDurable) {
  // The shell raises UpdateReceived with an accepted content only after the bytes are complete,
  // intact and durable in the spool; the machine acknowledges nothing else, and says that the event
  // must be journaled before the acknowledgement goes out.
  for (int reason = 1; reason <= static_cast<int>(RejectReason::kBadFeedback); ++reason) {
    RoundDriver run = Reporting();
    const Verdict content{static_cast<RejectReason>(reason), "as found"};
    EXPECT_THAT(run.Update("a", content), Not(HasSubstr("accept")));
    EXPECT_EQ(run.state.tasks.at(1).status, TaskStatus::kRejected);
  }
  RoundDriver run = Reporting();
  EXPECT_EQ(run.Update("a"), "accept a task=1\n");
  EXPECT_TRUE(run.changed);
}

TEST(RoundLaws, Law3AStaleDuplicateOrUnassignedUpdateNeverChangesTheModel) {
  RoundDriver run = Reporting(ThreeClients());
  const UpdateReceived first = run.UpdateFor(run.TaskOf("a"));
  run.Apply(first);
  const std::string accepted = DebugString(run.state);

  UpdateReceived duplicate = first;  // other claims, the same task
  duplicate.header.feedback.examples = 1'000;
  EXPECT_EQ(run.Apply(duplicate), "accept a task=1 duplicate\n");
  EXPECT_EQ(DebugString(run.state), accepted);

  UpdateReceived unassigned = first;
  unassigned.header.task = run.TaskOf("b").task;
  EXPECT_THAT(run.Apply(unassigned), HasSubstr("not_your_task"));
  EXPECT_EQ(DebugString(run.state), accepted);

  const UpdateReceived late = run.UpdateFor(run.TaskOf("c"));
  run.Update("b");
  run.Tick(5'000);  // the grace of everything that c shares
  run.Tick(55'000);
  run.Aggregate();
  run.Checkpoint();
  const std::string committed = DebugString(run.state);
  EXPECT_THAT(run.Apply(late), HasSubstr("stale_round"));
  EXPECT_EQ(run.Apply(first), "accept a task=1 duplicate\n") << "merged: idempotent";
  EXPECT_EQ(DebugString(run.state), committed);
}

TEST(RoundLaws, Law4AnExpertWithoutAnAcceptedTokenKeepsEverything) {
  RoundDriver run = Reporting(ThreeClients());
  // Nobody's tokens reach the expert that only the updates below hold.
  const ExpertIndex idle = run.TaskOf("a").experts[0];
  for (const char* name : {"a", "b", "c"}) {
    UpdateReceived update = run.UpdateFor(run.TaskOf(name));
    update.header.feedback.tokens[static_cast<std::size_t>(idle)] = 0.0;
    run.Apply(update);
  }
  const fedmoe::Aggregate merge = run.Last<Aggregate>();
  const std::vector<int>& changed = merge.plan.changed_shards;
  EXPECT_EQ(std::count(changed.begin(), changed.end(), ShardOfExpert(idle)), 0);
  for (const BlockPlan& block : merge.plan.blocks) {
    if (run.options.spec.ShardOf(block.parameter) == ShardOfExpert(idle)) {
      EXPECT_FALSE(block.changes());
    }
  }
  run.Aggregate();
  run.Checkpoint();
  const auto shard = static_cast<std::size_t>(ShardOfExpert(idle));
  EXPECT_EQ(run.state.shards[shard], InitialShards(run.options.spec)[shard]);
  EXPECT_NE(run.state.shards[kTrunkShard], InitialShards(run.options.spec)[kTrunkShard]);
  EXPECT_EQ(run.state.load.assignments[static_cast<std::size_t>(idle)], 0);
  EXPECT_EQ(run.state.load.tokens[static_cast<std::size_t>(idle)], 0.0);
}

TEST(RoundLaws, Law5AnAbortedRoundChangesNothing) {
  RunOptions options = ThreeClients();
  options.alignment.strategy = AlignmentStrategy::kStatic;
  const auto reporting = [&] {
    RoundDriver run = Reporting(options);
    run.CommitRound();
    return run;
  };
  const auto expect_unchanged = [](RoundDriver& run, const std::string& before) {
    EXPECT_THAT(ToText(run.history), HasSubstr("abort round=2 attempt=1"));
    EXPECT_EQ(DumpModelSide(run.state), before);
  };
  {
    RoundDriver run = reporting();
    const std::string before = DumpModelSide(run.state);
    const TaskAssignment aborted = run.TaskOf("a");
    UpdateReceived update = run.UpdateFor(aborted);
    update.header.feedback.up_bytes_per_s = 5.0;
    run.Apply(update);
    run.options.participation.quorum = 1.0;
    run.Tick(60'000);
    expect_unchanged(run, before);
    // The next attempt tells the client that what it trained in the aborted one is void.
    EXPECT_EQ(run.TaskOf("a").last_committed_task, aborted.last_committed_task);
    EXPECT_LT(run.TaskOf("a").last_committed_task, aborted.task);
  }
  {
    RoundDriver run = reporting();
    const std::string before = DumpModelSide(run.state);
    for (const char* name : {"a", "b", "c"}) run.Update(name);
    run.Apply(AggregationFailed{.at_ms = 0, .round = 2, .error = "spool: short read"});
    expect_unchanged(run, before);
    EXPECT_EQ(run.state.status_detail, "aggregation of round 2 failed: spool: short read");
  }
  {
    RoundDriver run = reporting();
    const std::string before = DumpModelSide(run.state);
    for (const char* name : {"a", "b", "c"}) run.Update(name);
    run.Aggregate();
    EXPECT_THAT(run.FailCheckpoint("no space left"),
                HasSubstr("finish failed: checkpoint of round 2 failed: no space left"));
    expect_unchanged(run, before);
  }
  {
    RoundDriver run = reporting();
    const std::string before = DumpModelSide(run.state);
    run.Update("a");
    run.Stop(false);
    expect_unchanged(run, before);
  }
}

TEST(RoundLaws, Law5AnAbortedRoundPinsNobodyInTheStaticPlan) {
  RunOptions options = ThreeClients();
  options.alignment.strategy = AlignmentStrategy::kStatic;
  RoundDriver run = Reporting(options);
  run.Tick(60'000);
  EXPECT_EQ(run.state.attempt, 2);
  EXPECT_TRUE(run.state.alignment_memory.pinned.empty());
  run.CommitRound();
  EXPECT_EQ(run.state.alignment_memory.pinned.size(), 3u);
}

TEST(RoundLaws, Law6TheOrderOfUpdatesChangesNeitherModelNorReport) {
  std::vector<ClientId> order = {"a", "b", "c"};
  std::string expected;
  int orders = 0;
  do {
    RunOptions options = ThreeClients();
    options.evaluation.mode = EvaluationMode::kClients;
    RoundDriver run = Reporting(options);
    for (int round = 1; round <= 2; ++round) {
      for (const ClientId& client : order) {
        UpdateReceived update = run.UpdateFor(run.TaskOf(client));
        // Sums of these depend on their order in floating point.
        update.header.feedback.train_loss = client == "a" ? 0.1 : client == "b" ? 0.2 : 1e15;
        update.header.feedback.tokens[static_cast<std::size_t>(run.TaskOf(client).experts[0])] =
            client == "a"   ? 0.1
            : client == "b" ? 0.7
                            : 300.1;
        run.Apply(update);
      }
      run.Aggregate();
      run.Checkpoint();
      for (const ClientId& client : order) {
        run.Evaluate(client, client == "a" ? 0.1 : 0.7, client == "c" ? 1e15 : 0.9);
      }
    }
    std::string outcome = DebugString(run.state);
    for (const Action& action : run.history) {
      if (const auto* report = std::get_if<Report>(&action)) outcome += Dump(report->report);
    }
    if (orders++ == 0) expected = outcome;
    EXPECT_EQ(outcome, expected);
  } while (std::next_permutation(order.begin(), order.end()));
  EXPECT_EQ(orders, 6);
}

// The whole run, killed and recovered from its journal before event `kill_at` (-1: never).
std::vector<Digest> RunKilledAt(int kill_at) {
  RoundDriver run(ThreeClients());
  const RoundState start = run.state;
  std::vector<Event> journal;
  int events = 0;
  const auto apply = [&](Event event) {
    if (events++ == kill_at) {
      RoundState recovered = start;
      for (const Event& past : journal) recovered = Step(recovered, past, run.options).state;
      EXPECT_EQ(DebugString(recovered), DebugString(run.state)) << "killed at " << kill_at;
      run.state = std::move(recovered);
      run.now_ms += 500'000;
      const Event resumed = Resumed{.at_ms = run.now_ms};
      run.Apply(resumed);
      journal.push_back(resumed);
      std::visit([&](auto& kind) { kind.at_ms = run.now_ms; }, event);
    }
    run.Apply(event);
    if (run.changed) journal.push_back(event);
  };
  for (const char* name : {"a", "b", "c"}) {
    apply(ClientJoined{.client = name, .instance = "1", .profile = {.max_experts = 2}});
  }
  while (run.state.phase != Phase::kFinished) {
    for (const char* name : {"c", "a", "b"}) {
      apply(Tick{.at_ms = run.now_ms});
      apply(run.UpdateFor(run.TaskOf(name)));
    }
    const Aggregate again = RoundDriver::AggregateOf(Outstanding(run.state, run.options));
    apply(Aggregated{
        .at_ms = run.now_ms, .round = run.state.round, .shards = Merge(run.state.shards, again)});
    apply(CheckpointWritten{.at_ms = run.now_ms, .round = run.state.round});
  }
  EXPECT_EQ(run.state.status, RunStatus::kCompleted);
  return run.state.shards;
}

TEST(RoundLaws, Law7AKilledAndResumedRunEndsInTheSameModel) {
  const std::vector<Digest> expected = RunKilledAt(-1);
  for (int kill_at = 0; kill_at < 19; ++kill_at) EXPECT_EQ(RunKilledAt(kill_at), expected);
}

TEST(RoundLaws, Law8AClientsFaultIsAnOrdinaryOutcomeWithAReason) {
  for (int reason = 1; reason <= static_cast<int>(RejectReason::kBadFeedback); ++reason) {
    RoundDriver run = Reporting(ThreeClients());
    const Verdict fault{static_cast<RejectReason>(reason), "detail"};
    EXPECT_EQ(run.Update("a", fault),
              std::string("reject a task=1 ") + RejectReasonName(fault.reason) + ": detail\n");
    run.Update("b");
    EXPECT_THAT(run.Update("c"), HasSubstr("aggregate round=1"));
    run.Aggregate();
    run.Checkpoint();
    EXPECT_EQ(run.Last<Report>().report.clients[0].outcome, RejectReasonName(fault.reason));
    run.CommitRound();
    EXPECT_EQ(run.state.status, RunStatus::kCompleted);
  }
}

}  // namespace
}  // namespace fedmoe
