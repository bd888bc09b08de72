#include "moe/moe_cnn.h"

#include <string>
#include <utility>

namespace fedmoe {
namespace {

constexpr double kNormEpsilon = 1e-5;

torch::Tensor Normalise(const torch::Tensor& image, const torch::Tensor& scale,
                        const torch::Tensor& bias) {
  const std::int64_t channels = image.size(1);
  std::int64_t groups = 8;
  while (channels % groups != 0 || channels / groups < 4) {
    if (groups == 1) break;
    groups /= 2;
  }
  return torch::group_norm(image, groups, scale, bias, kNormEpsilon);
}

torch::Tensor Convolve(const torch::Tensor& image, const torch::Tensor& weight, int stride) {
  const std::int64_t padding = weight.size(2) / 2;
  return torch::conv2d(image, weight, {}, stride, padding);
}

}  // namespace

MoeCnn::Norm MoeCnn::NormOf(const std::string& name) const {
  return {store_.Named(name + ".scale"), store_.Named(name + ".bias")};
}

MoeCnn::MoeCnn(const ModelOptions& options, const ModelSpec& spec, std::vector<ExpertIndex> held,
               const ComputeOptions& compute)
    : MoeModel(options, spec, std::move(held), compute),
      stem_(store_.Named("stem.weight")),
      stem_norm_(NormOf("stem.norm")),
      norm_scale_(store_.Named("norm.scale")),
      head_weight_(store_.Named("head.weight")),
      head_bias_(store_.Named("head.bias")) {
  const int depth = options.Depth();
  for (int i = 0; i < 3 * depth; ++i) {
    const std::string prefix = "blocks." + std::to_string(i) + ".";
    Block& block = blocks_.emplace_back();
    block.conv1 = store_.Named(prefix + "conv1.weight");
    block.conv2 = store_.Named(prefix + "conv2.weight");
    block.norm1 = NormOf(prefix + "norm1");
    block.norm2 = NormOf(prefix + "norm2");
    if (block.conv1.size(0) != block.conv1.size(1)) {
      block.skip = store_.Named(prefix + "skip.weight");
    }
    if (i > 0 && i % depth == 0) block.stride = 2;
    if (i >= 2 * depth) block.ffn_norm_scale = store_.Named(prefix + "ffn_norm.scale");
  }
}

MoeOutput MoeCnn::Forward(const torch::Tensor& inputs, const ForwardOptions& options) const {
  MoeOutput output;
  const int size = options_.ImageSize();
  torch::Tensor image = inputs.view({inputs.size(0), options_.Channels(), size, size});
  image = torch::relu(Normalise(Convolve(image, stem_, 1), stem_norm_.scale, stem_norm_.bias));
  image = torch::max_pool2d(image, {2, 2}, {2, 2}, {0, 0}, {1, 1}, /*ceil_mode=*/true);
  std::size_t ffn = 0;
  for (const Block& block : blocks_) {
    const torch::Tensor skip =
        block.skip.defined() ? Convolve(image, block.skip, block.stride) : image;
    torch::Tensor branch = Convolve(image, block.conv1, block.stride);
    branch = torch::relu(Normalise(branch, block.norm1.scale, block.norm1.bias));
    branch = Normalise(Convolve(branch, block.conv2, 1), block.norm2.scale, block.norm2.bias);
    image = torch::relu(skip + branch);
    if (block.ffn_norm_scale.defined()) {
      const torch::Tensor tokens = RunFfnOnImage(ffn++, image, options, output);
      image = tokens;
    }
  }
  const torch::Tensor pooled = image.mean({2, 3});
  output.logits = torch::linear(RmsNorm(pooled, norm_scale_), head_weight_, head_bias_);
  return output;
}

// image + FFN(RMSNorm(image)), a token for each position.
torch::Tensor MoeCnn::RunFfnOnImage(std::size_t index, const torch::Tensor& image,
                                    const ForwardOptions& options, MoeOutput& output) const {
  const std::int64_t examples = image.size(0);
  const std::int64_t width = image.size(1);
  const std::int64_t positions = image.size(2) * image.size(3);
  const torch::Tensor features = image.permute({0, 2, 3, 1}).reshape({examples * positions, width});
  const Block& block = blocks_[blocks_.size() - ffns_.size() + index];
  const torch::Tensor tokens = RmsNorm(features, block.ffn_norm_scale);
  const auto read = [&] {
    if (options_.gate_input == GateInput::kToken) return tokens;
    return tokens.view({examples, positions, width})
        .mean(1, /*keepdim=*/true)
        .expand({examples, positions, width})
        .reshape({examples * positions, width});
  };
  const torch::Tensor mixed = features + RunFfn(index, tokens, read, options, output);
  return mixed.view({examples, image.size(2), image.size(3), width})
      .permute({0, 3, 1, 2})
      .contiguous();
}

}  // namespace fedmoe
