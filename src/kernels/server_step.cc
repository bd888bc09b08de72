#include "kernels/server_step.h"

#include <cmath>
#include <cstddef>

#include "kernels/function_versions.h"

namespace fedmoe {
namespace {

struct Adaptive {
  double learning_rate;
  double beta1;
  double beta2;
  double tau;
};

FEDMOE_FUNCTION_VERSIONS void Avg(std::size_t count, double learning_rate, const float* delta,
                                  float* values) {
  for (std::size_t i = 0; i < count; ++i) {
    values[i] = static_cast<float>(static_cast<double>(values[i]) +
                                   learning_rate * static_cast<double>(delta[i]));
  }
}

FEDMOE_FUNCTION_VERSIONS void Blend(std::size_t count, double share, const float* mean,
                                    float* values) {
  for (std::size_t i = 0; i < count; ++i) {
    const double value = values[i];
    values[i] = static_cast<float>(value + share * (static_cast<double>(mean[i]) - value));
  }
}

FEDMOE_FUNCTION_VERSIONS void AvgM(std::size_t count, double learning_rate, double beta,
                                   const float* delta, float* first, float* values) {
  for (std::size_t i = 0; i < count; ++i) {
    const double m = beta * static_cast<double>(first[i]) + static_cast<double>(delta[i]);
    first[i] = static_cast<float>(m);
    values[i] = static_cast<float>(static_cast<double>(values[i]) + learning_rate * m);
  }
}

FEDMOE_FUNCTION_VERSIONS void Adam(std::size_t count, Adaptive rule, const float* delta,
                                   float* first, float* second, float* values) {
  for (std::size_t i = 0; i < count; ++i) {
    const double d = static_cast<double>(delta[i]);
    const double m = rule.beta1 * static_cast<double>(first[i]) + (1.0 - rule.beta1) * d;
    const double v = rule.beta2 * static_cast<double>(second[i]) + (1.0 - rule.beta2) * (d * d);
    first[i] = static_cast<float>(m);
    second[i] = static_cast<float>(v);
    values[i] = static_cast<float>(static_cast<double>(values[i]) +
                                   rule.learning_rate * m / (std::sqrt(v) + rule.tau));
  }
}

FEDMOE_FUNCTION_VERSIONS void Yogi(std::size_t count, Adaptive rule, const float* delta,
                                   float* first, float* second, float* values) {
  for (std::size_t i = 0; i < count; ++i) {
    const double d = static_cast<double>(delta[i]);
    const double square = d * d;
    const double m = rule.beta1 * static_cast<double>(first[i]) + (1.0 - rule.beta1) * d;
    const double old = static_cast<double>(second[i]);
    const double sign = static_cast<double>(old > square) - static_cast<double>(old < square);
    const double v = old - (1.0 - rule.beta2) * square * sign;
    first[i] = static_cast<float>(m);
    second[i] = static_cast<float>(v);
    values[i] = static_cast<float>(static_cast<double>(values[i]) +
                                   rule.learning_rate * m / (std::sqrt(v) + rule.tau));
  }
}

Adaptive AdaptiveOf(const ServerStepOptions& options) {
  return {options.learning_rate, options.momentum, options.beta2, options.tau};
}

}  // namespace

void FedAvgStep(std::span<float> values, std::span<const float> delta,
                const ServerStepOptions& options) {
  Avg(values.size(), options.learning_rate, delta.data(), values.data());
}

void FedAvgMStep(std::span<float> values, std::span<const float> delta, std::span<float> first,
                 const ServerStepOptions& options) {
  AvgM(values.size(), options.learning_rate, options.momentum, delta.data(), first.data(),
       values.data());
}

void FedAdamStep(std::span<float> values, std::span<const float> delta, std::span<float> first,
                 std::span<float> second, const ServerStepOptions& options) {
  Adam(values.size(), AdaptiveOf(options), delta.data(), first.data(), second.data(),
       values.data());
}

void FedYogiStep(std::span<float> values, std::span<const float> delta, std::span<float> first,
                 std::span<float> second, const ServerStepOptions& options) {
  Yogi(values.size(), AdaptiveOf(options), delta.data(), first.data(), second.data(),
       values.data());
}

void ConsensusStep(std::span<float> values, std::span<const float> mean, double share) {
  Blend(values.size(), share, mean.data(), values.data());
}

}  // namespace fedmoe
