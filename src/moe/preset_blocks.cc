#include "moe/preset_blocks.h"

#include <cmath>
#include <utility>

#include <fmt/format.h>

namespace fedmoe {
namespace {

struct Ffn {
  std::string prefix;  // "blocks.3.experts.5."
  int width;
  int hidden;
  ExpertActivation activation;
  double output_scale;
};

// up and down (and gate) of one FFN; `finish` gets each block.
template <typename Finish>
void AddFfnBlocks(const Ffn& ffn, const Finish& finish) {
  const auto add = [&](const char* part, std::vector<std::int64_t> shape, Initializer initializer,
                       double scale) {
    finish(part, TrunkBlock(ffn.prefix + part, std::move(shape), initializer, scale));
  };
  const bool gated = ffn.activation == ExpertActivation::kSwiGlu;
  const double up_bound = gated ? LinearBound(ffn.width) : ReluBound(ffn.width);
  if (gated) add("gate.weight", {ffn.hidden, ffn.width}, Initializer::kUniform, up_bound);
  add("up.weight", {ffn.hidden, ffn.width}, Initializer::kUniform, up_bound);
  if (!gated) add("up.bias", {ffn.hidden}, Initializer::kZeros, 0.0);
  add("down.weight", {ffn.width, ffn.hidden}, Initializer::kUniform,
      LinearBound(ffn.hidden) * ffn.output_scale);
  if (!gated) add("down.bias", {ffn.width}, Initializer::kZeros, 0.0);
}

void AddGate(const ModelOptions& options, const FfnPlace& place, int gate_inputs,
             std::vector<ParameterBlock>& blocks) {
  const int rows = options.experts + options.FreeExperts();
  const auto add = [&](ParameterBlock block) {
    if (options.gate_mode == GateMode::kLocal) block.owner = BlockOwner::kClient;
    blocks.push_back(std::move(block));
  };
  ParameterBlock weight = TrunkBlock(place.prefix + "gate.weight", {rows, gate_inputs},
                                     Initializer::kNormal, 1.0 / std::sqrt(gate_inputs));
  if (options.gate_mode == GateMode::kSharedRows) {
    weight.merge = MergeRule::kRowsByTokens;
    weight.expert = place.layer * options.experts;
  }
  add(std::move(weight));
  if (options.gate_normalisation == GateNormalisation::kPopulation) {
    for (const char* moment : {"gate.mean", "gate.square"}) {
      blocks.push_back(TrunkBlock(place.prefix + moment, {gate_inputs}, Initializer::kZeros, 0.0));
    }
  }
  if (options.post_hoc_batches > 0) {
    ParameterBlock own =
        TrunkBlock(place.prefix + "gate.post_hoc", {rows, gate_inputs}, Initializer::kZeros, 0.0);
    own.merge = MergeRule::kRowsByTokens;
    own.expert = place.layer * options.experts;
    blocks.push_back(std::move(own));
  }
  if (options.selection_bias) {
    add(TrunkBlock(place.prefix + "gate.bias", {rows}, Initializer::kZeros, 0.0));
  }
}

void AddMoeLayer(const ModelOptions& options, const FfnPlace& place, int gate_inputs,
                 double output_scale, std::vector<ParameterBlock>& blocks) {
  AddGate(options, place, gate_inputs, blocks);
  const bool alike = options.expert_initialization == ExpertInitialization::kAlike;
  for (int expert = 0; expert < options.experts; ++expert) {
    const Ffn ffn = {.prefix = fmt::format("{}experts.{}.", place.prefix, expert),
                     .width = options.width,
                     .hidden = options.expert_width,
                     .activation = options.expert_activation,
                     .output_scale = output_scale};
    AddFfnBlocks(ffn, [&](const char* part, ParameterBlock block) {
      block.owner = BlockOwner::kExpert;
      block.expert = place.layer * options.experts + expert;
      block.merge = MergeRule::kByTokens;
      if (alike) block.init_key = fmt::format("{}experts.*.{}", place.prefix, part);
      blocks.push_back(std::move(block));
    });
  }
  if (options.shared_expert_width > 0) {
    AddFfnBlocks({.prefix = place.prefix + "shared.",
                  .width = options.width,
                  .hidden = options.shared_expert_width,
                  .activation = options.expert_activation,
                  .output_scale = output_scale},
                 [&](const char*, ParameterBlock block) { blocks.push_back(std::move(block)); });
  }
  for (int i = 0; i < options.constant_experts; ++i) {
    const std::string prefix = fmt::format("{}constants.{}.", place.prefix, i);
    blocks.push_back(TrunkBlock(prefix + "mix.weight", {2, options.width}, Initializer::kNormal,
                                1.0 / std::sqrt(options.width)));
    blocks.push_back(TrunkBlock(prefix + "value", {options.width}, Initializer::kZeros, 0.0));
  }
}

}  // namespace

double ReluBound(double fan_in) { return std::sqrt(6.0 / fan_in); }
double LinearBound(double fan_in) { return std::sqrt(3.0 / fan_in); }

ParameterBlock TrunkBlock(std::string name, std::vector<std::int64_t> shape,
                          Initializer initializer, double scale) {
  ParameterBlock block;
  block.name = std::move(name);
  block.shape = std::move(shape);
  block.initializer = initializer;
  block.scale = scale;
  block.init_key = block.name;
  return block;
}

void AddFfn(const ModelOptions& options, const FfnPlace& place, int gate_inputs,
            double output_scale, std::vector<ParameterBlock>& blocks) {
  if (place.layer >= 0) return AddMoeLayer(options, place, gate_inputs, output_scale, blocks);
  AddFfnBlocks({.prefix = place.prefix + "ffn.",
                .width = options.width,
                .hidden = options.DenseWidth(),
                .activation = options.expert_activation,
                .output_scale = output_scale},
               [&](const char*, ParameterBlock block) { blocks.push_back(std::move(block)); });
}

TokenCost ExpertCost(const ModelOptions& options, int hidden) {
  const double matrices = options.expert_activation == ExpertActivation::kSwiGlu ? 3.0 : 2.0;
  // One multiply-add is two operations.
  return {.flops = 2.0 * matrices * options.width * hidden,
          .activations = (matrices - 1.0) * hidden + hidden + 2.0 * options.width};
}

TokenCost TrunkFfnCost(const ModelOptions& options, int gate_inputs) {
  const double dense = static_cast<double>(FfnPlaces(options).size()) - options.moe_layers;
  const TokenCost ffn = ExpertCost(options, options.DenseWidth());
  const double rows = options.experts + options.FreeExperts();
  TokenCost gate = {.flops = 2.0 * rows * gate_inputs, .activations = 2.0 * rows};
  // The shares of ids are made for the gate alone.
  if (options.gate_input == GateInput::kData && options.ReadsText())
    gate.activations += gate_inputs;
  if (options.shared_expert_width > 0) {
    const TokenCost shared = ExpertCost(options, options.shared_expert_width);
    gate.flops += shared.flops;
    gate.activations += shared.activations;
  }
  return {.flops = dense * ffn.flops + options.moe_layers * gate.flops,
          .activations = dense * ffn.activations + options.moe_layers * gate.activations};
}

}  // namespace fedmoe
