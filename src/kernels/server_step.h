// Server optimisers on spans (Reddi et al., "Adaptive Federated Optimization", arXiv 2003.00295,
// algorithm 2): the mean delta is taken as a pseudo-gradient.
#pragma once

#include <cstdint>
#include <span>

namespace fedmoe {

struct ServerStepOptions {
  double learning_rate = 1.0;
  double momentum = 0.9;  // FedAvgM: beta; FedAdam and FedYogi: beta_1
  double beta2 = 0.99;
  double tau = 1e-3;
};

// All spans have one size; values and moments are updated in place, arithmetic in float64, rounded
// once. x += lr * delta
void FedAvgStep(std::span<float> values, std::span<const float> delta,
                const ServerStepOptions& options);
// m = beta m + delta;  x += lr * m
void FedAvgMStep(std::span<float> values, std::span<const float> delta, std::span<float> first,
                 const ServerStepOptions& options);
// m = b1 m + (1-b1) d;  v = b2 v + (1-b2) d^2;  x += lr * m / (sqrt(v) + tau).  A new v starts at
// tau^2 (set by the caller).
void FedAdamStep(std::span<float> values, std::span<const float> delta, std::span<float> first,
                 std::span<float> second, const ServerStepOptions& options);
// v = v - (1-b2) d^2 sign(v - d^2), otherwise as FedAdam.
void FedYogiStep(std::span<float> values, std::span<const float> delta, std::span<float> first,
                 std::span<float> second, const ServerStepOptions& options);

// x += share * (mean - x): an expert on its way to the mean of its layer's.
void ConsensusStep(std::span<float> values, std::span<const float> mean, double share);

}  // namespace fedmoe
