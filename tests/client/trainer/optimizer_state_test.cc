// The client's optimiser steps against the same formulas in float64.
#include "client/optimizer_state.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "common/counter_rng.h"

namespace fedmoe {
namespace {

using Floats = std::vector<float>;

TrainingOptions PlainSgd(double learning_rate) {
  TrainingOptions options;
  options.learning_rate = learning_rate;
  options.momentum = 0.0;
  options.clip_norm = 0.0;
  return options;
}

// The formulas of optimizer_state.h, number by number.
struct Float64Optimizer {
  TrainingOptions options;
  std::vector<double> first, second;
  int steps = 0;

  void Step(std::vector<double>& values, std::vector<double> gradients,
            const std::vector<double>& received) {
    ++steps;
    first.resize(values.size());
    second.resize(values.size());
    double square = 0.0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      gradients[i] += options.fedprox_mu * (values[i] - received[i]);
      square += gradients[i] * gradients[i];
    }
    const double norm = std::sqrt(square);
    const double scale =
        options.clip_norm > 0.0 && norm > options.clip_norm ? options.clip_norm / norm : 1.0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double g = gradients[i] * scale;
      if (options.optimizer == LocalOptimizer::kSgd) {
        first[i] = options.momentum * first[i] + g + options.weight_decay * values[i];
        values[i] -= options.learning_rate * first[i];
        continue;
      }
      values[i] -= options.learning_rate * options.weight_decay * values[i];
      first[i] = options.adam_beta1 * first[i] + (1.0 - options.adam_beta1) * g;
      second[i] = options.adam_beta2 * second[i] + (1.0 - options.adam_beta2) * g * g;
      const double mean = first[i] / (1.0 - std::pow(options.adam_beta1, steps));
      const double square_mean = second[i] / (1.0 - std::pow(options.adam_beta2, steps));
      values[i] -= options.learning_rate * mean / (std::sqrt(square_mean) + options.adam_epsilon);
    }
  }
};

void ExpectEqualsFloat64(const TrainingOptions& options) {
  constexpr std::size_t kParameters = 43;  // not a multiple of any vector width
  CounterRng rng(21);
  Floats values;
  for (std::size_t i = 0; i < kParameters; ++i) {
    values.push_back(static_cast<float>(rng.NextNormal()));
  }
  const Floats received = values;
  const std::vector<double> received64(received.begin(), received.end());
  std::vector<double> values64 = received64;
  OptimizerState optimizer(options, kParameters);
  Float64Optimizer reference{options, {}, {}, 0};
  for (int step = 1; step <= 4; ++step) {
    Floats gradients;
    for (std::size_t i = 0; i < kParameters; ++i) {
      gradients.push_back(static_cast<float>(rng.NextNormal()));
    }
    reference.Step(values64, {gradients.begin(), gradients.end()}, received64);
    optimizer.Step(values, gradients, received);
    for (std::size_t i = 0; i < kParameters; ++i) {
      ASSERT_NEAR(values[i], values64[i], 2e-6 * step) << "step " << step << " parameter " << i;
    }
  }
}

TEST(OptimizerState, SgdEqualsFloat64) { ExpectEqualsFloat64(PlainSgd(0.1)); }

TEST(OptimizerState, SgdWithEverythingEqualsFloat64) {
  TrainingOptions options = PlainSgd(0.1);
  options.momentum = 0.9;
  options.weight_decay = 0.05;
  options.fedprox_mu = 0.3;
  options.clip_norm = 2.0;
  ExpectEqualsFloat64(options);
}

TEST(OptimizerState, SgdDecaysWithoutMomentumToo) {
  TrainingOptions options = PlainSgd(0.1);
  options.weight_decay = 0.5;
  ExpectEqualsFloat64(options);
}

TEST(OptimizerState, AdamWEqualsFloat64) {
  TrainingOptions options = PlainSgd(0.01);
  options.optimizer = LocalOptimizer::kAdamW;
  ExpectEqualsFloat64(options);
}

TEST(OptimizerState, AdamWWithEverythingEqualsFloat64) {
  TrainingOptions options = PlainSgd(0.05);
  options.optimizer = LocalOptimizer::kAdamW;
  options.adam_beta1 = 0.8;
  options.adam_beta2 = 0.95;
  options.adam_epsilon = 1e-3;
  options.weight_decay = 0.1;
  options.fedprox_mu = 0.3;
  options.clip_norm = 2.0;
  ExpectEqualsFloat64(options);
}

TEST(OptimizerState, ReturnsTheNormBeforeClippingAndClipsToTheLimit) {
  TrainingOptions options = PlainSgd(1.0);
  options.clip_norm = 1.0;
  OptimizerState optimizer(options, 2);
  Floats values = {0.0F, 0.0F};
  Floats gradients = {3.0F, 4.0F};
  EXPECT_DOUBLE_EQ(optimizer.Step(values, gradients, values), 5.0);
  EXPECT_NEAR(values[0], -0.6F, 1e-6F);
  EXPECT_NEAR(values[1], -0.8F, 1e-6F);
}

TEST(OptimizerState, LeavesAGradientUnderTheLimitAlone) {
  TrainingOptions options = PlainSgd(1.0);
  options.clip_norm = 10.0;
  OptimizerState optimizer(options, 2);
  Floats values = {0.0F, 0.0F};
  Floats gradients = {3.0F, 4.0F};
  optimizer.Step(values, gradients, values);
  EXPECT_EQ(values, (Floats{-3.0F, -4.0F}));
}

TEST(OptimizerState, FedProxPullsTowardsTheReceivedValues) {
  TrainingOptions options = PlainSgd(0.5);
  options.fedprox_mu = 1.0;
  OptimizerState optimizer(options, 2);
  Floats values = {3.0F, -1.0F};
  Floats gradients = {0.0F, 0.0F};
  optimizer.Step(values, gradients, Floats{1.0F, 1.0F});
  EXPECT_EQ(values, (Floats{2.0F, 0.0F}));
}

TEST(OptimizerState, WhatIsNoWeightIsLeftAlone) {
  for (const LocalOptimizer kind : {LocalOptimizer::kSgd, LocalOptimizer::kAdamW}) {
    TrainingOptions options = PlainSgd(0.1);
    options.optimizer = kind;
    options.weight_decay = 0.5;
    options.gate_learning_rate = 1.0;
    OptimizerState optimizer(options, 4, {{0, 1}}, {{2, 3}});
    Floats values = {1.0F, 1.0F, 1.0F, 1.0F};
    for (int step = 0; step < 2; ++step) {
      Floats gradients = {0.25F, 0.25F, 0.25F, 0.25F};
      optimizer.Step(values, gradients, {});
    }
    EXPECT_EQ(values[0], 1.0F);
    EXPECT_LT(values[1], 1.0F);
    EXPECT_EQ(values[2], 1.0F);
    EXPECT_EQ(values[3], values[1]);
    optimizer.Finish(values);
    EXPECT_EQ(values[0], 0.75F);
    EXPECT_EQ(values[2], 1.0F);
  }
}

TEST(OptimizerState, AGradientThatIsNotFiniteChangesNothing) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    OptimizerState optimizer(PlainSgd(1.0), 2);
    Floats values = {1.0F, 2.0F};
    Floats gradients = {0.5F, bad};
    EXPECT_FALSE(std::isfinite(optimizer.Step(values, gradients, values)));
    EXPECT_EQ(values, (Floats{1.0F, 2.0F}));
  }
}

}  // namespace
}  // namespace fedmoe
