// Clients that come and go in the course of a run.
#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "tests/simulation/virtual_fixture.h"

namespace fedmoe {
namespace {

// Each client needs some 3 s for a round.
const std::vector<std::string> kSlow = {"fleet.capacity.compute_gflops=0.0001"};

std::vector<std::string> WithTrace(const TempDir& directory, const std::string& rows,
                                   std::vector<std::string> overrides) {
  const std::string path = directory.File("trace.csv");
  std::ofstream(path) << "client,start_s,end_s\n" << rows;
  overrides.push_back("simulation.availability=trace");
  overrides.push_back("simulation.trace=" + path);
  return overrides;
}

TEST(PresenceTest, ARoundWaitsForEnoughClients) {
  TempDir directory;
  const Virtual run = RunSmall(WithTrace(directory,
                                         "client-00,0,1000\nclient-01,0,1000\n"
                                         "client-02,60,1000\nclient-03,90.5,1000\n",
                                         {"run.rounds=1"}));
  EXPECT_EQ(run.summary.status, "completed");
  EXPECT_EQ(run.times.simulated_s, 90.5);
  EXPECT_EQ(run.seen.reports.at(0).accepted, 4);
}

TEST(PresenceTest, WhoeverLeavesLosesItsTask) {
  TempDir directory;
  std::vector<std::string> overrides = kSlow;
  overrides.insert(overrides.end(), {"run.rounds=1", "run.quorum=0.5", "run.grace_s=1000"});
  const Virtual run = RunSmall(WithTrace(directory,
                                         "client-00,0,1000\nclient-01,0,1\n"
                                         "client-02,0,1000\nclient-03,0,1000\n",
                                         overrides));
  EXPECT_EQ(run.summary.status, "completed");
  const RoundReport& report = run.seen.reports.at(0);
  EXPECT_EQ(OutcomeOf(report, "client-01"), "lost");
  EXPECT_EQ(report.accepted, 3);
  EXPECT_GT(report.seconds, 1.0);
}

TEST(PresenceTest, WhoeverComesBackInTimeDoesItsTaskAgainFromTheStart) {
  TempDir directory;
  std::vector<std::string> overrides = kSlow;
  overrides.insert(overrides.end(), {"run.rounds=1", "run.quorum=1"});
  const Virtual alone = RunSmall(overrides);
  const double task_s = alone.seen.reports.at(0).seconds;
  ASSERT_GT(task_s, 2.0);
  const Virtual run = RunSmall(WithTrace(directory,
                                         "client-00,0,1000\nclient-01,0,1\nclient-01,2,1000\n"
                                         "client-02,0,1000\nclient-03,0,1000\n",
                                         overrides));
  EXPECT_EQ(run.summary.status, "completed");
  EXPECT_EQ(run.seen.reports.at(0).accepted, 4);
  EXPECT_NEAR(run.seen.reports.at(0).seconds, 2.0 + task_s, 0.001);
  EXPECT_EQ(run.summary.model_digest, alone.summary.model_digest);
}

TEST(PresenceTest, TheDeadlineLeavesBehindWhoComesBackTooLate) {
  TempDir directory;
  std::vector<std::string> overrides = kSlow;
  overrides.insert(overrides.end(),
                   {"run.rounds=1", "run.quorum=0.5", "run.grace_s=1000", "run.deadline_s=5"});
  const Virtual run = RunSmall(WithTrace(directory,
                                         "client-00,0,1000\nclient-01,0,1\nclient-01,2.5,1000\n"
                                         "client-02,0,1000\nclient-03,0,1000\n",
                                         overrides));
  const RoundReport& report = run.seen.reports.at(0);
  EXPECT_EQ(OutcomeOf(report, "client-01"), "expired");
  EXPECT_EQ(report.accepted, 3);
  EXPECT_EQ(report.seconds, 5.0);
}

TEST(PresenceTest, ARunThatNobodyComesToFails) {
  TempDir directory;
  const Virtual run =
      RunSmall(WithTrace(directory, "client-00,0,1000\nclient-02,5,1000\n", {"run.clients.min=3"}));
  EXPECT_EQ(run.summary.status, "failed");
  EXPECT_EQ(run.summary.detail,
            "round 1 cannot begin: 0 trainers are there, run.clients.min is 3, and more do not "
            "come");
}

TEST(PresenceTest, ARunThatNeverHasEnoughAtOnceEndsAfterAHundredDays) {
  const Virtual run = RunSmall({"simulation.availability=daily", "simulation.online_share=0.0001"});
  EXPECT_EQ(run.summary.status, "failed");
  EXPECT_GT(run.times.simulated_s, 100.0 * 86'400.0);
  EXPECT_LT(run.times.simulated_s, 102.0 * 86'400.0);
}

TEST(PresenceTest, DaysAreLivedThrough) {
  std::vector<std::string> overrides = {"fleet.capacity.compute_gflops=0.0000001",
                                        "simulation.availability=daily",
                                        "simulation.online_share=0.6",
                                        "run.clients.min=2",
                                        "run.quorum=0.5",
                                        "run.max_aborts=1000"};
  const Virtual run = RunSmall(overrides);
  EXPECT_EQ(run.summary.status, "completed");
  EXPECT_GT(run.times.simulated_s, 3'600.0);
  for (const RoundReport& report : run.seen.reports) EXPECT_GE(report.accepted, 1);
}

}  // namespace
}  // namespace fedmoe
