// A task's optimiser on a model's parameters, by the path that computes the model.
#pragma once

#include <memory>
#include <vector>

#include "client/optimizer_state.h"
#include "federation/training_options.h"
#include "moe/compute.h"
#include "moe/torch.h"

namespace fedmoe {

// The mathematics is that of OptimizerState. State of one task; not thread-safe.
class ModelOptimizer {
 public:
  virtual ~ModelOptimizer() = default;
  // One step from what backward left; the gradients are overwritten. The norm of the gradient
  // before clipping, one value, on the parameters' device or the host. Where that is not finite,
  // the training has failed and the values are of no account.
  virtual torch::Tensor Step() = 0;
  // After the last step: that of the gates.
  virtual void Finish() = 0;
};

// What an optimiser steps: float32 vectors of one length, whose storage it shares.
struct OptimizedVector {
  torch::Tensor values;
  torch::Tensor gradients;
  std::vector<OptimizerState::Range> gates;       // as in OptimizerState
  std::vector<OptimizerState::Range> left_alone;  // as in OptimizerState
};

// With FedProx the values as they are now are those received.
std::unique_ptr<ModelOptimizer> MakeModelOptimizer(ComputePath path, const TrainingOptions& options,
                                                   const OptimizedVector& vector);

}  // namespace fedmoe
