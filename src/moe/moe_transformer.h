// The libtorch module of the preset `moe_transformer`: a decoder that predicts the next id at every
// position.
//
//   x = embedding of the ids                                  [examples, positions, width]
//   `depth` blocks:
//     x <- x + Attention(RMSNorm(x))
//     x <- x + FFN(RMSNorm(x))
//   logits = RMSNorm(x) W_h                                   [examples * positions, classes]
//
// Attention is causal, in heads, with rotary positions (Su et al., 2021, arXiv 2104.09864):
// features i and i + d/2 of a head of d turn by position / 10000^(2i/d). No biases. The gate reads
// the token's features after the norm, or their mean over the positions so far: never those to
// come.
#pragma once

#include <vector>

#include "moe/moe_model.h"

namespace fedmoe {

class MoeTransformer final : public MoeModel {
 public:
  MoeTransformer(const ModelOptions& options, const ModelSpec& spec, std::vector<ExpertIndex> held,
                 const ComputeOptions& compute = {});
  // inputs: [examples, positions] int64, 0 to classes - 1, positions at most options.inputs.
  // logits: [examples * positions, classes], position by position.
  MoeOutput Forward(const torch::Tensor& inputs, const ForwardOptions& options = {}) const override;

 private:
  struct Block {
    torch::Tensor attention_norm_scale, query_key_value, attention_output, ffn_norm_scale;
  };
  torch::Tensor Attend(const Block& block, const torch::Tensor& features) const;
  torch::Tensor Rotate(const torch::Tensor& heads) const;
  // What the gate of a layer reads: [examples * positions, gate inputs]. shares: of the ids so far,
  // for a gate on the data; normed: the features that its FFN gets, [examples, positions, width].
  torch::Tensor Read(const torch::Tensor& shares, const torch::Tensor& normed) const;
  // Over the positions so far: [examples * positions, features].
  torch::Tensor RunningMean(const torch::Tensor& features) const;

  torch::Tensor embedding_, norm_scale_, head_weight_;
  std::vector<Block> blocks_;
  torch::Tensor cosine_, sine_;  // [positions, d/2]
  torch::Tensor mask_;           // [positions, positions]: 0 or -infinity
  torch::Tensor counts_;         // [positions, 1]: 1, 2, ...
};

}  // namespace fedmoe
