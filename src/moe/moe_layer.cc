#include "moe/moe_layer.h"

#include <algorithm>
#include <cmath>

#include "common/counter_rng.h"
#include "moe/expert_tensor_ops.h"

namespace fedmoe {
namespace {

constexpr double kStandardiseEpsilon = 1e-5;
constexpr double kNormEpsilon = 1e-6;
// Bounds by how much a feature that hardly varies is magnified.
constexpr double kPopulationEpsilon = 1e-2;

// Drawn on the host, so that every device gets the same.
torch::Tensor NormalDraws(at::IntArrayRef shape, std::uint64_t key, torch::Device device) {
  CounterRng rng(key);
  torch::Tensor draws = torch::empty(shape, torch::kFloat32);
  float* value = draws.data_ptr<float>();
  for (std::int64_t i = 0; i < draws.numel(); ++i) value[i] = static_cast<float>(rng.NextNormal());
  return draws.to(device);
}

// [rows], how often each was chosen.
torch::Tensor ChosenCounts(const GateOutput& output) {
  const torch::Tensor chosen = output.selected.flatten();
  const torch::TensorOptions options = output.logits.options();
  return torch::zeros({output.logits.size(1)}, options)
      .scatter_add(0, chosen, torch::ones(chosen.sizes(), options));
}

}  // namespace

torch::Tensor Standardise(const torch::Tensor& values) {
  return torch::layer_norm(values, {values.size(-1)}, /*weight=*/{}, /*bias=*/{},
                           kStandardiseEpsilon);
}

torch::Tensor RmsNorm(const torch::Tensor& values, const torch::Tensor& scale) {
  const torch::Tensor mean_square = values.square().mean(-1, /*keepdim=*/true);
  return values * torch::rsqrt(mean_square + kNormEpsilon) * scale;
}

FfnParameters FfnOf(const ParameterStore& store, const std::string& prefix,
                    ExpertActivation activation) {
  FfnParameters ffn;
  ffn.up = store.Named(prefix + "up.weight");
  ffn.down = store.Named(prefix + "down.weight");
  if (activation == ExpertActivation::kSwiGlu) {
    ffn.gate = store.Named(prefix + "gate.weight");
  } else {
    ffn.up_bias = store.Named(prefix + "up.bias");
    ffn.down_bias = store.Named(prefix + "down.bias");
  }
  return ffn;
}

MoeLayer::MoeLayer(const ModelOptions& options, const FfnPlace& place, const ParameterStore& store)
    : options_(options),
      layer_(place.layer),
      path_(store.path()),
      gate_weight_(store.Named(place.prefix + "gate.weight")) {
  if (options.selection_bias) selection_bias_ = store.Named(place.prefix + "gate.bias").detach();
  if (options.gate_normalisation == GateNormalisation::kPopulation) {
    gate_mean_ = store.Named(place.prefix + "gate.mean").detach();
    gate_square_ = store.Named(place.prefix + "gate.square").detach();
  }
  if (options.post_hoc_batches > 0) post_hoc_ = store.Named(place.prefix + "gate.post_hoc");
  const int first = place.layer * options.experts;
  const int rows = options.experts + options.FreeExperts();
  std::vector<std::int64_t> candidates;
  std::vector<std::int64_t> positions(static_cast<std::size_t>(rows), -1);
  for (const ExpertIndex expert : store.held()) {
    const int row = expert - first;
    if (row < 0 || row >= options.experts) continue;
    positions[static_cast<std::size_t>(row)] = static_cast<std::int64_t>(experts_.size());
    candidates.push_back(row);
    rows_.push_back(row);
    experts_.push_back(FfnOf(store, place.prefix + "experts." + std::to_string(row) + ".",
                             options.expert_activation));
  }
  for (int row = options.experts; row < rows; ++row) candidates.push_back(row);
  candidates_ = torch::tensor(candidates, torch::kInt64).to(store.device());
  positions_ = torch::tensor(positions, torch::kInt64).to(store.device());
  if (options.shared_expert_width > 0) {
    shared_.push_back(FfnOf(store, place.prefix + "shared.", options.expert_activation));
  }
  for (int i = 0; i < options.constant_experts; ++i) {
    const std::string prefix = place.prefix + "constants." + std::to_string(i) + ".";
    constants_.push_back({store.Named(prefix + "mix.weight"), store.Named(prefix + "value")});
  }
}

GateOutput MoeLayer::RunGate(const torch::Tensor& read, bool post_hoc) const {
  GateOutput output;
  if (gate_mean_.defined()) output.read = read.detach();
  const double scale = std::sqrt(static_cast<double>(read.size(1)));
  output.logits =
      torch::linear(Normalised(read), post_hoc ? Standardise(post_hoc_) / scale : gate_weight_);
  output.probabilities = torch::softmax(output.logits, 1);
  return output;
}

torch::Tensor MoeLayer::Normalised(const torch::Tensor& read) const {
  if (!gate_mean_.defined() || gate_square_.sum().item<float>() == 0.0F) return read;
  const torch::Tensor variance = (gate_square_ - gate_mean_.square()).clamp_min(0.0);
  return (read - gate_mean_) * torch::rsqrt(variance + kPopulationEpsilon);
}

// The experts held; slots: positions in experts_.
torch::Tensor MoeLayer::RunHeld(const torch::Tensor& tokens, const torch::Tensor& slots,
                                const torch::Tensor& weights) const {
  if (path_ == ComputePath::kTensorOps) {
    return RunExpertsByTensorOps(options_.expert_activation, experts_, tokens, slots, weights);
  }
  return RunExperts(options_.expert_activation, experts_, tokens, slots, weights);
}

torch::Tensor MoeLayer::RunLoneExpert(const torch::Tensor& tokens, const torch::Tensor& read,
                                      int number) const {
  if (experts_.empty()) return torch::zeros_like(tokens);
  const std::int64_t slot = number % static_cast<int>(experts_.size());
  const std::int64_t row = rows_[static_cast<std::size_t>(slot)];
  const torch::Tensor weight =
      torch::sigmoid(torch::linear(Normalised(read.detach()), post_hoc_.narrow(0, row, 1)));
  return RunHeld(tokens, torch::full_like(weight, slot, torch::kInt64), weight);
}

void MoeLayer::MoveExpertsToMean(double share) const {
  const torch::NoGradGuard no_gradient;
  for (torch::Tensor FfnParameters::*part :
       {&FfnParameters::up, &FfnParameters::down, &FfnParameters::gate, &FfnParameters::up_bias,
        &FfnParameters::down_bias}) {
    std::vector<torch::Tensor> all;
    for (const FfnParameters& expert : experts_) {
      if ((expert.*part).defined()) all.push_back(expert.*part);
    }
    if (all.empty()) continue;
    const torch::Tensor mean = torch::stack(all).mean(0);
    for (torch::Tensor& values : all) values.add_(share * (mean - values));
  }
}

torch::Tensor MoeLayer::ForwardShared(const torch::Tensor& tokens) const {
  if (shared_.empty()) return torch::zeros_like(tokens);
  return RunDenseFfn(options_.expert_activation, shared_[0], tokens);
}

torch::Tensor MoeLayer::Forward(const torch::Tensor& tokens, const torch::Tensor& read,
                                const ForwardOptions& options, GateOutput& output) const {
  if (options.lone_expert >= 0) {
    return RunLoneExpert(tokens, read, options.lone_expert) + ForwardShared(tokens);
  }
  output = RunGate(read, options.post_hoc_gate);
  output.candidates = candidates_;
  if (options.detached_gate) {
    output.detached_logits = read.requires_grad()
                                 ? torch::linear(Normalised(read.detach()), gate_weight_)
                                 : output.logits;
  }
  torch::Tensor result;
  const auto add = [&result](const torch::Tensor& part) {
    result = result.defined() ? result + part : part;
  };
  if (candidates_.numel() > 0) {
    Choose(options, output);
    if (!experts_.empty()) {
      const torch::Tensor slots =
          positions_.index_select(0, output.selected.flatten()).view_as(output.selected);
      add(RunHeld(tokens, slots, output.weights));
    }
    if (options_.copy_experts + options_.constant_experts > 0) {
      add(RunZeroComputation(tokens, output));
    }
  }
  if (!shared_.empty()) add(ForwardShared(tokens));
  return result.defined() ? result : torch::zeros_like(tokens);
}

// output.selected and .weights.
void MoeLayer::Choose(const ForwardOptions& options, GateOutput& output) const {
  const std::int64_t chosen = std::min<std::int64_t>(options_.top_k, candidates_.numel());
  const torch::Tensor logits = output.logits.index_select(1, candidates_);
  torch::Tensor slots;
  {
    const torch::NoGradGuard no_gradient;
    torch::Tensor key = logits;
    if (options.gate_noise > 0.0) {
      const auto layer = static_cast<std::uint64_t>(layer_);
      key = key + options.gate_noise *
                      NormalDraws(key.sizes(), MixKey({options.noise_key, layer}), key.device());
    }
    // The bias evens the load of the joint gate.
    if (selection_bias_.defined() && !options.post_hoc_gate) {
      key = torch::softmax(key, 1) + selection_bias_.index_select(0, candidates_);
    }
    slots = std::get<1>(key.topk(chosen, /*dim=*/1));
  }
  // The softmax of the chosen logits is the softmax over the candidates, renormalised.
  output.weights = torch::softmax(logits.gather(1, slots), 1);
  output.selected = candidates_.index_select(0, slots.flatten()).view_as(slots);
}

// What copy and constant experts add.
torch::Tensor MoeLayer::RunZeroComputation(const torch::Tensor& tokens,
                                           const GateOutput& output) const {
  const std::int64_t first = options_.experts + options_.zero_experts;
  const auto weight_of = [&](const torch::Tensor& mask) {
    return (output.weights * mask.to(torch::kFloat32)).sum(1, /*keepdim=*/true);  // [t, 1]
  };
  const torch::Tensor copies =
      (output.selected >= first).logical_and(output.selected < first + options_.copy_experts);
  torch::Tensor result = weight_of(copies) * tokens;
  for (std::size_t i = 0; i < constants_.size(); ++i) {
    const auto row = first + options_.copy_experts + static_cast<std::int64_t>(i);
    const torch::Tensor mix = torch::softmax(torch::linear(tokens, constants_[i].mix), 1);
    result =
        result + weight_of(output.selected == row) *
                     (mix.narrow(1, 0, 1) * tokens + mix.narrow(1, 1, 1) * constants_[i].value);
  }
  return result;
}

void MoeLayer::UpdateSelectionBias(const GateOutput& output, double rate) const {
  if (!selection_bias_.defined() || !output.selected.defined()) return;
  const torch::NoGradGuard no_gradient;
  const torch::Tensor counts = ChosenCounts(output).index_select(0, candidates_);
  torch::Tensor bias = selection_bias_;  // shares the parameter's storage
  bias.index_add_(0, candidates_, torch::sign(counts.mean() - counts), rate);
}

torch::Tensor HeldMassLoss(const torch::Tensor& logits, const torch::Tensor& candidates) {
  if (candidates.numel() == logits.size(1)) return torch::zeros({}, logits.options());
  return (torch::logsumexp(logits, 1) - torch::logsumexp(logits.index_select(1, candidates), 1))
      .mean();
}

torch::Tensor BalanceLoss(const GateOutput& output) {
  const auto choices = static_cast<double>(output.selected.numel());
  const torch::Tensor share = ChosenCounts(output).index_select(0, output.candidates) / choices;
  const torch::Tensor mean =
      torch::softmax(output.logits.index_select(1, output.candidates), 1).mean(0);
  return (share * mean).sum() * static_cast<double>(output.candidates.numel());
}

torch::Tensor RouterZLoss(const GateOutput& output) {
  return torch::logsumexp(output.logits, 1).square().mean();
}

}  // namespace fedmoe
