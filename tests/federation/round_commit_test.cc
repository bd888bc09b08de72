// The round machine, rule by rule: the commit and its report; time.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "federation/round_machine.h"
#include "tests/federation/round_driver.h"

namespace fedmoe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(Commit, TellsTheRoundInItsReport) {
  RoundDriver run(TinyOptions());
  run.Join("a", 1);
  run.Join("b", 3);
  run.now_ms = 2'000;
  run.Update("a");
  UpdateReceived update = run.UpdateFor(run.TaskOf("b"));
  update.header.feedback.examples = 30;
  update.header.feedback.train_loss = 0.5;
  run.Apply(update);
  run.Aggregate();
  run.now_ms = 2'500;
  const std::string text = run.Checkpoint();
  EXPECT_THAT(text, HasSubstr("publish version=1\nreport round=1 attempts=1 accepted=2 "
                              "clients=[a=accepted b=accepted]"));
  const RoundReport report = run.Last<Report>().report;
  EXPECT_DOUBLE_EQ(report.train_loss, (10 * 1.5 + 30 * 0.5) / 40);
  EXPECT_DOUBLE_EQ(report.seconds, 2.5);
  EXPECT_EQ(report.model_digest, ModelDigest(run.state.shards));
  EXPECT_THAT(report.clients[1].experts, ElementsAre(0, 1, 2));
  EXPECT_THAT(run.state.load.assignments, ElementsAre(1, 1, 1, 1));
  EXPECT_EQ(report.cumulative_load_cv, 0.0);
  EXPECT_EQ(run.state.clients["b"].rounds_merged, 1);
}

TEST(Commit, CountsAttemptsAndRejectionsByRound) {
  RoundDriver run(TinyOptions());
  run.Join("a", 2);
  run.Join("b", 2);
  run.Update("a", {RejectReason::kNotFinite, "NaN"});
  run.now_ms = 1'000;
  run.Update("b", {RejectReason::kNotFinite, "NaN"});
  EXPECT_EQ(run.state.attempt, 2);
  run.CommitRound();
  EXPECT_EQ(run.Last<Report>().report.attempts, 2);
  EXPECT_EQ(run.Last<Report>().report.rejected.at("not_finite"), 2);
  EXPECT_EQ(run.Last<Report>().report.started_ms, 0) << "of the first attempt";
  run.CommitRound();
  EXPECT_EQ(run.Last<Report>().report.attempts, 1);
  EXPECT_TRUE(run.Last<Report>().report.rejected.empty());
}

TEST(Commit, StaleCommitEventsAreIgnored) {
  RoundDriver run(TinyOptions());
  run.Join("a");
  run.Join("b");
  EXPECT_EQ(run.Checkpoint(), "");
  EXPECT_FALSE(run.changed);
  run.CommitRound();
  EXPECT_EQ(run.Apply(Aggregated{.at_ms = 0, .round = 1, .shards = run.state.shards}), "");
  EXPECT_EQ(run.Apply(CheckpointWritten{.at_ms = 0, .round = 1}), "");
  EXPECT_FALSE(run.changed);
  EXPECT_EQ(run.state.version, 1);
}

TEST(Commit, AnAggregationOfAnotherShapeFailsTheRun) {
  RoundDriver run(TinyOptions());
  run.Join("a");
  run.Join("b");
  run.Update("a");
  run.Update("b");
  EXPECT_EQ(run.Apply(Aggregated{.at_ms = 0, .round = 1, .shards = {"x"}}),
            "abort round=1 attempt=1 aggregation_failed: it gave 1 shards, the model has 5\n"
            "finish failed: aggregation of round 1 failed: it gave 1 shards, the model has 5\n");
}

TEST(Time, ThatSeemsToFallStandsStill) {
  RoundDriver run(TinyOptions());
  run.now_ms = 5'000;
  run.Join("a");
  run.now_ms = 1'000;
  run.Join("b");
  EXPECT_EQ(run.state.now_ms, 5'000);
  EXPECT_EQ(run.state.started_ms, 5'000);
}

TEST(Time, NextTickIsTheEarliestThatCanHaveAnEffect) {
  RoundDriver run(TinyOptions());
  EXPECT_EQ(NextTickMs(run.state, run.options), -1);
  run.Join("a");
  EXPECT_EQ(NextTickMs(run.state, run.options), 24'000) << "heartbeat";
  run.options.participation.heartbeat_timeout_ms = 0;
  EXPECT_EQ(NextTickMs(run.state, run.options), -1);
  run.Join("b");
  EXPECT_EQ(NextTickMs(run.state, run.options), 60'000) << "deadline";
  run.now_ms = 1'000;
  run.Update("a");
  EXPECT_EQ(NextTickMs(run.state, run.options), 6'000) << "grace";
}

}  // namespace
}  // namespace fedmoe
