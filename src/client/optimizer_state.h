// The client's optimiser step on one vector of parameters. Plain loops: no sum depends on the
// number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "federation/training_options.h"

namespace fedmoe {

// State of one task; not thread-safe. With g the gradient of the batch's loss:
//   FedProx  g <- g + mu (w - w_received)                     Li et al., 2020 (arXiv 1812.06127)
//   clip     g <- g * min(1, clip_norm / ||g||)               over all parameters together
//   SGD      b <- momentum b + (g + decay w);  w <- w - rate b            (b = g + decay w at step
//   1) AdamW    w <- w - rate decay w;  m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2)
//   g^2;
//            w <- w - rate (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)
//                                                 Loshchilov and Hutter, 2019 (arXiv 1711.05101)
// A parameter whose gradient is zero steps too: momentum and decay are of the whole vector.
// Parameters with a rate of their own (gates) stay, and step once: w <- w - gate_rate mean(g).
// Parameters that are no weights (moments, biases moved by load) are left alone.
class OptimizerState {
 public:
  // Positions [begin, end).
  struct Range {
    std::size_t begin = 0;
    std::size_t end = 0;
  };
  // `gates`: where gates stand among the parameters; of no account without a gate_learning_rate.
  // `left_alone`: what no step shall change.
  OptimizerState(const TrainingOptions& options, std::size_t parameters,
                 std::vector<Range> gates = {}, std::vector<Range> left_alone = {});

  // One step. The three spans have `parameters` floats, but `received` may be empty without
  // FedProx; `gradients` is overwritten. Returns ||g|| before clipping; where that is not finite,
  // `values` stays as it was.
  double Step(std::span<float> values, std::span<float> gradients, std::span<const float> received);
  // After the last step: that of the gates.
  void Finish(std::span<float> values);

 private:
  void StepSgd(std::span<float> values, std::span<const float> gradients, double scale);
  void StepAdamW(std::span<float> values, std::span<const float> gradients, double scale);

  TrainingOptions options_;
  std::vector<Range> gates_;  // that have the rate of their own
  std::vector<Range> left_alone_;
  std::vector<Range> kept_;  // both
  std::vector<float> kept_values_;
  std::vector<double> gate_sums_;  // of their gradients
  std::vector<float> first_;       // momentum buffer, or AdamW's m
  std::vector<float> second_;      // AdamW's v
  std::int64_t steps_ = 0;
};

}  // namespace fedmoe
