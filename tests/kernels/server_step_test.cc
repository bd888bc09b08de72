#include "kernels/server_step.h"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "common/counter_rng.h"

namespace fedmoe {
namespace {

TEST(FedAvgStep, AddsTheRateTimesTheDelta) {
  std::vector<float> values{1.0F, -2.0F};
  const std::vector<float> delta{0.5F, 4.0F};
  FedAvgStep(values, delta, {.learning_rate = 1.0});
  EXPECT_EQ(values, (std::vector<float>{1.5F, 2.0F}));
  FedAvgStep(values, delta, {.learning_rate = 0.5});
  EXPECT_EQ(values, (std::vector<float>{1.75F, 4.0F}));
}

TEST(FedAvgMStep, RollsTheMomentOn) {
  std::vector<float> values{1.0F};
  std::vector<float> first{0.0F};
  const ServerStepOptions options{.learning_rate = 2.0, .momentum = 0.5};
  FedAvgMStep(values, std::vector<float>{1.0F}, first, options);
  EXPECT_EQ(first[0], 1.0F);   // 0.5 * 0 + 1
  EXPECT_EQ(values[0], 3.0F);  // 1 + 2 * 1
  FedAvgMStep(values, std::vector<float>{-0.25F}, first, options);
  EXPECT_EQ(first[0], 0.25F);  // 0.5 * 1 - 0.25
  EXPECT_EQ(values[0], 3.5F);  // 3 + 2 * 0.25
}

TEST(FedAdamStep, FollowsTheRuleOfReddiEtAl) {
  std::vector<float> values{1.0F};
  std::vector<float> first{0.5F};
  std::vector<float> second{4.0F};
  // m = 0.5 * 0.5 + 0.5 * 2 = 1.25;  v = 0.75 * 4 + 0.25 * 4 = 4;  x = 1 + 3 * 1.25 / (2 + 0.5)
  FedAdamStep(values, std::vector<float>{2.0F}, first, second,
              {.learning_rate = 3.0, .momentum = 0.5, .beta2 = 0.75, .tau = 0.5});
  EXPECT_EQ(first[0], 1.25F);
  EXPECT_EQ(second[0], 4.0F);
  EXPECT_EQ(values[0], 2.5F);
}

TEST(FedYogiStep, MovesTheSecondMomentBySign) {
  // d^2 = 4 in all three; v below, equal and above it.
  std::vector<float> values{0.0F, 0.0F, 0.0F};
  std::vector<float> first{0.0F, 0.0F, 0.0F};
  std::vector<float> second{3.0F, 4.0F, 10.0F};
  const std::vector<float> delta{2.0F, 2.0F, -2.0F};
  FedYogiStep(values, delta, first, second,
              {.learning_rate = 1.0, .momentum = 0.5, .beta2 = 0.75, .tau = 1.0});
  EXPECT_EQ(second, (std::vector<float>{4.0F, 4.0F, 9.0F}));  // +1, 0, -1 times 0.25 * 4
  EXPECT_EQ(first, (std::vector<float>{1.0F, 1.0F, -1.0F}));
  // x = m / (sqrt(v) + 1)
  EXPECT_EQ(values[0], static_cast<float>(1.0 / 3.0));
  EXPECT_EQ(values[1], static_cast<float>(1.0 / 3.0));
  EXPECT_EQ(values[2], -0.25F);
}

// The vectorised loops against one value at a time, over sizes that leave every remainder.
class ServerStepBySize : public testing::TestWithParam<int> {};

TEST_P(ServerStepBySize, GivesTheSameBitsForAValueAloneAndAmongOthers) {
  const auto size = static_cast<std::size_t>(GetParam());
  const ServerStepOptions options{
      .learning_rate = 0.3, .momentum = 0.9, .beta2 = 0.99, .tau = 1e-3};
  constexpr std::uint64_t kSeed = 7;
  CounterRng rng(kSeed);
  const auto draw = [&] {
    std::vector<float> values(size);
    for (float& value : values) value = static_cast<float>(rng.NextNormal());
    return values;
  };
  using Step = void (*)(std::span<float>, std::span<const float>, std::span<float>,
                        std::span<float>, const ServerStepOptions&);
  const std::vector<Step> steps{
      [](auto x, auto d, auto, auto, const auto& o) { FedAvgStep(x, d, o); },
      [](auto x, auto d, auto m, auto, const auto& o) { FedAvgMStep(x, d, m, o); },
      [](auto x, auto d, auto m, auto v, const auto& o) { FedAdamStep(x, d, m, v, o); },
      [](auto x, auto d, auto m, auto v, const auto& o) { FedYogiStep(x, d, m, v, o); }};
  for (std::size_t rule = 0; rule < steps.size(); ++rule) {
    SCOPED_TRACE("rule " + std::to_string(rule) + ", seed " + std::to_string(kSeed));
    std::vector<float> x = draw(), d = draw(), m = draw(), v = draw();
    for (float& value : v) value = std::fabs(value);
    std::vector<float> x1 = x, m1 = m, v1 = v;
    steps[rule](x, d, m, v, options);
    for (std::size_t i = 0; i < size; ++i) {
      steps[rule](std::span(x1).subspan(i, 1), std::span(d).subspan(i, 1),
                  std::span(m1).subspan(i, 1), std::span(v1).subspan(i, 1), options);
    }
    EXPECT_EQ(x, x1);
    EXPECT_EQ(m, m1);
    EXPECT_EQ(v, v1);
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, ServerStepBySize, testing::Values(1, 3, 8, 15, 17, 64, 1001));

TEST(ConsensusStep, GoesTheShareOfTheWayToTheMean) {
  std::vector<float> values{1.0F, -2.0F, 5.0F};
  const std::vector<float> mean{3.0F, -2.0F, 1.0F};
  ConsensusStep(values, mean, 0.25);
  EXPECT_EQ(values, (std::vector<float>{1.5F, -2.0F, 4.0F}));
  ConsensusStep(values, mean, 0.0);
  EXPECT_EQ(values, (std::vector<float>{1.5F, -2.0F, 4.0F}));
  ConsensusStep(values, mean, 1.0);
  EXPECT_EQ(values, mean);
}

}  // namespace
}  // namespace fedmoe
