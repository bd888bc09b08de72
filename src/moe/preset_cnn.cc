// moe_cnn as blocks: a stem, then three stages of residual blocks, each stage at half the size and
// twice the channels of the one before; FFNs in the last stage.
#include <array>

#include <fmt/format.h>

#include "moe/preset_blocks.h"

namespace fedmoe {
namespace {

// Adds a normalisation's scale and bias.
void AddNorm(const std::string& name, int channels, std::vector<ParameterBlock>& blocks) {
  blocks.push_back(TrunkBlock(name + ".scale", {channels}, Initializer::kOnes, 0.0));
  blocks.push_back(TrunkBlock(name + ".bias", {channels}, Initializer::kZeros, 0.0));
}

void AddConvolution(const std::string& name, int outputs, int inputs, int kernel, double scale,
                    std::vector<ParameterBlock>& blocks) {
  blocks.push_back(TrunkBlock(name + ".weight", {outputs, inputs, kernel, kernel},
                              Initializer::kUniform, scale * ReluBound(inputs * kernel * kernel)));
}

int Half(int size) { return (size + 1) / 2; }

}  // namespace

ModelSpec BuildMoeCnn(const ModelOptions& options) {
  const int depth = options.Depth();
  const std::array<int, 3> widths = {options.width / 4, options.width / 2, options.width};
  ModelSpec spec;
  std::vector<ParameterBlock>& blocks = spec.blocks;
  double operations = 0.0;
  double activations = options.inputs;
  const auto convolution = [&](const std::string& name, int outputs, int inputs, int kernel,
                               int size, double scale = 1.0) {
    AddConvolution(name, outputs, inputs, kernel, scale, blocks);
    operations += 2.0 * outputs * inputs * kernel * kernel * size * size;
    // What the convolution, its norm and its ReLU leave.
    activations += 3.0 * outputs * size * size;
  };

  int size = options.ImageSize();
  convolution("stem", widths[0], options.Channels(), 3, size);
  AddNorm("stem.norm", widths[0], blocks);
  size = Half(size);
  const std::vector<FfnPlace> places = FfnPlaces(options);
  int inputs = widths[0];
  for (int stage = 0; stage < 3; ++stage) {
    const int outputs = widths[static_cast<std::size_t>(stage)];
    if (stage > 0) size = Half(size);
    for (int i = 0; i < depth; ++i) {
      const std::string prefix = fmt::format("blocks.{}.", stage * depth + i);
      convolution(prefix + "conv1", outputs, inputs, 3, size);
      AddNorm(prefix + "norm1", outputs, blocks);
      convolution(prefix + "conv2", outputs, outputs, 3, size, 0.5);
      AddNorm(prefix + "norm2", outputs, blocks);
      if (inputs != outputs) convolution(prefix + "skip", outputs, inputs, 1, size);
      if (stage == 2) {
        blocks.push_back(TrunkBlock(prefix + "ffn_norm.scale", {outputs}, Initializer::kOnes, 0.0));
        AddFfn(options, places[static_cast<std::size_t>(i)], options.width, 0.5, blocks);
      }
      inputs = outputs;
    }
  }
  blocks.push_back(TrunkBlock("norm.scale", {options.width}, Initializer::kOnes, 0.0));
  blocks.push_back(TrunkBlock("head.weight", {options.classes, options.width},
                              Initializer::kUniform, LinearBound(options.width)));
  blocks.push_back(TrunkBlock("head.bias", {options.classes}, Initializer::kZeros, 0.0));

  const TokenCost ffn = TrunkFfnCost(options, options.width);
  spec.tokens_per_example = static_cast<std::int64_t>(size) * size;
  const auto tokens = static_cast<double>(spec.tokens_per_example);
  spec.trunk_flops = operations + tokens * ffn.flops + 2.0 * options.width * options.classes;
  spec.trunk_activations = activations + tokens * (ffn.activations + 2.0 * options.width * depth) +
                           options.width + 2.0 * options.classes;
  return spec;
}

}  // namespace fedmoe
