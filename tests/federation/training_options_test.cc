#include "federation/training_options.h"

#include <gtest/gtest.h>

#include "federation/task.h"

namespace fedmoe {
namespace {

TEST(LearningRateAt, IsConstantUnlessAsked) {
  const TrainingOptions options{.learning_rate = 0.25};
  EXPECT_EQ(LearningRateAt(options, 1, 10), 0.25);
  EXPECT_EQ(LearningRateAt(options, 10, 10), 0.25);
}

TEST(LearningRateAt, FallsAlongACosineToTheFinalFraction) {
  const TrainingOptions options{.learning_rate = 0.8,
                                .schedule = LearningRateSchedule::kCosine,
                                .final_learning_rate_fraction = 0.25};
  EXPECT_DOUBLE_EQ(LearningRateAt(options, 1, 7), 0.8);
  // A third of the way: cos(pi / 3) = 1/2, so three quarters of the way from 0.2 up to 0.8.
  EXPECT_DOUBLE_EQ(LearningRateAt(options, 3, 7), 0.65);
  EXPECT_DOUBLE_EQ(LearningRateAt(options, 4, 7), 0.5);
  EXPECT_DOUBLE_EQ(LearningRateAt(options, 5, 7), 0.35);
  EXPECT_DOUBLE_EQ(LearningRateAt(options, 7, 7), 0.2);
}

TEST(LearningRateAt, StaysWithinTheRun) {
  const TrainingOptions options{.learning_rate = 0.8,
                                .schedule = LearningRateSchedule::kCosine,
                                .final_learning_rate_fraction = 0.25};
  EXPECT_DOUBLE_EQ(LearningRateAt(options, 9, 7), 0.2);
  EXPECT_EQ(LearningRateAt(options, 1, 1), 0.8);
}

TEST(CancelReasons, HaveNames) {
  EXPECT_STREQ(CancelReasonName(CancelReason::kRoundOver), "round_over");
  EXPECT_STREQ(CancelReasonName(CancelReason::kRoundAborted), "round_aborted");
  EXPECT_STREQ(CancelReasonName(CancelReason::kSuperseded), "superseded");
  EXPECT_STREQ(CancelReasonName(CancelReason::kRunOver), "run_over");
  EXPECT_STREQ(CancelReasonName(CancelReason::kTimedOut), "timed_out");
}

}  // namespace
}  // namespace fedmoe
