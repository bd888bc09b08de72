// moe_transformer as blocks: embedding, decoder blocks of attention and FFN, head.
#include <cmath>

#include <fmt/format.h>

#include "moe/preset_blocks.h"

namespace fedmoe {
namespace {

// Of the embedding, Radford et al., 2019 (GPT-2).
constexpr double kEmbeddingDeviation = 0.02;

}  // namespace

ModelSpec BuildMoeTransformer(const ModelOptions& options) {
  const int depth = options.Depth();
  const double width = options.width;
  const double context = options.inputs;
  ModelSpec spec;
  std::vector<ParameterBlock>& blocks = spec.blocks;
  const auto norm = [&](const std::string& name) {
    blocks.push_back(TrunkBlock(name + ".scale", {options.width}, Initializer::kOnes, 0.0));
  };
  const auto linear = [&](const std::string& name, int outputs, double scale) {
    blocks.push_back(TrunkBlock(name + ".weight", {outputs, options.width}, Initializer::kUniform,
                                scale * LinearBound(width)));
  };
  // Two branches a block are added to the features: their sum keeps its variance.
  const double branch_scale = 1.0 / std::sqrt(2.0 * depth);

  blocks.push_back(TrunkBlock("embedding.weight", {options.classes, options.width},
                              Initializer::kNormal, kEmbeddingDeviation));
  const std::vector<FfnPlace> places = FfnPlaces(options);
  for (int i = 0; i < depth; ++i) {
    const std::string prefix = fmt::format("blocks.{}.", i);
    norm(prefix + "attention_norm");
    linear(prefix + "attention.query_key_value", 3 * options.width, 1.0);
    linear(prefix + "attention.output", options.width, branch_scale);
    norm(prefix + "ffn_norm");
    AddFfn(options, places[static_cast<std::size_t>(i)], options.GateInputs(), branch_scale,
           blocks);
  }
  norm("norm");
  linear("head", options.classes, 0.5);

  const TokenCost ffn = TrunkFfnCost(options, options.GateInputs());
  const double attention_flops = 2.0 * (4.0 * width * width + 2.0 * context * width);
  const double attention_activations = 8.0 * width + 2.0 * options.Heads() * context;
  spec.tokens_per_example = options.inputs;
  spec.trunk_flops =
      context * (depth * attention_flops + ffn.flops + 2.0 * width * options.classes);
  spec.trunk_activations = context * (depth * (attention_activations + 4.0 * width) +
                                      ffn.activations + 2.0 * options.classes + 2.0 * width);
  return spec;
}

}  // namespace fedmoe
