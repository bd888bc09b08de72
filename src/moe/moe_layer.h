// One MoE layer: gate, the experts held, the shared expert and the zero-computation experts.
//
//   a = softmax(r W_g)                    gate, over all experts of the layer   [t, rows]
//   candidates: the experts held, and the zero-computation experts
//   chosen: the top-k candidates by  r W_g + noise,  or, with a selection bias b,
//           by  softmax over the candidates of (r W_g + noise)  +  b
//   g = softmax over the chosen of r W_g                                        [t, k']
//   output = sum over the chosen of g_e E_e(x)  +  FFN_shared(x)
//
// r is what the gate reads, W_g without a bias. With GateNormalisation::kPopulation each feature of
// r is first (r - mean) / sqrt(square - mean^2 + 0.01), by the blocks gate.mean and gate.square,
// which no gradient reaches; r as it is as long as gate.square is zero, that is not measured yet.
// E_e(x): an expert's FFN; 0 (zero); x (copy);
// m_1 x + m_2 v with [m_1, m_2] = softmax(W_c x) (constant). Gate rows: the experts, then zero,
// copy and constant ones.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "moe/expert_ffn.h"
#include "moe/model_options.h"
#include "moe/parameter_store.h"

namespace fedmoe {

// What a pass through the gate of one layer yields. Tensors keep their autograd history. t: the
// tokens of the batch; rows: experts of the layer and zero-computation experts.
struct GateOutput {
  torch::Tensor logits;         // [t, rows]
  torch::Tensor probabilities;  // [t, rows], over all, before masking
  // The same values from a detached gate input, so that a loss on them reaches the gate's weights
  // only. Undefined unless asked for.
  torch::Tensor detached_logits;
  // What the gate was given, without autograd history: [t, gate inputs]. Undefined unless the
  // normalisation is kPopulation.
  torch::Tensor read;
  torch::Tensor candidates;  // [c] int64, ascending: the rows that may be chosen
  torch::Tensor selected;  // [t, k'] int64, rows chosen, k' = min(top_k, c); undefined where c is 0
  torch::Tensor weights;   // [t, k'] their gate weights, summing to 1; undefined likewise
};

// How a forward pass is to be done.
struct ForwardOptions {
  bool detached_gate = false;   // fill GateOutput::detached_logits
  double gate_noise = 0.0;      // standard deviation, on the logits that choose
  std::uint64_t noise_key = 0;  // of the draws; another for each step
  // MoE layers add their shared expert only, and give no GateOutput.
  bool without_experts = false;
  // Choose and weigh by the experts' own gates (ModelOptions::post_hoc_batches).
  bool post_hoc_gate = false;
  // Not negative: every MoE layer runs one of its held experts alone, number lone_expert modulo how
  // many there are, times the sigmoid of the expert's own gate: how these gates are trained.
  int lone_expert = -1;
};

// Refers to the parameters of `store`, which must outlive it. Not thread-safe.
class MoeLayer {
 public:
  MoeLayer(const ModelOptions& options, const FfnPlace& place, const ParameterStore& store);
  MoeLayer(const MoeLayer&) = delete;  // backward refers to it
  MoeLayer& operator=(const MoeLayer&) = delete;

  // tokens: [t, width]; read: [t, gate inputs], standardised. Returns [t, width], without the
  // residual.
  torch::Tensor Forward(const torch::Tensor& tokens, const torch::Tensor& read,
                        const ForwardOptions& options, GateOutput& output) const;
  // The shared expert alone: [t, width]; zeros where there is none.
  torch::Tensor ForwardShared(const torch::Tensor& tokens) const;
  // The gate alone: `logits`, `probabilities` and `read` of its output. `post_hoc`: by the experts'
  // own gates, each row standardised, over sqrt(gate inputs).
  GateOutput RunGate(const torch::Tensor& read, bool post_hoc = false) const;
  // Moves the held experts by `share` of the way to their mean.
  void MoveExpertsToMean(double share) const;
  // Moves each candidate's selection bias by `rate` towards an even load: up where fewer than the
  // mean of the candidates' tokens chose it, down where more did. No-op without a bias.
  void UpdateSelectionBias(const GateOutput& output, double rate) const;

 private:
  torch::Tensor Normalised(const torch::Tensor& read) const;
  torch::Tensor RunHeld(const torch::Tensor& tokens, const torch::Tensor& slots,
                        const torch::Tensor& weights) const;
  torch::Tensor RunLoneExpert(const torch::Tensor& tokens, const torch::Tensor& read,
                              int number) const;
  void Choose(const ForwardOptions& options, GateOutput& output) const;
  torch::Tensor RunZeroComputation(const torch::Tensor& tokens, const GateOutput& output) const;

  ModelOptions options_;
  int layer_ = 0;
  ComputePath path_;
  torch::Tensor gate_weight_;
  torch::Tensor gate_mean_, gate_square_;  // undefined without kPopulation
  torch::Tensor post_hoc_;                 // [rows, gate inputs]; undefined without
  torch::Tensor selection_bias_;           // undefined without
  torch::Tensor candidates_;               // [c] int64
  torch::Tensor positions_;                // [rows] int64: position in experts_, or -1
  std::vector<FfnParameters> experts_;     // held, ascending
  std::vector<std::int64_t> rows_;         // of the gate, theirs
  std::vector<FfnParameters> shared_;      // one or none
  struct Constant {
    torch::Tensor mix;    // [2, width]
    torch::Tensor value;  // [width]
  };
  std::vector<Constant> constants_;
};

// The parameters of one FFN whose blocks' names begin with `prefix` ("blocks.2.ffn.").
FfnParameters FfnOf(const ParameterStore& store, const std::string& prefix,
                    ExpertActivation activation);

// (v - mean(v)) / sqrt(var(v) + 1e-5) over the last axis, without parameters.
torch::Tensor Standardise(const torch::Tensor& values);
// y / sqrt(mean(y^2) + 1e-6) * scale over the last axis (Zhang and Sennrich, 2019, arXiv
// 1910.07467).
torch::Tensor RmsNorm(const torch::Tensor& values, const torch::Tensor& scale);

// The losses on a gate, each a scalar with its gradient.
//
// -mean(log(sum over the candidates of a)): the held-mass loss, of `logits` [t, rows]: pass
// detached_logits to train the gate only. 0 where every row is a candidate.
torch::Tensor HeldMassLoss(const torch::Tensor& logits, const torch::Tensor& candidates);
// c * sum over the candidates of f_e p_e: f_e the share of choices that fell on e, p_e its mean
// probability among the candidates; 1 where the load is even (Fedus et al., 2021, arXiv 2101.03961,
// equations 4 to 6, for top-k).
torch::Tensor BalanceLoss(const GateOutput& output);
// mean(log(sum exp logits)^2) (Zoph et al., 2022, arXiv 2202.08906, equation 5).
torch::Tensor RouterZLoss(const GateOutput& output);

}  // namespace fedmoe
