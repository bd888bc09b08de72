// The presets as lists of parameter blocks; src/moe/moe_mlp.cc builds the module of the same names.
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "moe/model_options.h"

namespace fedmoe {
namespace {

constexpr int kMaxExtent = 1 << 20;
constexpr int kMaxExperts = 4096;

Status CheckExtent(const char* key, int value, int most) {
  if (value >= 1 && value <= most) return Status::Ok();
  return InvalidArgument(fmt::format("model.{} must be 1 to {} (got {})", key, most, value));
}

Status CheckOptions(const ModelOptions& options) {
  FEDMOE_RETURN_IF_ERROR(CheckExtent("inputs", options.inputs, kMaxExtent));
  FEDMOE_RETURN_IF_ERROR(CheckExtent("classes", options.classes, kMaxExtent));
  FEDMOE_RETURN_IF_ERROR(CheckExtent("width", options.width, kMaxExtent));
  FEDMOE_RETURN_IF_ERROR(CheckExtent("expert_width", options.expert_width, kMaxExtent));
  FEDMOE_RETURN_IF_ERROR(CheckExtent("experts", options.experts, kMaxExperts));
  if (options.top_k < 1 || options.top_k > options.experts) {
    const bool above = options.top_k > options.experts;
    return InvalidArgument(
        fmt::format("model.top_k must be 1 to model.experts (got {}{})", options.top_k,
                    above ? fmt::format(" > {}", options.experts) : std::string()));
  }
  return Status::Ok();
}

// Bounds of U(-b, b) that keep the variance of a layer's output at its input's: He et al., 2015
// (arXiv 1502.01852), with a factor 2 where a ReLU follows.
double ReluBound(int fan_in) { return std::sqrt(6.0 / fan_in); }
double LinearBound(int fan_in) { return std::sqrt(3.0 / fan_in); }

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

ParameterBlock GateBlock(const ModelOptions& options, int gate_inputs) {
  ParameterBlock block = TrunkBlock("gate.weight", {options.experts, gate_inputs},
                                    Initializer::kNormal, 1.0 / std::sqrt(gate_inputs));
  if (options.gate_mode == GateMode::kSharedRows) block.merge = MergeRule::kRowsByTokens;
  if (options.gate_mode == GateMode::kLocal) block.owner = BlockOwner::kClient;
  return block;
}

void AddExpert(const ModelOptions& options, ExpertIndex expert,
               std::vector<ParameterBlock>& blocks) {
  const auto add = [&](const char* part, std::vector<std::int64_t> shape, Initializer initializer,
                       double scale) {
    ParameterBlock block = TrunkBlock(fmt::format("experts.{}.{}", expert, part), std::move(shape),
                                      initializer, scale);
    block.owner = BlockOwner::kExpert;
    block.expert = expert;
    block.merge = MergeRule::kByTokens;
    if (options.expert_initialization == ExpertInitialization::kAlike) {
      block.init_key = fmt::format("experts.*.{}", part);
    }
    blocks.push_back(std::move(block));
  };
  add("up.weight", {options.expert_width, options.width}, Initializer::kUniform,
      ReluBound(options.width));
  add("up.bias", {options.expert_width}, Initializer::kZeros, 0.0);
  // Halved: an expert's output is added to the trunk's features, which it should not drown at the
  // start.
  add("down.weight", {options.width, options.expert_width}, Initializer::kUniform,
      LinearBound(options.expert_width) * 0.5);
  add("down.bias", {options.width}, Initializer::kZeros, 0.0);
}

ModelSpec BuildMoeMlp(const ModelOptions& options) {
  const double inputs = options.inputs;
  const double width = options.width;
  const double classes = options.classes;
  const double experts = options.experts;
  const int gate_inputs = options.gate_input == GateInput::kTrunk ? options.width : options.inputs;

  ModelSpec spec;
  spec.preset = options.preset;
  spec.options = ModelOptionsText(options);
  spec.experts = options.experts;
  spec.top_k = options.top_k;
  spec.gate_mode = options.gate_mode;
  // One multiply-add is two operations.
  spec.trunk_flops = 2.0 * (inputs * width + gate_inputs * experts + width * classes);
  spec.expert_flops = 2.0 * (2.0 * width * options.expert_width);
  spec.trunk_activations = 4.0 * width + inputs + 2.0 * classes + 2.0 * experts;
  spec.expert_activations = 2.0 * options.expert_width + 2.0 * width;

  std::vector<ParameterBlock>& blocks = spec.blocks;
  blocks.push_back(TrunkBlock("trunk.weight", {options.width, options.inputs},
                              Initializer::kUniform, ReluBound(options.inputs)));
  blocks.push_back(TrunkBlock("trunk.bias", {options.width}, Initializer::kZeros, 0.0));
  blocks.push_back(GateBlock(options, gate_inputs));
  for (ExpertIndex expert = 0; expert < options.experts; ++expert) {
    AddExpert(options, expert, blocks);
  }
  blocks.push_back(TrunkBlock("norm.scale", {options.width}, Initializer::kOnes, 0.0));
  blocks.push_back(TrunkBlock("head.weight", {options.classes, options.width},
                              Initializer::kUniform, LinearBound(options.width)));
  blocks.push_back(TrunkBlock("head.bias", {options.classes}, Initializer::kZeros, 0.0));
  return spec;
}

}  // namespace

Result<ModelSpec> BuildModelSpec(const ModelOptions& options) {
  if (options.preset != "moe_mlp") {
    return InvalidArgument(
        fmt::format("model.preset must be one of moe_mlp (got '{}')", options.preset));
  }
  FEDMOE_RETURN_IF_ERROR(CheckOptions(options));
  return BuildMoeMlp(options);
}

}  // namespace fedmoe
