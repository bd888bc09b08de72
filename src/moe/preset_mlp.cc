// moe_mlp as blocks.
#include <algorithm>

#include "moe/preset_blocks.h"

namespace fedmoe {

ModelSpec BuildMoeMlp(const ModelOptions& options) {
  const int features = options.inputs * std::max(options.embedding, 1);  // of the trunk's input
  const double inputs = features;
  const double width = options.width;
  const double classes = options.classes;
  const int gate_inputs = options.GateInputs();

  ModelSpec spec;
  const TokenCost ffn = TrunkFfnCost(options, gate_inputs);
  spec.trunk_flops = 2.0 * (inputs * width + width * classes) + ffn.flops;
  spec.trunk_activations = 4.0 * width + inputs + 2.0 * classes + ffn.activations;

  std::vector<ParameterBlock>& blocks = spec.blocks;
  if (options.embedding > 0) {
    blocks.push_back(TrunkBlock("embedding.weight", {options.classes, options.embedding},
                                Initializer::kNormal, 1.0));
  }
  blocks.push_back(TrunkBlock("trunk.weight", {options.width, features}, Initializer::kUniform,
                              ReluBound(inputs)));
  blocks.push_back(TrunkBlock("trunk.bias", {options.width}, Initializer::kZeros, 0.0));
  // Halved: the output is added to the trunk's features, which it should not drown at the start.
  for (const FfnPlace& place : FfnPlaces(options)) AddFfn(options, place, gate_inputs, 0.5, blocks);
  blocks.push_back(TrunkBlock("norm.scale", {options.width}, Initializer::kOnes, 0.0));
  blocks.push_back(TrunkBlock("head.weight", {options.classes, options.width},
                              Initializer::kUniform, LinearBound(options.width)));
  blocks.push_back(TrunkBlock("head.bias", {options.classes}, Initializer::kZeros, 0.0));
  return spec;
}

}  // namespace fedmoe
