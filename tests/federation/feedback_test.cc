#include "federation/feedback.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace fedmoe {
namespace {

// Of a model with three experts, of which the task holds 0 and 2.
TrainingFeedback Honest() {
  return {.examples = 100,
          .steps = 4,
          .train_loss = 1.5,
          .train_accuracy = 0.5,
          .tokens = {150.0, 0.0, 50.0},
          .expert_loss = {1.0, 0.0, 2.0},
          .expert_accuracy = {0.75, 0.0, 1.0},
          .affinity = {0.5, 0.2, 0.3},
          .train_s = 2.5,
          .down_bytes_per_s = 1e6,
          .up_bytes_per_s = 0.0};
}

Status Validate(const TrainingFeedback& feedback) {
  return ValidateFeedback(feedback, ModelSpec{.experts = 3, .layers = 1}, {0, 2});
}

TEST(ValidateFeedback, AcceptsAnHonestClient) {
  EXPECT_EQ(Validate(Honest()), Status::Ok());
  TrainingFeedback feedback = Honest();
  feedback.affinity.clear();  // a client may have none to tell
  EXPECT_EQ(Validate(feedback), Status::Ok());
  feedback = {.tokens = {0, 0, 0}, .expert_loss = {0, 0, 0}, .expert_accuracy = {0, 0, 0}};
  EXPECT_EQ(Validate(feedback), Status::Ok()) << "no examples, nothing trained";
}

TEST(ValidateFeedback, AsksForOneSumOfAffinityInEachLayer) {
  const ModelSpec spec{.experts = 4, .layers = 2};
  TrainingFeedback feedback{.tokens = {0, 0, 0, 0},
                            .expert_loss = {0, 0, 0, 0},
                            .expert_accuracy = {0, 0, 0, 0},
                            .affinity = {0.25, 0.75, 0.5, 0.5}};
  EXPECT_EQ(ValidateFeedback(feedback, spec, {}), Status::Ok());
  feedback.affinity = {0.25, 0.75, 0.25, 0.25};
  EXPECT_EQ(ValidateFeedback(feedback, spec, {}),
            InvalidArgument("feedback.affinity of layer 1 sums to 0.5, must be 0.99 to 1.01"));
  feedback.affinity = {0.25, 0.25, 0.25, 0.25};  // one over all, which is not asked for
  EXPECT_EQ(ValidateFeedback(feedback, spec, {}),
            InvalidArgument("feedback.affinity of layer 0 sums to 0.5, must be 0.99 to 1.01"));
}

TEST(ValidateFeedback, TakesAnEmptyListFromADenseModel) {
  EXPECT_EQ(ValidateFeedback({.examples = 5}, ModelSpec{.experts = 0, .layers = 0}, {}),
            Status::Ok());
}

struct Case {
  void (*change)(TrainingFeedback&);
  const char* message;
};

class BadFeedback : public testing::TestWithParam<Case> {};

TEST_P(BadFeedback, IsRefusedByTheNameOfTheField) {
  TrainingFeedback feedback = Honest();
  GetParam().change(feedback);
  EXPECT_EQ(Validate(feedback), InvalidArgument(GetParam().message));
}

using F = TrainingFeedback;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

INSTANTIATE_TEST_SUITE_P(
    Fields, BadFeedback,
    testing::Values(
        Case{[](F& f) { f.examples = -1; }, "feedback.examples is -1, must be 0 to 1000000000000"},
        Case{[](F& f) { f.steps = -2; }, "feedback.steps is -2, must be 0 to 1000000000000"},
        Case{[](F& f) { f.train_loss = kInfinity; },
             "feedback.train_loss is inf, must be 0 to 1e+06"},
        Case{[](F& f) { f.train_loss = -0.5; }, "feedback.train_loss is -0.5, must be 0 to 1e+06"},
        Case{[](F& f) { f.train_accuracy = 1.5; },
             "feedback.train_accuracy is 1.5, must be 0 to 1"},
        Case{[](F& f) { f.train_accuracy = NAN; },
             "feedback.train_accuracy is nan, must be 0 to 1"},
        Case{[](F& f) { f.tokens.push_back(0); },
             "feedback.tokens has 4 entries, the model has 3 experts"},
        Case{[](F& f) { f.expert_loss.clear(); },
             "feedback.expert_loss has 0 entries, the model has 3 experts"},
        Case{[](F& f) { f.expert_accuracy.pop_back(); },
             "feedback.expert_accuracy has 2 entries, the model has 3 experts"},
        Case{[](F& f) { f.tokens[2] = -1; }, "feedback.tokens[2] is -1, must be 0 to 1e+18"},
        Case{[](F& f) { f.tokens[0] = NAN; }, "feedback.tokens[0] is nan, must be 0 to 1e+18"},
        Case{[](F& f) { f.tokens[1] = 7; },
             "feedback.tokens[1] is 7, but the task does not hold expert 1"},
        Case{[](F& f) { f.tokens[0] = 2e8; },
             "feedback.tokens[0] is 2e+08, more than 1e+08 for 100 examples"},
        Case{[](F& f) { f.examples = 0; }, "feedback.tokens[0] is 150, more than 0 for 0 examples"},
        Case{[](F& f) { f.expert_loss[2] = -kInfinity; },
             "feedback.expert_loss[2] is -inf, must be 0 to 1e+06"},
        Case{[](F& f) { f.expert_accuracy[0] = -0.25; },
             "feedback.expert_accuracy[0] is -0.25, must be 0 to 1"},
        Case{[](F& f) { f.affinity = {1.0}; },
             "feedback.affinity has 1 entries, the model has 3 experts"},
        Case{[](F& f) {
               f.affinity = {1.5, -0.5, 0.0};
             },
             "feedback.affinity[0] is 1.5, must be 0 to 1"},
        Case{[](F& f) {
               f.affinity = {0.5, 0.25, 0.125};
             },
             "feedback.affinity sums to 0.875, must be 0.99 to 1.01"},
        Case{[](F& f) {
               f.affinity = {0.5, 0.5, 0.125};
             },
             "feedback.affinity sums to 1.125, must be 0.99 to 1.01"},
        Case{[](F& f) { f.train_s = -1; }, "feedback.train_s is -1, must be 0 to 1e+09"},
        Case{[](F& f) { f.down_bytes_per_s = NAN; },
             "feedback.down_bytes_per_s is nan, must be 0 (not known) or 1 to 1e+15"},
        Case{[](F& f) { f.up_bytes_per_s = kInfinity; },
             "feedback.up_bytes_per_s is inf, must be 0 (not known) or 1 to 1e+15"},
        Case{[](F& f) { f.examples = 2'000'000'000'000; },
             "feedback.examples is 2000000000000, must be 0 to 1000000000000"},
        Case{[](F& f) { f.steps = 2'000'000'000'000; },
             "feedback.steps is 2000000000000, must be 0 to 1000000000000"},
        Case{[](F& f) { f.train_loss = 2e6; }, "feedback.train_loss is 2e+06, must be 0 to 1e+06"},
        Case{[](F& f) { f.expert_loss[0] = 1e300; },
             "feedback.expert_loss[0] is 1e+300, must be 0 to 1e+06"},
        Case{[](F& f) { f.train_s = 1e10; }, "feedback.train_s is 1e+10, must be 0 to 1e+09"},
        Case{[](F& f) { f.down_bytes_per_s = 1e-300; },
             "feedback.down_bytes_per_s is 1e-300, must be 0 (not known) or 1 to 1e+15"},
        Case{[](F& f) { f.up_bytes_per_s = 1e16; },
             "feedback.up_bytes_per_s is 1e+16, must be 0 (not known) or 1 to 1e+15"}));

}  // namespace
}  // namespace fedmoe
