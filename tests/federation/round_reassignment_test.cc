// Second tasks: an expert whose only holder vanished goes to another client in the same round.
#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/federation/round_driver.h"

namespace fedmoe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

RunOptions ThreeExperts() {
  RunOptions options = TinyOptions(3);
  options.participation.min_clients = 3;
  options.participation.quorum = 0.6;
  return options;
}

// "a", "b" and "c" with an expert each, and "c" has gone; `lost` is the expert that it had.
RoundDriver Orphaned(const RunOptions& options, ExpertIndex& lost, int k = 1) {
  RoundDriver run(options);
  for (const char* name : {"a", "b", "c"}) run.Join(name, k);
  lost = run.TaskOf("c").experts.at(0);
  run.Leave("c");
  return run;
}

double TrunkWeight(const AggregationPlan& plan, std::size_t update) {
  return plan.blocks.at(0).weights.at(update);  // of "trunk.weight"
}

TEST(RoundLaws, Law3ASecondTaskCountsItsExpertAndNotTheTrunkAgain) {
  ExpertIndex lost = 0;
  RoundDriver run = Orphaned(ThreeExperts(), lost);
  run.Update("a");
  const TaskAssignment second = run.TaskOf("a");
  EXPECT_EQ(second.follows, 1U);
  EXPECT_THAT(second.experts, ElementsAre(lost));
  run.Update("b");
  run.Update("a");
  const AggregationPlan plan = run.Last<fedmoe::Aggregate>().plan;
  ASSERT_THAT(plan.updates, ElementsAre(1U, second.task, 2U));
  EXPECT_EQ(TrunkWeight(plan, 0), 0.5);
  EXPECT_EQ(TrunkWeight(plan, 1), 0.0);
  EXPECT_EQ(TrunkWeight(plan, 2), 0.5);
  const BlockPlan& expert = plan.blocks.at(static_cast<std::size_t>(lost) + 1);
  EXPECT_THAT(expert.weights, ElementsAre(0.0, 1.0, 0.0));

  run.Aggregate();
  run.Checkpoint();
  const ClientRecord& client = run.state.clients.at("a");
  EXPECT_EQ(client.rounds_merged, 1);
  EXPECT_EQ(client.last_committed_task, 1U) << "its state is that of the first task";
  EXPECT_THAT(client.experts, Not(ElementsAre(lost)));
  const RoundReport report = run.Last<Report>().report;
  EXPECT_EQ(report.accepted, 2);
  EXPECT_THAT(report.load.round_assignments, ElementsAre(1, 1, 1));
  EXPECT_EQ(run.state.fitness.rows.at("a").seen.at(0), 1) << "its gate was read once";
}

TEST(Reassignment, TheClientWhomTheExpertSuitsBestTakesOver) {
  for (const char* fittest : {"a", "b"}) {
    RoundDriver run(ThreeExperts());
    for (const char* name : {"a", "b", "c"}) run.Join(name, 1);
    const ExpertIndex lost = run.TaskOf("c").experts.at(0);
    for (ClientReport& client : run.state.selected) {
      client.fitness[static_cast<std::size_t>(lost)] = client.client == fittest ? 0.9 : 0.1;
    }
    run.options.participation.quorum = 1.0;  // so that c is waited for
    run.Update("a");
    run.Update("b");
    run.options.participation.quorum = 0.6;
    run.Leave("c");
    EXPECT_THAT(run.TaskOf(fittest).experts, ElementsAre(lost));
    EXPECT_NE(run.TaskOf(fittest).follows, 0U);
  }
}

TEST(Reassignment, TakesNoMoreThanTheClientCanHold) {
  RunOptions options = TinyOptions(4);
  options.participation.min_clients = 2;
  RoundDriver run(options);
  run.Join("a", 1);
  run.Join("b", 3);
  run.Leave("b");
  run.Update("a");
  EXPECT_EQ(run.TaskOf("a").experts.size(), 1U);
  EXPECT_EQ(run.TaskOf("a").follows, 1U);
  // The next when that one is done.
  run.Update("a");
  EXPECT_EQ(run.TaskOf("a").experts.size(), 1U);
  run.Update("a");
  EXPECT_THAT(run.Update("a"), HasSubstr("aggregate round=1"));
}

TEST(Reassignment, TakesNoMoreThanWillBeDoneBeforeTheDeadline) {
  RunOptions options = ThreeExperts();
  RoundDriver run(options);
  CapacityProfile slow{.examples = 10, .max_experts = 1};
  // 64 bytes of trunk and 32 of an expert, up and down, at 96 bytes in 25 s each way.
  slow.down_bytes_per_s = slow.up_bytes_per_s = 4.0;
  for (const char* name : {"a", "b", "c"}) run.JoinWith(name, slow);
  ASSERT_EQ(run.TaskOf("a").experts.size(), 1U);
  run.Leave("c");
  run.Tick(5'000);
  EXPECT_THAT(run.Update("a"), HasSubstr("follows=1"));
  EXPECT_EQ(run.TaskOf("a").timeout_ms, 55'000);
  run.Leave("a");
  run.Tick(10'000);
  EXPECT_THAT(run.Update("b"), Not(HasSubstr("follows"))) << "45 s are too short";
}

TEST(Reassignment, NeverHappensInADeterministicRun) {
  RunOptions options = ThreeExperts();
  options.deterministic = true;
  ExpertIndex lost = 0;
  RoundDriver run = Orphaned(options, lost);
  run.Update("a");
  EXPECT_EQ(run.Update("b"), "accept b task=2\n");
  EXPECT_EQ(run.state.tasks.size(), 3U);
}

TEST(Reassignment, AClientThatMissesTheRoundIsNoStandIn) {
  RunOptions options = ThreeExperts();
  ExpertIndex lost = 0;
  RoundDriver run = Orphaned(options, lost);
  run.Join("d", 1);
  EXPECT_THAT(run.TaskOf("d").experts, IsEmpty()) << "it came late, and has no first task";
  run.Update("a", {RejectReason::kNotFinite, "NaN"});
  EXPECT_EQ(run.state.tasks.size(), 3U) << "a rejected client is given nothing more";
  EXPECT_THAT(run.Update("b"), HasSubstr("abort round=1"));
}

TEST(Reassignment, ASecondTaskSurvivesARestart) {
  ExpertIndex lost = 0;
  RoundDriver run = Orphaned(ThreeExperts(), lost);
  run.Update("a");
  run.Update("b");
  const std::string again = ToText(Outstanding(run.state, run.options));
  EXPECT_THAT(again, HasSubstr("dispatch a task=4 train round=1 attempt=1 experts=[" +
                               std::to_string(lost) + "] follows=1"));
  run.Resume();
  EXPECT_THAT(run.Update("a"), HasSubstr("aggregate round=1 base=0 updates=[1 4 2]"));
}

TEST(Reassignment, AnAbortedAttemptForgetsIt) {
  RunOptions options = ThreeExperts();
  ExpertIndex lost = 0;
  RoundDriver run = Orphaned(options, lost);
  run.Update("a");
  ASSERT_NE(run.TaskOf("a").follows, 0U);
  run.Join("c", 1);
  run.options.participation.quorum = 1.0;
  run.Tick(60'000);
  EXPECT_EQ(run.state.attempt, 2);
  for (const char* name : {"a", "b", "c"}) EXPECT_EQ(run.TaskOf(name).follows, 0U);
}

}  // namespace
}  // namespace fedmoe
