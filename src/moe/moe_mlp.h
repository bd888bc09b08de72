// The libtorch module of the preset `moe_mlp`: trunk, one FFN, head.
//
//   h = ReLU(x W_t + b_t)                                  trunk                  [n, width]
//   y = h + FFN(h), of one token an example; the gate reads h or x
//   logits = RMSNorm(y) W_h + b_h                          head                   [n, classes]
//
// Weights are stored as [outputs, inputs].
#pragma once

#include <vector>

#include "moe/moe_model.h"

namespace fedmoe {

class MoeMlp final : public MoeModel {
 public:
  MoeMlp(const ModelOptions& options, const ModelSpec& spec, std::vector<ExpertIndex> held);
  MoeOutput Forward(const torch::Tensor& inputs, const ForwardOptions& options = {}) const override;
  std::vector<torch::Tensor> GateProbabilities(const torch::Tensor& inputs) const override;

 private:
  torch::Tensor Features(const torch::Tensor& inputs) const;

  torch::Tensor trunk_weight_, trunk_bias_, norm_scale_, head_weight_, head_bias_;
};

}  // namespace fedmoe
