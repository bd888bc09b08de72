#include "client/optimizer_state.h"

#include <array>
#include <cmath>
#include <utility>

namespace fedmoe {
namespace {

// Eight partial sums, added in a fixed order.
double Norm(std::span<const float> values) {
  constexpr std::size_t kLanes = 8;
  std::array<double, kLanes> sums{};
  std::size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const double value = values[i + lane];
      sums[lane] += value * value;
    }
  }
  for (; i < values.size(); ++i) sums[0] += static_cast<double>(values[i]) * values[i];
  double total = 0.0;
  for (const double sum : sums) total += sum;
  return std::sqrt(total);
}

}  // namespace

OptimizerState::OptimizerState(const TrainingOptions& options, std::size_t parameters,
                               std::vector<Range> gates, std::vector<Range> left_alone)
    : options_(options), left_alone_(std::move(left_alone)), kept_(left_alone_) {
  if (options.gate_learning_rate != 0.0) gates_ = std::move(gates);
  kept_.insert(kept_.end(), gates_.begin(), gates_.end());
  std::size_t gate_values = 0;
  for (const Range& gate : gates_) gate_values += gate.end - gate.begin;
  gate_sums_.assign(gate_values, 0.0);
  const bool adam = options.optimizer == LocalOptimizer::kAdamW;
  if (adam || options.momentum != 0.0) first_.assign(parameters, 0.0F);
  if (adam) second_.assign(parameters, 0.0F);
}

double OptimizerState::Step(std::span<float> values, std::span<float> gradients,
                            std::span<const float> received) {
  if (options_.fedprox_mu != 0.0) {
    const auto mu = static_cast<float>(options_.fedprox_mu);
    for (std::size_t i = 0; i < values.size(); ++i) gradients[i] += mu * (values[i] - received[i]);
  }
  // What is left alone has no say in the norm, either.
  for (const Range& range : left_alone_) {
    for (std::size_t i = range.begin; i < range.end; ++i) gradients[i] = 0.0F;
  }
  const double norm = Norm(gradients);
  if (!std::isfinite(norm)) return norm;
  const bool clip = options_.clip_norm > 0.0 && norm > options_.clip_norm;
  const double scale = clip ? options_.clip_norm / norm : 1.0;
  ++steps_;
  std::size_t gate_value = 0;
  for (const Range& gate : gates_) {
    for (std::size_t i = gate.begin; i < gate.end; ++i) {
      gate_sums_[gate_value++] += scale * static_cast<double>(gradients[i]);
    }
  }
  // The optimiser passes over these too, and what it makes of them is undone.
  kept_values_.clear();
  for (const Range& kept : kept_) {
    kept_values_.insert(kept_values_.end(),
                        values.begin() + static_cast<std::ptrdiff_t>(kept.begin),
                        values.begin() + static_cast<std::ptrdiff_t>(kept.end));
  }
  if (options_.optimizer == LocalOptimizer::kAdamW) {
    StepAdamW(values, gradients, scale);
  } else {
    StepSgd(values, gradients, scale);
  }
  auto value = kept_values_.begin();
  for (const Range& kept : kept_) {
    for (std::size_t i = kept.begin; i < kept.end; ++i) values[i] = *value++;
  }
  return norm;
}

void OptimizerState::Finish(std::span<float> values) {
  if (steps_ == 0) return;
  const double rate = options_.gate_learning_rate / static_cast<double>(steps_);
  std::size_t gate_value = 0;
  for (const Range& gate : gates_) {
    for (std::size_t i = gate.begin; i < gate.end; ++i) {
      values[i] =
          static_cast<float>(static_cast<double>(values[i]) - rate * gate_sums_[gate_value++]);
    }
  }
}

void OptimizerState::StepSgd(std::span<float> values, std::span<const float> gradients,
                             double scale) {
  const auto factor = static_cast<float>(scale);
  const auto rate = static_cast<float>(options_.learning_rate);
  const auto decay = static_cast<float>(options_.weight_decay);
  if (first_.empty()) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] -= rate * (factor * gradients[i] + decay * values[i]);
    }
    return;
  }
  const auto momentum = static_cast<float>(options_.momentum);
  for (std::size_t i = 0; i < values.size(); ++i) {
    first_[i] = momentum * first_[i] + (factor * gradients[i] + decay * values[i]);
    values[i] -= rate * first_[i];
  }
}

void OptimizerState::StepAdamW(std::span<float> values, std::span<const float> gradients,
                               double scale) {
  const auto factor = static_cast<float>(scale);
  const auto beta1 = static_cast<float>(options_.adam_beta1);
  const auto beta2 = static_cast<float>(options_.adam_beta2);
  const auto rest1 = static_cast<float>(1.0 - options_.adam_beta1);
  const auto rest2 = static_cast<float>(1.0 - options_.adam_beta2);
  const auto steps = static_cast<double>(steps_);
  const auto rate =
      static_cast<float>(options_.learning_rate / (1.0 - std::pow(options_.adam_beta1, steps)));
  const auto correction =
      static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(options_.adam_beta2, steps)));
  const auto epsilon = static_cast<float>(options_.adam_epsilon);
  const auto keep = static_cast<float>(1.0 - options_.learning_rate * options_.weight_decay);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const float gradient = factor * gradients[i];
    first_[i] = beta1 * first_[i] + rest1 * gradient;
    second_[i] = beta2 * second_[i] + rest2 * gradient * gradient;
    values[i] =
        keep * values[i] - rate * first_[i] / (std::sqrt(second_[i]) * correction + epsilon);
  }
}

}  // namespace fedmoe
