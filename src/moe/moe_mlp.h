// The libtorch module of the preset `moe_mlp`: trunk, masked top-k gate, expert FFNs, head.
//
//   h = ReLU(x W_t + b_t)                                  trunk                  [n, width]
//   a = softmax(standardise(h or x) W_g)                   gate, all experts      [n, experts]
//   g = top-k of softmax over the experts held, renormalised
//   y = h + sum_{e in top-k} g_e FFN_e(h),  FFN_e(h) = W_down ReLU(W_up h + b_up) + b_down
//   logits = RMSNorm(y) W_h + b_h                          head                   [n, classes]
//
// standardise(v) = (v - mean(v)) / sqrt(var(v) + 1e-5) over the feature axis, without parameters;
// RMSNorm(y) = y / sqrt(mean(y^2) + 1e-6) * scale. The gate has no bias. Weights are stored as
// [outputs, inputs].
#pragma once

#include <string>
#include <vector>

#include "federation/model_spec.h"
#include "moe/model_options.h"
#include "moe/torch.h"

namespace fedmoe {

// What one forward pass yields. Tensors keep their autograd history.
struct MoeOutput {
  torch::Tensor logits;              // [n, classes]
  torch::Tensor gate_probabilities;  // [n, experts], over all experts, before masking
  // The same values from a detached gate input, so that a loss on them reaches the gate's weights
  // only. Undefined unless asked for.
  torch::Tensor gate_probabilities_detached;
  torch::Tensor selected;  // [n, k'] int64, experts chosen; k' = min(top_k, held); undefined when
                           // none is held
  torch::Tensor weights;   // [n, k'] their renormalised gate weights; undefined likewise
};

// Holds the trunk (and gate) and the experts it is given, no others. Not thread-safe. libtorch's
// exceptions (c10::Error, std::bad_alloc) pass through: the caller catches them.
class MoeMlp {
 public:
  enum class DetachedGate { kOmit, kCompute };

  // `spec` is BuildModelSpec(options). `held` ascending, within 0 to experts - 1; may be empty:
  // then y = h. All parameters start at zero.
  MoeMlp(const ModelOptions& options, const ModelSpec& spec, std::vector<ExpertIndex> held);
  MoeMlp(const MoeMlp&) = delete;
  MoeMlp& operator=(const MoeMlp&) = delete;

  // inputs: [n, inputs] float32. `detached_gate` asks for gate_probabilities_detached.
  MoeOutput Forward(const torch::Tensor& inputs,
                    DetachedGate detached_gate = DetachedGate::kOmit) const;
  // gate_probabilities alone, without running an expert.
  torch::Tensor GateProbabilities(const torch::Tensor& inputs) const;

  // Parameter of spec block `index`, or an undefined tensor if the module does not hold it (an
  // expert not held). Shares storage with the module.
  torch::Tensor Parameter(int block_index) const;
  // Indices of the blocks that the module holds, ascending; includes client state (a local gate).
  const std::vector<int>& HeldBlocks() const { return held_blocks_; }
  // All parameters in one vector, the blocks of HeldBlocks() one after another, and their gradients
  // likewise; the memory is the module's. Backward adds to the gradients, so set them to zero
  // first; the gradient of an expert without tokens stays as it was.
  const torch::Tensor& Values() const { return values_; }
  const torch::Tensor& Gradients() const { return gradients_; }
  const std::vector<ExpertIndex>& held() const { return held_; }
  const ModelSpec& spec() const { return spec_; }

 private:
  struct Expert {
    torch::Tensor up_weight;    // [expert_width, width]
    torch::Tensor up_bias;      // [expert_width]
    torch::Tensor down_weight;  // [width, expert_width]
    torch::Tensor down_bias;    // [width]
  };

  void AllocateParameters();
  torch::Tensor Named(const std::string& name) const;
  torch::Tensor Features(const torch::Tensor& inputs) const;
  torch::Tensor Route(const torch::Tensor& features, const torch::Tensor& gate_logits,
                      MoeOutput& output) const;
  torch::Tensor RunExperts(const torch::Tensor& features, const torch::Tensor& slots) const;

  ModelOptions options_;
  ModelSpec spec_;
  std::vector<ExpertIndex> held_;
  torch::Tensor held_indices_;  // [held] int64
  std::vector<int> held_blocks_;
  torch::Tensor values_;
  torch::Tensor gradients_;
  std::vector<torch::Tensor> parameters_;  // by block; views of values_
  torch::Tensor trunk_weight_, trunk_bias_, gate_weight_, norm_scale_, head_weight_, head_bias_;
  std::vector<Expert> experts_;  // by position in held_
};

// -mean(log(sum over held e of p_e)), a scalar: the held-mass loss. 0 where all experts are held,
// whatever the rounding. Its gradient reaches what `gate_probabilities` depends on: pass
// MoeOutput::gate_probabilities_detached to train the gate only. `held` must not be empty.
torch::Tensor HeldMassLoss(const torch::Tensor& gate_probabilities,
                           const std::vector<ExpertIndex>& held);

}  // namespace fedmoe
