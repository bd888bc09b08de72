// What a simulation says about its times.
#include "simulation/run_times.h"

#include <string>

#include <gtest/gtest.h>

#include "common/memory_file_system.h"

namespace fedmoe {
namespace {

TEST(RunTimesTest, OverheadIsWhatTheThreadsDidBesideTraining) {
  EXPECT_DOUBLE_EQ(
      (RunTimes{.threads = 2, .wall_s = 6.0, .training_s = 8.0, .evaluation_s = 2.0}).Overhead(),
      0.2);
  EXPECT_EQ((RunTimes{.threads = 2, .wall_s = 6.0}).Overhead(), 0.0);
}

TEST(RunTimesTest, DurationsReadAsAPersonSaysThem) {
  EXPECT_EQ(DurationText(0.04), "0.0 s");
  EXPECT_EQ(DurationText(59.94), "59.9 s");
  EXPECT_EQ(DurationText(61.0), "01 min 01 s");
  EXPECT_EQ(DurationText(3'723.4), "1 h 02 min 03 s");
  EXPECT_EQ(DurationText(360'000.0), "100 h 00 min 00 s");
}

TEST(RunTimesTest, TheTextEndsWithTheOverhead) {
  EXPECT_EQ(RunTimesText({.threads = 1,
                          .simulated_s = 90.0,
                          .wall_s = 11.0,
                          .training_s = 8.0,
                          .evaluation_s = 2.0}),
            "  simulated time         01 min 30 s\n"
            "  overhead               10.0 % over 8.0 s of training and 2.0 s of evaluation on 1 "
            "thread\n");
}

TEST(RunTimesTest, TheLogHasARowARound) {
  MemoryFileSystem files;
  auto log = RunTimesLog::Open(files, "run");
  ASSERT_TRUE(log.ok());
  RoundReport report;
  report.round = 3;
  report.seconds = 1.5;
  report.committed_ms = 12'250;
  report.train_loss = 0.25;
  report.global_accuracy.value = 0.875;
  ASSERT_TRUE(log->Append(report, 2.0).ok());
  EXPECT_EQ(*ReadFile(files, "run/simulation.csv", 1'000),
            "round,simulated_round_s,simulated_s,wall_s,train_loss,global_accuracy,"
            "personalised_accuracy\n3,1.500,12.250,2.000,0.25,0.875,\n");
}

}  // namespace
}  // namespace fedmoe
