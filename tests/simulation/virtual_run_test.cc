// Rounds in virtual time.
#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/simulation/virtual_fixture.h"

namespace fedmoe {
namespace {

// What capacity.h predicts for the report's clients, seconds.
std::vector<double> Predicted(const RoundReport& report,
                              const std::vector<std::string>& overrides) {
  const auto config = LoadCoordinator(kSmall, overrides);
  const auto spec = BuildModelSpec(config->model);
  std::vector<double> seconds;
  for (const ClientReport& client : report.clients) {
    seconds.push_back(PredictRoundSeconds(client.profile, *spec, config->run.training,
                                          static_cast<int>(client.experts.size())));
  }
  return seconds;
}

TEST(VirtualRunTest, WithoutRatesTimeStandsStill) {
  const Virtual run = RunSmall({});
  EXPECT_EQ(run.summary.status, "completed");
  EXPECT_EQ(run.summary.rounds, 3);
  ASSERT_EQ(run.seen.reports.size(), 3u);
  for (const RoundReport& report : run.seen.reports) {
    EXPECT_EQ(report.accepted, 4);
    EXPECT_EQ(report.seconds, 0.0);
  }
  EXPECT_EQ(run.times.simulated_s, 0.0);
  EXPECT_EQ(run.times.clients, 4);
  EXPECT_GT(run.times.training_s, 0.0);
}

TEST(VirtualRunTest, ARoundTakesAsLongAsItsSlowestClientIsPredictedTo) {
  const std::vector<std::string> rates = {"fleet.capacity.down_mbps=[1, 0.1, 5, 2]",
                                          "fleet.capacity.up_mbps=0.5",
                                          "fleet.capacity.compute_gflops=0.01"};
  const Virtual run = RunSmall(rates);
  ASSERT_EQ(run.seen.reports.size(), 3u);
  double total = 0.0;
  for (const RoundReport& report : run.seen.reports) {
    const std::vector<double> predicted = Predicted(report, rates);
    const double slowest = *std::max_element(predicted.begin(), predicted.end());
    EXPECT_GT(slowest, 0.1);
    EXPECT_NEAR(report.seconds, slowest, 0.001);
    total += report.seconds;
    EXPECT_NEAR(static_cast<double>(report.committed_ms) / 1000.0, total, 0.005);
  }
  EXPECT_NEAR(run.times.simulated_s, total, 0.005);
}

TEST(VirtualRunTest, TheGraceAfterTheQuorumLeavesAStragglerBehind) {
  const std::vector<std::string> rates = {"fleet.capacity.down_mbps=[10, 0.001, 10, 10]",
                                          "run.quorum=0.5", "run.grace_s=2"};
  const Virtual run = RunSmall(rates);
  ASSERT_EQ(run.seen.reports.size(), 3u);
  for (const RoundReport& report : run.seen.reports) {
    EXPECT_EQ(report.accepted, 3);
    EXPECT_EQ(OutcomeOf(report, "client-01"), "expired");
    std::vector<double> predicted = Predicted(report, rates);
    std::sort(predicted.begin(), predicted.end());
    EXPECT_GT(predicted[3], 10.0);
    EXPECT_GE(report.seconds, 2.0);
    EXPECT_LE(report.seconds, 2.0 + predicted[2] + 0.001);
  }
}

TEST(VirtualRunTest, TheThreadsChangeNothing) {
  const std::vector<std::string> overrides = {
      "simulation.devices.phone=1", "simulation.devices.laptop=1",
      "simulation.dropout=0.3",     "run.quorum=0.25",
      "run.clients.min=3",          "run.clients.per_round=3",
      "evaluation.mode=both",       "fleet.evaluators=1",
      "fleet.test_examples=64"};
  const Virtual one = RunSmall(overrides, 1);
  const Virtual three = RunSmall(overrides, 3);
  EXPECT_EQ(one.summary.status, "completed");
  EXPECT_EQ(one.summary.model_digest, three.summary.model_digest);
  EXPECT_EQ(one.summary.final_accuracy, three.summary.final_accuracy);
  EXPECT_EQ(one.summary.bytes_down, three.summary.bytes_down);
  EXPECT_EQ(one.times.simulated_s, three.times.simulated_s);
  const Virtual other = RunSmall({"run.seed=2"}, 1);
  EXPECT_NE(one.summary.model_digest, other.summary.model_digest);
}

// To rounding, so the digests differ; that they do shows that it was the other path.
TEST(VirtualRunTest, TensorOperatorsLearnWhatTheKernelsDo) {
  const std::vector<std::string> overrides = {
      "run.rounds=8",       "fleet.data.domains.examples=256", "training.epochs=2",
      "fleet.evaluators=1", "fleet.test_examples=512",         "evaluation.mode=both"};
  const Virtual kernels = RunSmall(overrides);
  const Virtual tensor_ops =
      RunSmall(overrides, 2, {.path = ComputePath::kTensorOps, .device = "cpu"});
  EXPECT_EQ(tensor_ops.summary.status, "completed");
  EXPECT_NE(tensor_ops.summary.model_digest, kernels.summary.model_digest);
  ASSERT_TRUE(kernels.summary.final_accuracy && tensor_ops.summary.final_accuracy);
  EXPECT_GT(*kernels.summary.final_accuracy, 0.3) << "of 8 classes";
  EXPECT_NEAR(*kernels.summary.final_accuracy, *tensor_ops.summary.final_accuracy, 0.01);
  EXPECT_NEAR(*kernels.summary.final_loss, *tensor_ops.summary.final_loss, 0.005);
  EXPECT_EQ(tensor_ops.summary.bytes_up, kernels.summary.bytes_up);
}

TEST(VirtualRunTest, AClientThatDropsOutIsMissedAfterItsSilence) {
  const Virtual run = RunSmall({"simulation.dropout=0.4", "run.quorum=0.25", "run.rounds=12",
                                "run.heartbeat_timeout_s=9", "run.grace_s=1000"});
  EXPECT_EQ(run.summary.status, "completed");
  int lost = 0;
  for (const RoundReport& report : run.seen.reports) {
    const int missing = 4 - report.accepted;
    lost += missing;
    EXPECT_EQ(report.seconds, missing > 0 ? 9.0 : 0.0);
    for (const ClientReport& client : report.clients) {
      EXPECT_TRUE(client.outcome == "accepted" || client.outcome == "lost") << client.outcome;
    }
  }
  EXPECT_GT(lost, 5) << "of 48 tasks, 19 are to be expected";
  EXPECT_LT(lost, 35);
}

TEST(VirtualRunTest, DownloadsCountOnlyWhatAClientLacks) {
  const Virtual all =
      RunSmall({"run.rounds=1", "alignment.strategy=full", "fleet.capacity.max_experts=0"});
  const auto config = LoadCoordinator(kSmall);
  const auto spec = BuildModelSpec(config->model);
  std::uint64_t model = 0;
  for (int shard = 0; shard < spec->ShardCount(); ++shard) {
    model += static_cast<std::uint64_t>(spec->ShardBytes(shard));
  }
  EXPECT_EQ(all.summary.bytes_down, 4 * model);
  // The second time for the evaluation of the version that is new to all.
  const Virtual evaluated = RunSmall({"run.rounds=1", "alignment.strategy=full",
                                      "fleet.capacity.max_experts=0", "evaluation.mode=clients"});
  EXPECT_EQ(evaluated.summary.bytes_down, 8 * model);
}

TEST(VirtualRunTest, AnAttemptWithoutQuorumIsAbortedAndCounted) {
  const Virtual run = RunSmall({"simulation.dropout=0.9", "run.max_aborts=2", "run.rounds=50"});
  EXPECT_EQ(run.summary.status, "failed");
  EXPECT_GE(run.seen.aborts.size(), 2u);
  EXPECT_NE(run.summary.detail.find("was aborted 2 times"), std::string::npos)
      << run.summary.detail;
}

}  // namespace
}  // namespace fedmoe
