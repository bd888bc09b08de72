// The libtorch module of the preset `moe_mlp`: trunk, one FFN, head.
//
//   h = ReLU(x W_t + b_t)                                  trunk                  [n, width]
//   y = h + FFN(h), of one token an example; the gate reads h or x
//   logits = RMSNorm(y) W_h + b_h                          head                   [n, classes]
//
// Of text, x is the embeddings of a window's ids one after another (Bengio et al., 2003, "A Neural
// Probabilistic Language Model"), and the prediction is the id behind the window. The gate may read
// the embeddings' mean, or the share of each id in the window. Weights are stored as [outputs,
// inputs].
#pragma once

#include <vector>

#include "moe/moe_model.h"

namespace fedmoe {

class MoeMlp final : public MoeModel {
 public:
  MoeMlp(const ModelOptions& options, const ModelSpec& spec, std::vector<ExpertIndex> held,
         const ComputeOptions& compute = {});
  MoeOutput Forward(const torch::Tensor& inputs, const ForwardOptions& options = {}) const override;
  std::vector<GateOutput> RunGates(const torch::Tensor& inputs) const override;

 private:
  // What the trunk takes: [n, inputs], or of text the embeddings: [n, positions, embedding].
  torch::Tensor Embed(const torch::Tensor& inputs) const;
  torch::Tensor Features(const torch::Tensor& embedded) const;
  // What the gate reads, [n, gate inputs].
  torch::Tensor Read(const torch::Tensor& inputs, const torch::Tensor& embedded,
                     const torch::Tensor& features) const;

  torch::Tensor embedding_;  // undefined where inputs are numbers
  torch::Tensor trunk_weight_, trunk_bias_, norm_scale_, head_weight_, head_bias_;
};

}  // namespace fedmoe
