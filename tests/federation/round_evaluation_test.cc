// Evaluation of published versions, the end of a run, and what a restart does.
#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/federation/round_driver.h"

namespace fedmoe {
namespace {

using ::testing::HasSubstr;

RunOptions Evaluated(EvaluationMode mode, RoundNumber rounds = 3) {
  RunOptions options = TinyOptions();
  options.rounds = rounds;
  options.evaluation.mode = mode;
  options.evaluation.deadline_ms = 20'000;
  return options;
}

RoundDriver Started(const RunOptions& options, bool evaluator = true) {
  RoundDriver run(options);
  if (evaluator) run.JoinEvaluator("e");
  run.Join("a", 2);
  run.Join("b", 2);
  return run;
}

TEST(Evaluation, NeverBlocksTheNextRoundAndReportsComeInRoundOrder) {
  RoundDriver run = Started(Evaluated(EvaluationMode::kEvaluator));
  EXPECT_THAT(run.CommitRound(), HasSubstr("dispatch e task=3 evaluate version=1 "
                                           "experts=[0 1 2 3]\ndispatch a task=4 train round=2"));
  run.CommitRound();
  EXPECT_EQ(run.state.evaluations.size(), 2u);
  EXPECT_EQ(run.Evaluate("e", 80), "") << "version 2 is known, version 1 is not";
  const std::string reports = run.Evaluate("e", 60);
  EXPECT_THAT(reports, HasSubstr("report round=1"));
  EXPECT_THAT(reports, HasSubstr("global=0.6 personalised=null(not_configured)\nreport round=2"));
  EXPECT_THAT(reports, HasSubstr("global=0.8"));
}

TEST(Evaluation, PersonalisedMetricsAreWeightedByExamples) {
  RoundDriver run = Started(Evaluated(EvaluationMode::kBoth));
  EXPECT_THAT(run.CommitRound(), HasSubstr("dispatch a task=4 evaluate version=1 experts="));
  EXPECT_EQ(run.EvaluationOf("a").experts, run.state.clients["a"].experts);
  run.Evaluate("a", 90, 100);
  run.Evaluate("b", 60, 300);
  run.Evaluate("e", 50);
  const RoundReport report = run.Last<Report>().report;
  EXPECT_DOUBLE_EQ(*report.personalised_accuracy.value, 150.0 / 400.0);
  EXPECT_DOUBLE_EQ(*report.personalised_loss.value, 2.0);
  EXPECT_DOUBLE_EQ(*report.global_accuracy.value, 0.5);
}

TEST(Evaluation, ANullMetricHasItsReason) {
  const auto report_of = [](RoundDriver& run) {
    const RoundReport report = run.Last<Report>().report;
    return MetricText(report.global_accuracy) + " " + MetricText(report.personalised_accuracy);
  };
  RoundDriver none = Started(Evaluated(EvaluationMode::kNone));
  none.CommitRound();
  EXPECT_EQ(report_of(none), "null(not_configured) null(not_configured)");

  RoundDriver missing = Started(Evaluated(EvaluationMode::kEvaluator), false);
  missing.CommitRound();
  EXPECT_EQ(report_of(missing), "null(no_evaluator) null(not_configured)");

  RunOptions local = Evaluated(EvaluationMode::kEvaluator);
  local.spec.gate_mode = GateMode::kLocal;
  RoundDriver local_gate = Started(local);
  local_gate.CommitRound();
  EXPECT_EQ(report_of(local_gate), "null(local_gate) null(not_configured)");

  RoundDriver lost = Started(Evaluated(EvaluationMode::kEvaluator));
  lost.CommitRound();
  lost.Leave("e");
  EXPECT_EQ(report_of(lost), "null(evaluator_lost) null(not_configured)");

  RoundDriver late = Started(Evaluated(EvaluationMode::kBoth));
  late.CommitRound();
  EXPECT_THAT(late.Tick(20'000), HasSubstr("cancel tasks=[3 4 5] round_over\n"));
  EXPECT_EQ(report_of(late), "null(timed_out) null(timed_out)");

  RoundDriver lost_clients = Started(Evaluated(EvaluationMode::kClients));
  lost_clients.CommitRound();
  lost_clients.Leave("a");
  lost_clients.Leave("b");
  EXPECT_EQ(report_of(lost_clients), "null(not_configured) null(clients_lost)");

  RoundDriver odd = Started(Evaluated(EvaluationMode::kEvaluator));
  odd.CommitRound();
  odd.Evaluate("e", 101, 100);
  EXPECT_EQ(report_of(odd), "null(bad_result) null(not_configured)");
}

// Under strategy none the experts keep their random initial values: they are no part of the model.
TEST(Evaluation, StrategyNoneEvaluatesTrunkAndHeadOnly) {
  RunOptions options = Evaluated(EvaluationMode::kBoth);
  options.alignment.strategy = AlignmentStrategy::kNone;
  RoundDriver run = Started(options);
  const std::string text = run.CommitRound();
  EXPECT_THAT(text, HasSubstr("dispatch e task=3 evaluate version=1 experts=[]\n"));
  EXPECT_THAT(text, HasSubstr("dispatch a task=4 evaluate version=1 experts=[]"));
  EXPECT_EQ(run.EvaluationOf("e").shards.size(), 1u) << "the trunk";
}

TEST(Evaluation, AbsurdResultsAreBadResults) {
  const double nan = std::nan("");
  const double infinity = std::numeric_limits<double>::infinity();
  struct Claim {
    double correct, loss, examples;
    bool good = false;
  };
  for (const Claim& claim :
       {Claim{50, 100, 100, true}, Claim{0, 1e8, 100, true}, Claim{1e12, 0, 1e12, true},
        Claim{nan, 1, 1}, Claim{1, nan, 1}, Claim{1, 1, nan}, Claim{1, infinity, 1},
        Claim{1, 1, infinity}, Claim{1, 1, 2e12}, Claim{0, 1, 0}, Claim{-1, 1, 1}, Claim{2, 1, 1},
        Claim{1, -1, 1}, Claim{50, 1.1e8, 100}}) {
    RoundDriver run = Started(Evaluated(EvaluationMode::kEvaluator));
    run.CommitRound();
    run.Apply(EvaluationReceived{.at_ms = 0,
                                 .task = run.EvaluationOf("e").task,
                                 .client = "e",
                                 .correct = claim.correct,
                                 .loss = claim.loss,
                                 .examples = claim.examples});
    const Metric accuracy = run.Last<Report>().report.global_accuracy;
    EXPECT_EQ(accuracy.value.has_value(), claim.good)
        << claim.correct << " " << claim.loss << " " << claim.examples;
    EXPECT_EQ(accuracy.reason, claim.good ? "" : "bad_result");
  }
}

TEST(Evaluation, IsDueEverySoManyRoundsAndAtTheLast) {
  RunOptions options = Evaluated(EvaluationMode::kEvaluator);
  options.evaluation.every_rounds = 2;
  RoundDriver run = Started(options);
  EXPECT_THAT(run.CommitRound(), HasSubstr("global=null(not_due)"));
  EXPECT_THAT(run.CommitRound(), HasSubstr("evaluate version=2"));
  EXPECT_THAT(run.CommitRound(), HasSubstr("evaluate version=3"));
}

TEST(Evaluation, ClientsDropTheOldVersionWhenANewOneIsOut) {
  RoundDriver run = Started(Evaluated(EvaluationMode::kClients), false);
  run.CommitRound();
  run.Evaluate("a", 70);
  const std::string text = run.CommitRound();
  EXPECT_THAT(text, HasSubstr("cancel tasks=[4] round_over\n"));
  EXPECT_THAT(text, HasSubstr("personalised=0.7"));
}

TEST(Evaluation, AReturningEvaluatorGetsItsOpenTaskAgain) {
  RoundDriver run = Started(Evaluated(EvaluationMode::kBoth));
  run.CommitRound();
  run.Leave("e");
  EXPECT_EQ(run.JoinEvaluator("e"),
            "admit e session=4 experts=4\ndispatch e task=3 evaluate version=1 "
            "experts=[0 1 2 3]\n");
}

TEST(End, TheLastRoundDrainsItsEvaluationThenCompletes) {
  RoundDriver run = Started(Evaluated(EvaluationMode::kEvaluator, 1));
  run.CommitRound();
  EXPECT_EQ(run.state.phase, Phase::kDraining);
  EXPECT_THAT(run.Evaluate("e", 50), HasSubstr("global=0.5 personalised=null(not_configured)\n"
                                               "finish completed\n"));
  EXPECT_EQ(run.state.status, RunStatus::kCompleted);
}

TEST(End, DrainFinishesAndEvaluatesTheRoundInHand) {
  RunOptions options = Evaluated(EvaluationMode::kEvaluator);
  options.evaluation.every_rounds = 100;
  RoundDriver run = Started(options);
  EXPECT_EQ(run.Stop(), "");
  EXPECT_THAT(run.CommitRound(), HasSubstr("dispatch e task=3 evaluate version=1"));
  EXPECT_THAT(run.Evaluate("e", 50),
              HasSubstr("finish stopped: stopped after round 1 as requested\n"));
}

TEST(End, DrainDoesNotTryAnAbortedRoundAgain) {
  RoundDriver run = Started(Evaluated(EvaluationMode::kNone), false);
  run.Stop();
  EXPECT_THAT(run.Tick(60'000), HasSubstr("cancel tasks=[1 2] round_aborted\n"
                                          "finish stopped: stopped after round 0 as requested\n"));
}

TEST(End, StopNowAbortsAndReportsWhatWasCommitted) {
  RoundDriver run = Started(Evaluated(EvaluationMode::kEvaluator));
  run.CommitRound();
  const std::string text = run.Stop(false);
  EXPECT_THAT(text, HasSubstr("abort round=2 attempt=1 run_stopped: the run was stopped\n"
                              "cancel tasks=[4 5] round_aborted\n"
                              "cancel tasks=[3] run_over\n"
                              "report round=1"));
  EXPECT_THAT(text, HasSubstr("global=null(run_over) personalised=null(not_configured)\n"
                              "finish stopped: stopped after round 1 as requested\n"));
  EXPECT_EQ(run.Stop(false), "");
  EXPECT_EQ(run.Tick(1'000'000), "");
}

TEST(Restart, NoTimePassesForDeadlinesAndEverybodyCountsAsHeard) {
  RoundDriver run = Started(Evaluated(EvaluationMode::kEvaluator));
  run.CommitRound();
  run.Tick(10'000);
  run.Update("a");
  const Milliseconds grace_end = run.state.cell_quorum_ms[kTrunkShard] + 5'000;
  run.now_ms += 1'000'000;
  EXPECT_EQ(run.Resume(), "");
  EXPECT_EQ(run.state.started_ms, 1'000'000);
  EXPECT_EQ(run.state.first_started_ms, 1'000'000);
  EXPECT_EQ(run.state.evaluations.at(1).deadline_ms, 1'020'000);
  EXPECT_EQ(run.state.clients["a"].last_heard_ms, 1'010'000);
  EXPECT_EQ(NextTickMs(run.state, run.options), grace_end + 1'000'000);
}

TEST(Restart, OutstandingIsWhatIsInHand) {
  RoundDriver run = Started(Evaluated(EvaluationMode::kEvaluator));
  run.CommitRound();
  run.Update("a");
  EXPECT_EQ(ToText(Outstanding(run.state, run.options)),
            "dispatch e task=3 evaluate version=1 experts=[0 1 2 3]\n" + TaskText(run.TaskOf("b")) +
                "\n");
  run.Evaluate("e", 50);
  run.Update("b");
  const std::string aggregate = ToText(run.Last<Aggregate>()) + "\n";
  EXPECT_EQ(ToText(Outstanding(run.state, run.options)), aggregate);
  EXPECT_EQ(run.Aggregate(), "write-checkpoint round=2\n");
  EXPECT_EQ(ToText(Outstanding(run.state, run.options)), aggregate) << "the files are gone";
  EXPECT_EQ(run.Aggregate(), "write-checkpoint round=2\n");
  EXPECT_FALSE(run.changed);
  std::vector<Digest> others = run.state.new_shards;
  others[0] = Sha256Of("other");
  EXPECT_THAT(run.Apply(Aggregated{.at_ms = 0, .round = 2, .shards = others}),
              HasSubstr("finish failed: aggregation of round 2 failed: done again, it gave other "
                        "shards than before\n"));
}

TEST(Restart, AStoppedRunGoesOnAndACompletedOneDoesNot) {
  RoundDriver stopped = Started(Evaluated(EvaluationMode::kNone), false);
  stopped.CommitRound();
  stopped.Stop(false);
  EXPECT_EQ(stopped.Resume(), "");
  EXPECT_EQ(stopped.state.phase, Phase::kSelection);
  EXPECT_EQ(stopped.state.status, RunStatus::kRunning);
  stopped.Join("a", 2);
  EXPECT_THAT(stopped.Join("b", 2), HasSubstr("train round=2 attempt=1"));

  RoundDriver completed = Started(Evaluated(EvaluationMode::kNone, 1), false);
  completed.CommitRound();
  EXPECT_EQ(ToText(Outstanding(completed.state, completed.options)), "finish completed\n");
  EXPECT_EQ(completed.Resume(), "");
  EXPECT_EQ(completed.state.phase, Phase::kFinished);
  completed.options.rounds = 2;
  EXPECT_EQ(ToText(Outstanding(completed.state, completed.options)), "");
  completed.Resume();
  EXPECT_EQ(completed.state.phase, Phase::kSelection) << "more rounds were asked for";
}

TEST(Names, AreStable) {
  EXPECT_STREQ(PhaseName(Phase::kCheckpointing), "checkpointing");
  EXPECT_STREQ(RunStatusName(RunStatus::kStopped), "stopped");
  EXPECT_STREQ(CellStateName(CellState::kAbandoned), "abandoned");
  EXPECT_STREQ(AbortReasonName(AbortReason::kIncomplete), "incomplete");
  EXPECT_EQ(TimeOf(Event{Tick{.at_ms = 42}}), 42);
}

}  // namespace
}  // namespace fedmoe
