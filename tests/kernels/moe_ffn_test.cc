#include "kernels/moe_ffn.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/kernels/moe_ffn_case.h"

namespace fedmoe {
namespace {

constexpr std::uint64_t kSeed = 11;

template <typename T>
void ExpectClose(const MoeFfnResult<float>& fast, const MoeFfnResult<T>& truth, double tolerance) {
  const auto left = fast.Arrays();
  const auto right = truth.Arrays();
  for (std::size_t i = 0; i < left.size(); ++i) {
    ASSERT_EQ(left[i].second->size(), right[i].second->size());
    EXPECT_LE(RelativeError(*left[i].second, *right[i].second), tolerance)
        << left[i].first << ", array " << i << ", seed " << kSeed;
  }
}

void ExpectSameBits(const MoeFfnResult<float>& a, const MoeFfnResult<float>& b) {
  const auto left = a.Arrays();
  const auto right = b.Arrays();
  for (std::size_t i = 0; i < left.size(); ++i) {
    for (std::size_t j = 0; j < left[i].second->size(); ++j) {
      ASSERT_EQ(std::bit_cast<std::uint32_t>((*left[i].second)[j]),
                std::bit_cast<std::uint32_t>((*right[i].second)[j]))
          << left[i].first << ", value " << j;
    }
  }
}

// The scalar whose gradients backward computes: <dy, y>.
double Objective(const MoeFfnCase<double>& with) {
  std::vector<double> y(with.x.size());
  MoeFfnForward<double>(with.shape, with.routing, with.experts, with.x, with.weights, 1, y,
                        nullptr);
  double sum = 0.0;
  for (std::size_t i = 0; i < y.size(); ++i) sum += with.dy[i] * y[i];
  return sum;
}

// Every entry of `values` moved both ways, against its gradient.
void CheckDifferences(MoeFfnCase<double>& with, std::vector<double>& values,
                      const std::vector<double>& gradient, const std::string& name) {
  constexpr double kStep = 1e-6;
  SCOPED_TRACE(name);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double before = values[i];
    values[i] = before + kStep;
    const double above = Objective(with);
    values[i] = before - kStep;
    const double below = Objective(with);
    values[i] = before;
    EXPECT_NEAR(gradient[i], (above - below) / (2 * kStep), 1e-7) << "entry " << i;
  }
}

class MoeFfnGradient : public testing::TestWithParam<MoeFfnSizes> {};

TEST_P(MoeFfnGradient, IsTheLimitOfFiniteDifferences) {
  MoeFfnCase<double> with(GetParam(), kSeed);
  const MoeFfnResult<double> result = RunFast(with, 2);
  CheckDifferences(with, with.x, result.dx, "x");
  CheckDifferences(with, with.weights, result.d_weights, "weights");
  for (std::size_t e = 0; e < with.experts.size(); ++e) {
    const std::string expert = " of expert " + std::to_string(e);
    CheckDifferences(with, with.up[e], result.up[e], "up" + expert);
    CheckDifferences(with, with.down[e], result.down[e], "down" + expert);
    if (GetParam().biases) {
      CheckDifferences(with, with.up_bias[e], result.up_bias[e], "up bias" + expert);
      CheckDifferences(with, with.down_bias[e], result.down_bias[e], "down bias" + expert);
    }
    if (GetParam().activation == ExpertActivation::kSwiGlu) {
      CheckDifferences(with, with.gate[e], result.gate[e], "gate" + expert);
    }
  }
}

std::vector<MoeFfnSizes> TinyCases() {
  std::vector<MoeFfnSizes> cases;
  for (const ExpertActivation activation : kAllActivations) {
    cases.push_back({.activation = activation});
    cases.push_back({.activation = activation, .biases = false, .load = Load::kHoles});
    cases.push_back({.tokens = 1, .slots = 4, .activation = activation});
    cases.push_back({.slots = 1, .activation = activation, .load = Load::kOneExpert});
  }
  return cases;
}
INSTANTIATE_TEST_SUITE_P(TinyShapes, MoeFfnGradient, testing::ValuesIn(TinyCases()));

class MoeFfnAccuracy : public testing::TestWithParam<MoeFfnSizes> {};

TEST_P(MoeFfnAccuracy, FastFloatAgreesWithReferenceDouble) {
  const MoeFfnResult<float> fast = RunFast(MoeFfnCase<float>(GetParam(), kSeed), 2);
  const MoeFfnResult<double> truth = RunReference(MoeFfnCase<double>(GetParam(), kSeed));
  ExpectClose(fast, truth, 1e-5);
}

std::vector<MoeFfnSizes> AccuracyCases() {
  std::vector<MoeFfnSizes> cases;
  for (const ExpertActivation activation : kAllActivations) {
    for (const std::int64_t tokens : {1, 7, 256, 513}) {
      for (const std::int64_t slots : {1, 2, 3, 4}) {
        cases.push_back({.tokens = tokens,
                         .width = 21,
                         .hidden = 35,
                         .experts = slots == 4 ? 4 : 7,
                         .slots = slots,
                         .activation = activation});
      }
    }
    for (const Load load : {Load::kOneExpert, Load::kHoles}) {
      cases.push_back({.tokens = 256,
                       .width = 33,
                       .hidden = 47,
                       .experts = 5,
                       .activation = activation,
                       .load = load});
    }
  }
  cases.push_back({.tokens = 7, .width = 100, .hidden = 600, .experts = 4, .slots = 1});
  cases.push_back({.tokens = 32, .width = 600, .hidden = 100, .experts = 3, .slots = 3});
  cases.push_back({.tokens = 256,
                   .width = 100,
                   .hidden = 100,
                   .experts = 16,
                   .activation = ExpertActivation::kSwiGlu,
                   .biases = false});
  cases.push_back(
      {.tokens = 513, .width = 100, .hidden = 101, .experts = 4, .load = Load::kOneExpert});
  return cases;
}
INSTANTIATE_TEST_SUITE_P(Shapes, MoeFfnAccuracy, testing::ValuesIn(AccuracyCases()));

class MoeFfnThreads : public testing::TestWithParam<ExpertActivation> {};

TEST_P(MoeFfnThreads, GiveTheSameBitsInAnyNumber) {
  for (const Load load : {Load::kUniform, Load::kOneExpert, Load::kHoles}) {
    const MoeFfnCase<float> with({.tokens = 513,
                                  .width = 100,
                                  .hidden = 150,
                                  .experts = 6,
                                  .activation = GetParam(),
                                  .load = load},
                                 kSeed);
    const MoeFfnResult<float> one = RunFast(with, 1);
    ExpectSameBits(RunFast(with, 2), one);
    ExpectSameBits(RunFast(with, 3), one);
  }
}
INSTANTIATE_TEST_SUITE_P(Activations, MoeFfnThreads, testing::ValuesIn(kAllActivations));

TEST(MoeFfn, AddsToTheGradientsAndLeavesIdleExpertsAlone) {
  const MoeFfnSizes sizes{.tokens = 40, .width = 17, .hidden = 20, .load = Load::kHoles};
  const MoeFfnCase<float> with(sizes, kSeed);
  const MoeFfnResult<float> added = RunFast(with, 2, 3.0F);
  const MoeFfnResult<double> truth = RunReference(MoeFfnCase<double>(sizes, kSeed), 3.0);
  ExpectClose(added, truth, 1e-5);
  ASSERT_EQ(with.routing.RowsOf(1), 0);
  EXPECT_EQ(added.up[1], std::vector<float>(added.up[1].size(), 3.0F));
  EXPECT_EQ(added.down_bias[1], std::vector<float>(added.down_bias[1].size(), 3.0F));
}

TEST(MoeFfn, WritesZeroWhereNoExpertServes) {
  MoeFfnCase<float> with({.tokens = 3, .slots = 1}, kSeed);
  with.routing = RouteTokens(std::vector<std::int64_t>{-1, -1, -1}, 1, 4);
  const MoeFfnResult<float> result = RunFast(with, 2);
  EXPECT_EQ(result.y, std::vector<float>(result.y.size(), 0.0F));
  EXPECT_EQ(result.dx, std::vector<float>(result.dx.size(), 0.0F));
  EXPECT_EQ(result.d_weights, std::vector<float>(3, 0.0F));
}

TEST(MoeFfn, TakesABatchWithoutTokens) {
  const MoeFfnCase<float> with({.tokens = 0}, kSeed);
  const MoeFfnResult<float> result = RunFast(with, 2, 1.0F);
  EXPECT_TRUE(result.y.empty());
  EXPECT_EQ(result.up[0], std::vector<float>(result.up[0].size(), 1.0F));
}

TEST(MoeFfn, EvaluatesWithTheBitsOfTraining) {
  for (const ExpertActivation activation : kAllActivations) {
    const MoeFfnCase<float> with(
        {.tokens = 70, .width = 30, .hidden = 50, .activation = activation}, kSeed);
    std::vector<float> y(with.x.size(), std::nanf(""));
    MoeFfnForward<float>(with.shape, with.routing, with.experts, with.x, with.weights, 2, y,
                         nullptr);
    EXPECT_EQ(y, RunFast(with, 2).y);
  }
}

TEST(MoeFfn, ComputesOnlyWhatIsAskedFor) {
  for (const ExpertActivation activation : kAllActivations) {
    const MoeFfnCase<float> with(
        {.tokens = 50, .width = 20, .hidden = 24, .activation = activation}, kSeed);
    const MoeFfnResult<float> all = RunFast(with, 2);
    MoeFfnSaved<float> saved;
    std::vector<float> y(with.x.size());
    MoeFfnForward<float>(with.shape, with.routing, with.experts, with.x, with.weights, 2, y,
                         &saved);
    // One gradient alone.
    MoeFfnResult<float> some(with, 0.0F);
    std::vector<ExpertGradients<float>> one(with.experts.size());
    one[2].down = some.down[2].data();
    MoeFfnBackward<float>(with.shape, with.routing, with.experts, with.x, with.weights, with.dy,
                          saved, 2, {}, {}, one);
    EXPECT_EQ(some.down[2], all.down[2]);
    EXPECT_EQ(some.up[2], std::vector<float>(some.up[2].size(), 0.0F));
    EXPECT_EQ(some.down[1], std::vector<float>(some.down[1].size(), 0.0F));
    // The input's gradient alone.
    MoeFfnBackward<float>(with.shape, with.routing, with.experts, with.x, with.weights, with.dy,
                          saved, 2, some.dx, {}, {});
    EXPECT_EQ(some.dx, all.dx);
    // The gate's gradient alone.
    MoeFfnBackward<float>(with.shape, with.routing, with.experts, with.x, with.weights, with.dy,
                          saved, 2, {}, some.d_weights, {});
    EXPECT_EQ(some.d_weights, all.d_weights);
  }
}

TEST(MoeFfn, StaysFiniteOnLargeInputs) {
  for (const ExpertActivation activation : kAllActivations) {
    for (const double scale : {1e4, 1e8}) {
      const MoeFfnCase<float> with(
          {.tokens = 64, .width = 32, .hidden = 48, .activation = activation, .scale = scale},
          kSeed);
      const MoeFfnResult<float> result = RunFast(with, 2);
      for (const auto& [name, values] : result.Arrays()) {
        for (const float value : *values) ASSERT_TRUE(std::isfinite(value)) << name;
      }
    }
  }
}

TEST(MoeFfn, CarriesNotANumberThrough) {
  for (const ExpertActivation activation : kAllActivations) {
    MoeFfnCase<float> with({.tokens = 4, .width = 3, .hidden = 40, .activation = activation},
                           kSeed);
    with.x[3] = std::nanf("");
    const MoeFfnResult<float> result = RunFast(with, 1);
    EXPECT_TRUE(std::isnan(result.y[3]));
    EXPECT_TRUE(std::isfinite(result.y[0]));
  }
}

}  // namespace
}  // namespace fedmoe
