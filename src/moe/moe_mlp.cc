#include "moe/moe_mlp.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

namespace fedmoe {
namespace {

constexpr double kStandardiseEpsilon = 1e-5;
constexpr double kNormEpsilon = 1e-6;
// Keeps the logarithm and its gradient finite in float32 where no mass is left.
constexpr double kLeastMass = 1e-30;

torch::Tensor Standardise(const torch::Tensor& values) {
  return torch::layer_norm(values, {values.size(1)}, /*weight=*/{}, /*bias=*/{},
                           kStandardiseEpsilon);
}

torch::Tensor IndexTensor(const std::vector<ExpertIndex>& held) {
  std::vector<std::int64_t> indices(held.begin(), held.end());
  return torch::tensor(indices, torch::kInt64);
}

}  // namespace

MoeMlp::MoeMlp(const ModelOptions& options, const ModelSpec& spec, std::vector<ExpertIndex> held)
    : options_(options),
      spec_(spec),
      held_(std::move(held)),
      held_indices_(IndexTensor(held_)),
      parameters_(spec.blocks.size()) {
  AllocateParameters();
  trunk_weight_ = Named("trunk.weight");
  trunk_bias_ = Named("trunk.bias");
  gate_weight_ = Named("gate.weight");
  norm_scale_ = Named("norm.scale");
  head_weight_ = Named("head.weight");
  head_bias_ = Named("head.bias");
  for (const ExpertIndex expert : held_) {
    const std::string prefix = "experts." + std::to_string(expert) + ".";
    experts_.push_back({Named(prefix + "up.weight"), Named(prefix + "up.bias"),
                        Named(prefix + "down.weight"), Named(prefix + "down.bias")});
  }
}

void MoeMlp::AllocateParameters() {
  std::int64_t total = 0;
  for (int index = 0; index < static_cast<int>(spec_.blocks.size()); ++index) {
    const ParameterBlock& block = spec_.blocks[static_cast<std::size_t>(index)];
    if (block.owner == BlockOwner::kExpert &&
        !std::binary_search(held_.begin(), held_.end(), block.expert)) {
      continue;
    }
    held_blocks_.push_back(index);
    total += block.ElementCount();
  }
  values_ = torch::zeros({total}, torch::kFloat32);
  gradients_ = torch::zeros({total}, torch::kFloat32);
  std::int64_t offset = 0;
  for (const int index : held_blocks_) {
    const ParameterBlock& block = spec_.blocks[static_cast<std::size_t>(index)];
    const std::int64_t elements = block.ElementCount();
    const auto view = [&](const torch::Tensor& whole) {
      return whole.narrow(0, offset, elements).view(block.shape).detach();
    };
    torch::Tensor& parameter = parameters_[static_cast<std::size_t>(index)];
    parameter = view(values_).requires_grad_();
    parameter.mutable_grad() = view(gradients_);
    offset += elements;
  }
}

torch::Tensor MoeMlp::Parameter(int block_index) const {
  return parameters_.at(static_cast<std::size_t>(block_index));
}

torch::Tensor MoeMlp::Named(const std::string& name) const {
  const int index = spec_.Find(name);
  TORCH_CHECK(index >= 0, "the spec has no block '", name, "'");
  return Parameter(index);
}

torch::Tensor MoeMlp::Features(const torch::Tensor& inputs) const {
  return torch::relu(torch::linear(inputs, trunk_weight_, trunk_bias_));
}

torch::Tensor MoeMlp::GateProbabilities(const torch::Tensor& inputs) const {
  const bool reads_trunk = options_.gate_input == GateInput::kTrunk;
  const torch::Tensor read = Standardise(reads_trunk ? Features(inputs) : inputs);
  return torch::softmax(torch::linear(read, gate_weight_), 1);
}

MoeOutput MoeMlp::Forward(const torch::Tensor& inputs, DetachedGate detached_gate) const {
  MoeOutput output;
  const torch::Tensor features = Features(inputs);
  const bool reads_trunk = options_.gate_input == GateInput::kTrunk;
  const torch::Tensor gate_logits =
      torch::linear(Standardise(reads_trunk ? features : inputs), gate_weight_);
  output.gate_probabilities = torch::softmax(gate_logits, 1);
  if (detached_gate == DetachedGate::kCompute) {
    output.gate_probabilities_detached =
        reads_trunk ? torch::softmax(torch::linear(Standardise(features.detach()), gate_weight_), 1)
                    : output.gate_probabilities;
  }
  const torch::Tensor mixed = Route(features, gate_logits, output);
  const torch::Tensor mean_square = mixed.square().mean(1, /*keepdim=*/true);
  const torch::Tensor normed = mixed * torch::rsqrt(mean_square + kNormEpsilon) * norm_scale_;
  output.logits = torch::linear(normed, head_weight_, head_bias_);
  return output;
}

// y of the formulas above, and output.selected and .weights.
torch::Tensor MoeMlp::Route(const torch::Tensor& features, const torch::Tensor& gate_logits,
                            MoeOutput& output) const {
  const auto held = static_cast<std::int64_t>(held_.size());
  if (held == 0) return features;
  const std::int64_t chosen = std::min<std::int64_t>(options_.top_k, held);
  const auto [logits, slots] = gate_logits.index_select(1, held_indices_).topk(chosen, /*dim=*/1);
  // The softmax of the chosen logits is the softmax over the held, renormalised over the chosen.
  output.weights = torch::softmax(logits, 1);
  output.selected = held_indices_.index_select(0, slots.flatten()).view_as(slots);
  const torch::Tensor outputs = RunExperts(features, slots);  // [n, k', width]
  return features + (outputs * output.weights.unsqueeze(2)).sum(1);
}

// FFN_e(h) of every choice, [n, k', width]. Tokens are sorted by expert once, so that each expert
// runs one product over its own. `slots`: [n, k'], positions in held_.
torch::Tensor MoeMlp::RunExperts(const torch::Tensor& features, const torch::Tensor& slots) const {
  const auto held = static_cast<std::int64_t>(held_.size());
  const std::int64_t chosen = slots.size(1);
  const torch::Tensor flat = slots.flatten();
  std::vector<std::int64_t> counts(static_cast<std::size_t>(held), 0);
  const std::int64_t* slot = flat.data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < flat.numel(); ++i) ++counts[static_cast<std::size_t>(slot[i])];

  std::vector<std::int64_t> next(counts.size(), 0);
  for (std::size_t e = 1; e < counts.size(); ++e) next[e] = next[e - 1] + counts[e - 1];
  // tokens[p]: the row that stands at sorted position p; place[i]: the position of choice i.
  torch::Tensor tokens = torch::empty_like(flat);
  torch::Tensor place = torch::empty_like(flat);
  std::int64_t* token = tokens.data_ptr<std::int64_t>();
  std::int64_t* position = place.data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < flat.numel(); ++i) {
    const std::int64_t p = next[static_cast<std::size_t>(slot[i])]++;
    token[p] = i / chosen;
    position[i] = p;
  }

  const std::vector<torch::Tensor> inputs =
      features.index_select(0, tokens).split_with_sizes(counts, 0);
  std::vector<torch::Tensor> results;
  for (std::size_t e = 0; e < experts_.size(); ++e) {
    if (counts[e] == 0) continue;
    const Expert& expert = experts_[e];
    const torch::Tensor hidden =
        torch::relu(torch::linear(inputs[e], expert.up_weight, expert.up_bias));
    results.push_back(torch::linear(hidden, expert.down_weight, expert.down_bias));
  }
  return torch::cat(results, 0)
      .index_select(0, place)
      .view({features.size(0), chosen, features.size(1)});
}

torch::Tensor HeldMassLoss(const torch::Tensor& gate_probabilities,
                           const std::vector<ExpertIndex>& held) {
  if (static_cast<std::int64_t>(held.size()) == gate_probabilities.size(1)) {
    return torch::zeros({}, gate_probabilities.options());
  }
  const torch::Tensor mass = gate_probabilities.index_select(1, IndexTensor(held)).sum(1);
  return -torch::log(mass.clamp_min(kLeastMass)).mean();
}

}  // namespace fedmoe
