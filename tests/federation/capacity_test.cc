#include "federation/capacity.h"

#include <cmath>
#include <limits>
#include <ostream>
#include <string>

#include <gtest/gtest.h>

namespace fedmoe {
namespace {

// Trunk 1000 values, four experts of 500, top-2.
ModelSpec Spec() {
  ModelSpec spec;
  spec.preset = "test";
  spec.experts = 4;
  spec.top_k = 2;
  spec.blocks.push_back({.name = "trunk.weight", .shape = {10, 100}});
  for (int e = 0; e < 4; ++e) {
    spec.blocks.push_back({.name = "experts." + std::to_string(e) + ".weight",
                           .shape = {50, 10},
                           .owner = BlockOwner::kExpert,
                           .expert = e,
                           .merge = MergeRule::kByTokens});
  }
  spec.trunk_flops = 2000.0;
  spec.expert_flops = 1000.0;
  spec.trunk_activations = 100.0;
  spec.expert_activations = 50.0;
  return spec;
}

TrainingOptions Training() { return {.momentum = 0.9, .batch_size = 10, .epochs = 2}; }

// Parameters x 4 bytes x (value, gradient, received copy, momentum) + activations x 10 examples x
// (value, gradient) x 4 bytes:
//   k = 0: 1000 * 16 + 100 * 80 = 24,000        k = 1: 1500 * 16 + 150 * 80 = 36,000
//   k = 2: 2000 * 16 + 200 * 80 = 48,000        k = 3: 2500 * 16 + 200 * 80 = 56,000
//   k = 4: 3000 * 16 + 200 * 80 = 64,000
TEST(PredictMemoryBytes, CountsParametersAndActivationsOfTopK) {
  const double expected[] = {24'000, 36'000, 48'000, 56'000, 64'000};
  for (int k = 0; k <= 4; ++k) {
    EXPECT_EQ(PredictMemoryBytes(Spec(), Training(), k), expected[k]) << "k = " << k;
  }
}

// Two layers of two experts, top-1: k experts run as 0, 1, 2, 2, 2 for each of 3 tokens.
//   k = 0: 1000 * 16 + 100 * 80 = 24,000        k = 1: 1500 * 16 + 250 * 80 = 44,000
//   k = 2: 2000 * 16 + 400 * 80 = 64,000        k = 3: 2500 * 16 + 400 * 80 = 72,000
//   k = 4: 3000 * 16 + 400 * 80 = 80,000
TEST(PredictMemoryBytes, CountsTheActiveExpertsOfEachLayerForEachToken) {
  ModelSpec spec = Spec();
  spec.layers = 2;
  spec.top_k = 1;
  spec.tokens_per_example = 3;
  const double expected[] = {24'000, 44'000, 64'000, 72'000, 80'000};
  for (int k = 0; k <= 4; ++k) {
    EXPECT_EQ(PredictMemoryBytes(spec, Training(), k), expected[k]) << "k = " << k;
  }
}

TEST(ActiveExperts, AreTheLeastOfTopKAndAnEvenShareOfEachLayer) {
  ModelSpec spec;
  spec.experts = 12;
  spec.layers = 3;
  spec.top_k = 2;
  const int expected[] = {0, 1, 2, 3, 4, 5, 6, 6, 6, 6, 6, 6, 6};
  for (int k = 0; k <= 12; ++k) EXPECT_EQ(ActiveExperts(spec, k), expected[k]) << "k = " << k;
  EXPECT_EQ(ActiveExperts(ModelSpec{.experts = 0, .layers = 0}, 0), 0);
}

TEST(ActiveExperts, RiseWithTheExpertsHeld) {
  for (int layers = 1; layers <= 4; ++layers) {
    for (int top_k = 1; top_k <= 3; ++top_k) {
      const ModelSpec spec{.experts = layers * 3, .layers = layers, .top_k = top_k};
      for (int k = 0; k < spec.experts; ++k) {
        EXPECT_LE(ActiveExperts(spec, k), ActiveExperts(spec, k + 1));
      }
    }
  }
}

TEST(PredictMemoryBytes, CountsTheOptimizersSlots) {
  TrainingOptions training = Training();
  training.momentum = 0.0;  // 3 copies
  EXPECT_EQ(PredictMemoryBytes(Spec(), training, 1), 1500 * 12 + 150 * 80);
  training.optimizer = LocalOptimizer::kAdamW;  // 5 copies
  EXPECT_EQ(PredictMemoryBytes(Spec(), training, 1), 1500 * 20 + 150 * 80);
}

TEST(PredictMemoryBytes, CountsALocalGateThatNeverTravels) {
  ModelSpec spec = Spec();
  spec.blocks.push_back({.name = "gate.weight", .shape = {4, 25}, .owner = BlockOwner::kClient});
  EXPECT_EQ(PredictMemoryBytes(spec, Training(), 1), 1600 * 16 + 150 * 80);
  const CapacityProfile profile{.down_bytes_per_s = 1000.0};
  EXPECT_EQ(PredictRoundSeconds(profile, spec, Training(), 1), 6.0);
}

TEST(PredictRoundSeconds, CountsTheActiveExpertsOfEachLayerForEachToken) {
  ModelSpec spec = Spec();
  spec.layers = 2;
  spec.top_k = 1;
  spec.tokens_per_example = 3;
  const CapacityProfile profile{.compute_flops_per_s = 1.2e6, .examples = 100};
  // 3 * 200 * (2,000 + 3 * active * 1,000), active 0, 1, 2, 2, 2.
  const double expected[] = {1.0, 2.5, 4.0, 4.0, 4.0};
  for (int k = 0; k <= 4; ++k) {
    EXPECT_DOUBLE_EQ(PredictRoundSeconds(profile, spec, Training(), k), expected[k]) << "k = " << k;
  }
}

// Bytes each way: 4,000 + k * 2,000. Operations of 100 examples in 2 passes, forward and backward:
// 3 * 200 * (2,000 + min(k, 2) * 1,000) = 1.2e6, 1.8e6, 2.4e6, 2.4e6, 2.4e6.
TEST(PredictRoundSeconds, AddsDownloadTrainingAndUpload) {
  const CapacityProfile profile{.compute_flops_per_s = 1.2e6,
                                .down_bytes_per_s = 2000.0,
                                .up_bytes_per_s = 1000.0,
                                .examples = 100};
  const double expected[] = {2 + 1 + 4, 3 + 1.5 + 6, 4 + 2 + 8, 5 + 2 + 10, 6 + 2 + 12};
  for (int k = 0; k <= 4; ++k) {
    EXPECT_DOUBLE_EQ(PredictRoundSeconds(profile, Spec(), Training(), k), expected[k])
        << "k = " << k;
  }
}

TEST(PredictRoundSeconds, CountsWhatIsNotKnownAsNothing) {
  EXPECT_EQ(PredictRoundSeconds({.examples = 100}, Spec(), Training(), 4), 0.0);
  EXPECT_EQ(PredictRoundSeconds({.up_bytes_per_s = 1000.0, .examples = 100}, Spec(), Training(), 4),
            12.0);
}

struct Case {
  const char* what;
  CapacityProfile profile;
  Milliseconds deadline_ms;
  int experts;
  bool fits_trunk;
  CapacityReason reason;
  double memory_bytes;
  double round_s;
};

void PrintTo(const Case& row, std::ostream* out) { *out << row.what; }

class CapacityTable : public testing::TestWithParam<Case> {};

TEST_P(CapacityTable, GivesTheExpertsThatFitMemoryAndDeadline) {
  const Case& row = GetParam();
  const CapacityDecision decision =
      DeriveCapacity(row.profile, Spec(), Training(), row.deadline_ms);
  EXPECT_EQ(decision.experts, row.experts);
  EXPECT_EQ(decision.fits_trunk, row.fits_trunk);
  EXPECT_STREQ(CapacityReasonName(decision.reason), CapacityReasonName(row.reason));
  EXPECT_EQ(decision.memory_bytes, row.memory_bytes);
  EXPECT_DOUBLE_EQ(decision.round_s, row.round_s);
}

// The profile of the tables: it fits all four experts in 64,000 bytes and 6 + 2 + 12 = 20 s.
CapacityProfile Profile() {
  return {.memory_bytes = 64'000,
          .compute_flops_per_s = 1.2e6,
          .down_bytes_per_s = 2000.0,
          .up_bytes_per_s = 1000.0,
          .examples = 100};
}

CapacityProfile With(CapacityProfile profile, void (*change)(CapacityProfile&)) {
  change(profile);
  return profile;
}

using P = CapacityProfile;
using R = CapacityReason;

INSTANTIATE_TEST_SUITE_P(
    ByMemoryAlone, CapacityTable,
    testing::Values(Case{"all", Profile(), 20'000, 4, true, R::kAllExperts, 64'000, 20.0},
                    Case{"a byte short", With(Profile(), [](P& p) { p.memory_bytes = 63'999; }),
                         20'000, 3, true, R::kMemory, 56'000, 17.0},
                    Case{"two", With(Profile(), [](P& p) { p.memory_bytes = 48'000; }), 20'000, 2,
                         true, R::kMemory, 48'000, 14.0},
                    Case{"trunk only", With(Profile(), [](P& p) { p.memory_bytes = 24'000; }),
                         20'000, 0, true, R::kMemory, 24'000, 7.0},
                    Case{"nothing", With(Profile(), [](P& p) { p.memory_bytes = 23'999; }), 20'000,
                         0, false, R::kTrunkMemory, 24'000, 7.0},
                    Case{"not known", With(Profile(), [](P& p) { p.memory_bytes = 0; }), 20'000, 4,
                         true, R::kAllExperts, 64'000, 20.0}));

INSTANTIATE_TEST_SUITE_P(
    ByDeadlineAlone, CapacityTable,
    testing::Values(Case{"a millisecond short", Profile(), 19'999, 3, true, R::kDeadline, 56'000,
                         17.0},
                    Case{"two", Profile(), 14'000, 2, true, R::kDeadline, 48'000, 14.0},
                    Case{"one", Profile(), 13'999, 1, true, R::kDeadline, 36'000, 10.5},
                    Case{"trunk only", Profile(), 7'000, 0, true, R::kDeadline, 24'000, 7.0},
                    Case{"nothing", Profile(), 6'999, 0, false, R::kTrunkDeadline, 24'000, 7.0},
                    Case{"no deadline", Profile(), 0, 4, true, R::kAllExperts, 64'000, 20.0}));

INSTANTIATE_TEST_SUITE_P(
    ByBandwidthAlone, CapacityTable,
    testing::Values(
        // Download at half the speed: 4 + 1 + 4, 6 + 1.5 + 6, 8 + 2 + 8, 10 + 2 + 10.
        Case{"slow download", With(Profile(), [](P& p) { p.down_bytes_per_s = 1000.0; }), 20'000, 2,
             true, R::kDeadline, 48'000, 18.0},
        // Upload at half: 2 + 1 + 8, 3 + 1.5 + 12, 4 + 2 + 16.
        Case{"slow upload", With(Profile(), [](P& p) { p.up_bytes_per_s = 500.0; }), 20'000, 1,
             true, R::kDeadline, 36'000, 16.5},
        Case{"upload not known", With(Profile(), [](P& p) { p.up_bytes_per_s = 0.0; }), 20'000, 4,
             true, R::kAllExperts, 64'000, 8.0}));

INSTANTIATE_TEST_SUITE_P(ByComputeAndDataAlone, CapacityTable,
                         testing::Values(
                             // A quarter of the rate: 2 + 4 + 4, 3 + 6 + 6, 4 + 8 + 8, 5 + 8 + 10.
                             Case{"slow computer",
                                  With(Profile(), [](P& p) { p.compute_flops_per_s = 0.3e6; }),
                                  20'000, 2, true, R::kDeadline, 48'000, 20.0},
                             // Six times the data: 2 + 6 + 4, 3 + 9 + 6, 4 + 12 + 8.
                             Case{"much data", With(Profile(), [](P& p) { p.examples = 600; }),
                                  20'000, 1, true, R::kDeadline, 36'000, 18.0},
                             Case{"no data", With(Profile(), [](P& p) { p.examples = 0; }), 20'000,
                                  4, true, R::kAllExperts, 64'000, 18.0}));

INSTANTIATE_TEST_SUITE_P(
    ByDeclaredCapAlone, CapacityTable,
    testing::Values(Case{"three", With(Profile(), [](P& p) { p.max_experts = 3; }), 20'000, 3, true,
                         R::kDeclared, 56'000, 17.0},
                    Case{"one", With(Profile(), [](P& p) { p.max_experts = 1; }), 20'000, 1, true,
                         R::kDeclared, 36'000, 10.5},
                    Case{"more than there are", With(Profile(), [](P& p) { p.max_experts = 9; }),
                         20'000, 4, true, R::kAllExperts, 64'000, 20.0},
                    Case{"memory is the tighter",
                         With(Profile(),
                              [](P& p) {
                                p.max_experts = 3;
                                p.memory_bytes = 48'000;
                              }),
                         20'000, 2, true, R::kMemory, 48'000, 14.0}));

TEST(CapacityReasons, HaveNames) {
  EXPECT_STREQ(CapacityReasonName(CapacityReason::kAllExperts), "all_experts");
  EXPECT_STREQ(CapacityReasonName(CapacityReason::kDeclared), "declared");
  EXPECT_STREQ(CapacityReasonName(CapacityReason::kMemory), "memory");
  EXPECT_STREQ(CapacityReasonName(CapacityReason::kDeadline), "deadline");
  EXPECT_STREQ(CapacityReasonName(CapacityReason::kTrunkMemory), "trunk_memory");
  EXPECT_STREQ(CapacityReasonName(CapacityReason::kTrunkDeadline), "trunk_deadline");
}

TEST(PredictRoundSeconds, IsFiniteWhateverTheProfileSays) {
  const double tiny = std::numeric_limits<double>::denorm_min();
  const CapacityProfile profile{.compute_flops_per_s = tiny,
                                .down_bytes_per_s = tiny,
                                .up_bytes_per_s = tiny,
                                .examples = std::numeric_limits<std::int64_t>::max()};
  EXPECT_EQ(PredictRoundSeconds(profile, Spec(), Training(), 4), 3.15e13);
}

struct ProfileCase {
  void (*change)(CapacityProfile&);
  const char* message;  // empty: the profile is good
};

class ProfileClaim : public testing::TestWithParam<ProfileCase> {};

TEST_P(ProfileClaim, IsBoundedByTheNameOfTheField) {
  CapacityProfile profile{.memory_bytes = 1'000'000,
                          .compute_flops_per_s = 1e9,
                          .down_bytes_per_s = 1e6,
                          .up_bytes_per_s = 1e6,
                          .examples = 100,
                          .max_experts = 2,
                          .device = "cpu, 2 threads"};
  GetParam().change(profile);
  const std::string message = GetParam().message;
  EXPECT_EQ(ValidateProfile(profile), message.empty() ? Status::Ok() : InvalidArgument(message));
}

using P = CapacityProfile;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

INSTANTIATE_TEST_SUITE_P(
    Fields, ProfileClaim,
    testing::Values(
        ProfileCase{[](P&) {}, ""}, ProfileCase{[](P& p) { p = P{}; }, ""},
        ProfileCase{[](P& p) { p.memory_bytes = ~std::uint64_t{0}; }, ""},
        ProfileCase{[](P& p) { p.compute_flops_per_s = 1e18; }, ""},
        ProfileCase{[](P& p) { p.down_bytes_per_s = 1.0; }, ""},
        ProfileCase{[](P& p) { p.device.assign(256, 'x'); }, ""},
        ProfileCase{[](P& p) { p.compute_flops_per_s = kInfinity; },
                    "profile.compute_flops_per_s is inf, must be 0 (not known) or 1 to 1e+18"},
        ProfileCase{[](P& p) { p.compute_flops_per_s = -1.0; },
                    "profile.compute_flops_per_s is -1, must be 0 (not known) or 1 to 1e+18"},
        ProfileCase{[](P& p) { p.down_bytes_per_s = std::nan(""); },
                    "profile.down_bytes_per_s is nan, must be 0 (not known) or 1 to 1e+15"},
        ProfileCase{[](P& p) { p.up_bytes_per_s = 0.5; },
                    "profile.up_bytes_per_s is 0.5, must be 0 (not known) or 1 to 1e+15"},
        ProfileCase{[](P& p) { p.up_bytes_per_s = 2e15; },
                    "profile.up_bytes_per_s is 2e+15, must be 0 (not known) or 1 to 1e+15"},
        ProfileCase{[](P& p) { p.examples = -1; },
                    "profile.examples is -1, must be 0 to 1000000000000"},
        ProfileCase{[](P& p) { p.examples = 2'000'000'000'000; },
                    "profile.examples is 2000000000000, must be 0 to 1000000000000"},
        ProfileCase{[](P& p) { p.max_experts = -1; },
                    "profile.max_experts is -1, must be 0 (no cap) or more"},
        ProfileCase{[](P& p) { p.device.assign(257, 'x'); },
                    "profile.device has 257 bytes, must be at most 256"}));

TEST(TrainedExamples, AreThoseOfAllEpochsOrOfTheBatchesAllowed) {
  TrainingOptions training{.batch_size = 10, .epochs = 3};
  EXPECT_EQ(TrainedExamples(100.0, training), 300.0);
  training.max_batches = 7;
  EXPECT_EQ(TrainedExamples(100.0, training), 70.0);
  EXPECT_EQ(TrainedExamples(20.0, training), 60.0);
}

TEST(PredictTokens, CountsWhatIsTrainedOnAndTheMeanWhereAClientIsSilent) {
  const ModelSpec spec = Spec();
  TrainingOptions training = Training();
  training.epochs = 1;
  std::vector<TokenClient> cohort = {{.examples = 100, .experts = 1},
                                     {.examples = 300, .experts = 1},
                                     {.examples = 0, .experts = 1}};
  const std::vector<double> all = PredictTokens(cohort, spec, training);
  EXPECT_DOUBLE_EQ(all[1], 3.0 * all[0]);
  EXPECT_DOUBLE_EQ(all[2], 2.0 * all[0]);
  training.max_batches = 10;  // of 10 examples
  const std::vector<double> bounded = PredictTokens(cohort, spec, training);
  EXPECT_DOUBLE_EQ(bounded[0], all[0]);
  EXPECT_DOUBLE_EQ(bounded[1], all[0]);
  EXPECT_DOUBLE_EQ(bounded[2], all[0]);
}

TEST(PredictMemoryAndTime, CountASecondPassThroughTheTrunk) {
  const ModelSpec spec = Spec();
  TrainingOptions training = Training();
  const CapacityProfile profile{.compute_flops_per_s = 1e6, .examples = 100};
  const double memory = PredictMemoryBytes(spec, training, 1);
  const double seconds = PredictRoundSeconds(profile, spec, training, 1);
  training.trunk_lambda = 0.5;
  EXPECT_DOUBLE_EQ(PredictMemoryBytes(spec, training, 1) - memory,
                   4.0 * spec.trunk_activations * training.batch_size * 2.0);
  EXPECT_NEAR(PredictRoundSeconds(profile, spec, training, 1) - seconds,
              3.0 * 200.0 * spec.trunk_flops / 1e6, 1e-12);
}

}  // namespace
}  // namespace fedmoe
