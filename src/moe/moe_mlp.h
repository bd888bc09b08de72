// The libtorch module of the preset `moe_mlp`: trunk, masked top-k gate, expert FFNs, head.
//
//   h = ReLU(x W_t + b_t)                                  trunk                  [n, width]
//   a = softmax(standardise(h or x) W_g)                   gate, all experts      [n, experts]
//   g = top-k of softmax over the experts held, renormalised
//   y = h + sum_{e in top-k} g_e FFN_e(h),  FFN_e(h) = W_down ReLU(W_up h + b_up) + b_down
//   logits = RMSNorm(y) W_h + b_h                          head                   [n, classes]
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/result.h"
#include "federation/model_spec.h"
#include "moe/model_options.h"
#include "moe/torch.h"

namespace fedmoe {

// What one forward pass yields. Tensors keep their autograd history.
struct MoeOutput {
  torch::Tensor logits;              // [n, classes]
  torch::Tensor gate_probabilities;  // [n, experts], over all experts, before masking
  torch::Tensor selected;  // [n, k'] int64, experts chosen; k' = min(top_k, held); undefined when
                           // none is held
  torch::Tensor weights;   // [n, k'] their renormalised gate weights
};

// Holds the trunk (and gate) and the experts it is given, no others. Not thread-safe.
class MoeMlp {
 public:
  // `held` ascending, within 0 to experts - 1; may be empty: then y = h. All parameters start at
  // zero.
  MoeMlp(const ModelOptions& options, const ModelSpec& spec, std::vector<ExpertIndex> held);

  MoeOutput Forward(const torch::Tensor& inputs) const;  // inputs: [n, inputs] float32

  // Parameter of spec block `index`, or an undefined tensor if the module does not hold it (an
  // expert not held). Shares storage with the module.
  torch::Tensor Parameter(int block_index) const;
  // Indices of the blocks that the module holds, ascending; includes client state (a local gate).
  const std::vector<int>& HeldBlocks() const { return held_blocks_; }
  const std::vector<ExpertIndex>& held() const { return held_; }
  const ModelSpec& spec() const { return spec_; }

 private:
  torch::Tensor Block(const std::string& name) const;

  ModelOptions options_;
  ModelSpec spec_;
  std::vector<ExpertIndex> held_;
  std::vector<int> held_blocks_;
  std::map<std::string, torch::Tensor> parameters_;
};

// -mean(log(sum over held e of p_e)): the held-mass loss, with gradient to the gate only. 0 where
// all experts are held.
torch::Tensor HeldMassLoss(const torch::Tensor& gate_probabilities,
                           const std::vector<ExpertIndex>& held);

}  // namespace fedmoe
