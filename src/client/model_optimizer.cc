#include "client/model_optimizer.h"

#include <cmath>
#include <span>
#include <vector>

#include "client/tally.h"

namespace fedmoe {
namespace {

using Range = OptimizerState::Range;

// As the loops round their factors: what float32 cannot hold is infinite.
double Single(double factor) { return static_cast<float>(factor); }

// OptimizerState's loops, on the CPU.
class KernelOptimizer final : public ModelOptimizer {
 public:
  KernelOptimizer(const TrainingOptions& options, const OptimizedVector& vector)
      : values_(FloatsOf(vector.values)),
        gradients_(FloatsOf(vector.gradients)),
        state_(options, values_.size(), vector.gates, vector.left_alone) {
    if (options.fedprox_mu != 0.0) received_.assign(values_.begin(), values_.end());
  }

  torch::Tensor Step() override {
    return torch::scalar_tensor(state_.Step(values_, gradients_, received_), torch::kFloat64);
  }
  void Finish() override { state_.Finish(values_); }

 private:
  std::span<float> values_;
  std::span<float> gradients_;
  std::vector<float> received_;  // FedProx alone
  OptimizerState state_;
};

// The same by libtorch's operators, on any device: nothing of a step waits for the host.
class TensorOptimizer final : public ModelOptimizer {
 public:
  TensorOptimizer(const TrainingOptions& options, const OptimizedVector& vector)
      : options_(options), values_(vector.values), gradients_(vector.gradients) {
    const torch::NoGradGuard no_gradient;
    if (options.gate_learning_rate != 0.0) {
      for (const Range& gate : vector.gates) {
        gate_values_.push_back(PartOf(values_, gate));
        gate_gradients_.push_back(PartOf(gradients_, gate));
        gate_sums_.push_back(torch::zeros_like(gate_values_.back(), torch::kFloat64));
      }
    }
    kept_ = gate_values_;
    for (const Range& range : vector.left_alone) {
      kept_.push_back(PartOf(values_, range));
      left_alone_gradients_.push_back(PartOf(gradients_, range));
    }
    if (options.fedprox_mu != 0.0) received_ = values_.clone();
    const bool adam = options.optimizer == LocalOptimizer::kAdamW;
    if (adam || options.momentum != 0.0) first_ = torch::zeros_like(values_);
    if (adam) second_ = torch::zeros_like(values_);
  }

  torch::Tensor Step() override {
    const torch::NoGradGuard no_gradient;
    if (received_.defined()) gradients_.add_(values_ - received_, options_.fedprox_mu);
    // What is left alone has no say in the norm, either.
    for (torch::Tensor& gradient : left_alone_gradients_) gradient.zero_();
    const torch::Tensor norm = torch::norm(gradients_);
    if (options_.clip_norm > 0.0) gradients_.mul_((options_.clip_norm / norm).clamp_max(1.0));
    ++steps_;
    for (std::size_t i = 0; i < gate_sums_.size(); ++i) gate_sums_[i].add_(gate_gradients_[i]);
    // The optimiser passes over these too, and what it makes of them is undone.
    std::vector<torch::Tensor> kept_values;
    for (const torch::Tensor& kept : kept_) kept_values.push_back(kept.clone());
    if (options_.optimizer == LocalOptimizer::kAdamW) {
      StepAdamW();
    } else {
      StepSgd();
    }
    for (std::size_t i = 0; i < kept_.size(); ++i) kept_[i].copy_(kept_values[i]);
    return norm;
  }

  void Finish() override {
    const torch::NoGradGuard no_gradient;
    if (steps_ == 0) return;
    const double rate = options_.gate_learning_rate / static_cast<double>(steps_);
    for (std::size_t i = 0; i < gate_sums_.size(); ++i) {
      gate_values_[i].copy_(gate_values_[i].to(torch::kFloat64) - rate * gate_sums_[i]);
    }
  }

 private:
  static torch::Tensor PartOf(const torch::Tensor& vector, const Range& range) {
    return vector.narrow(0, static_cast<std::int64_t>(range.begin),
                         static_cast<std::int64_t>(range.end - range.begin));
  }

  void StepSgd() {
    if (options_.weight_decay != 0.0) gradients_.add_(values_, options_.weight_decay);
    if (first_.defined()) first_.mul_(options_.momentum).add_(gradients_);
    values_.add_(first_.defined() ? first_ : gradients_, -Single(options_.learning_rate));
  }

  void StepAdamW() {
    const auto steps = static_cast<double>(steps_);
    const double rate = options_.learning_rate / (1.0 - std::pow(options_.adam_beta1, steps));
    const double correction = 1.0 / std::sqrt(1.0 - std::pow(options_.adam_beta2, steps));
    first_.mul_(options_.adam_beta1).add_(gradients_, 1.0 - options_.adam_beta1);
    second_.mul_(options_.adam_beta2).addcmul_(gradients_, gradients_, 1.0 - options_.adam_beta2);
    values_.mul_(1.0 - options_.learning_rate * options_.weight_decay);
    // The gradients are used up: the denominator needs no memory of its own.
    gradients_.copy_(second_).sqrt_().mul_(correction).add_(options_.adam_epsilon);
    values_.addcdiv_(first_, gradients_, -Single(rate));
  }

  TrainingOptions options_;
  torch::Tensor values_;
  torch::Tensor gradients_;
  torch::Tensor received_;                           // FedProx alone
  torch::Tensor first_;                              // momentum buffer, or AdamW's m
  torch::Tensor second_;                             // AdamW's v
  std::vector<torch::Tensor> gate_values_;           // with a rate of their own; parts of values_
  std::vector<torch::Tensor> gate_gradients_;        // parts of gradients_
  std::vector<torch::Tensor> gate_sums_;             // of them, float64
  std::vector<torch::Tensor> kept_;                  // of values_: gates, and what is left alone
  std::vector<torch::Tensor> left_alone_gradients_;  // of gradients_
  std::int64_t steps_ = 0;
};

}  // namespace

std::unique_ptr<ModelOptimizer> MakeModelOptimizer(ComputePath path, const TrainingOptions& options,
                                                   const OptimizedVector& vector) {
  if (path == ComputePath::kTensorOps) return std::make_unique<TensorOptimizer>(options, vector);
  return std::make_unique<KernelOptimizer>(options, vector);
}

}  // namespace fedmoe
