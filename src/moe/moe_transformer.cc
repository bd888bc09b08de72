#include "moe/moe_transformer.h"

#include <cmath>
#include <limits>
#include <string>
#include <utility>

namespace fedmoe {
namespace {

constexpr double kRotaryBase = 10'000.0;

}  // namespace

MoeTransformer::MoeTransformer(const ModelOptions& options, const ModelSpec& spec,
                               std::vector<ExpertIndex> held, const ComputeOptions& compute)
    : MoeModel(options, spec, std::move(held), compute),
      embedding_(store_.Named("embedding.weight")),
      norm_scale_(store_.Named("norm.scale")),
      head_weight_(store_.Named("head.weight")) {
  for (int i = 0; i < options.Depth(); ++i) {
    const std::string prefix = "blocks." + std::to_string(i) + ".";
    blocks_.push_back({store_.Named(prefix + "attention_norm.scale"),
                       store_.Named(prefix + "attention.query_key_value.weight"),
                       store_.Named(prefix + "attention.output.weight"),
                       store_.Named(prefix + "ffn_norm.scale")});
  }
  const std::int64_t positions = options.inputs;
  const std::int64_t half = options.width / options.Heads() / 2;
  const torch::Tensor position = torch::arange(positions, torch::kFloat64).unsqueeze(1);
  const torch::Tensor rate =
      torch::pow(kRotaryBase, -torch::arange(half, torch::kFloat64) / static_cast<double>(half));
  const torch::Tensor angle = position * rate;
  const auto place = [&](const torch::Tensor& constant) {
    return constant.to(torch::kFloat32).to(store_.device());
  };
  cosine_ = place(angle.cos());
  sine_ = place(angle.sin());
  mask_ =
      place(torch::full({positions, positions}, -std::numeric_limits<float>::infinity()).triu(1));
  counts_ = place(position + 1.0);
}

MoeOutput MoeTransformer::Forward(const torch::Tensor& inputs,
                                  const ForwardOptions& options) const {
  MoeOutput output;
  const std::int64_t width = options_.width;
  torch::Tensor features = torch::embedding(embedding_, inputs);
  torch::Tensor shares;  // of the ids so far: the same for every layer
  if (options_.gate_input == GateInput::kData && !options.without_experts) {
    shares = RunningMean(torch::one_hot(inputs, options_.classes).to(torch::kFloat32));
  }
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const Block& block = blocks_[i];
    features = features + Attend(block, RmsNorm(features, block.attention_norm_scale));
    const torch::Tensor normed = RmsNorm(features, block.ffn_norm_scale);
    const torch::Tensor tokens = normed.view({-1, width});
    const auto read = [&] { return Read(shares, normed); };
    features = features + RunFfn(i, tokens, read, options, output).view_as(features);
  }
  output.logits = torch::linear(RmsNorm(features, norm_scale_).view({-1, width}), head_weight_);
  return output;
}

torch::Tensor MoeTransformer::Attend(const Block& block, const torch::Tensor& features) const {
  const std::int64_t examples = features.size(0);
  const std::int64_t positions = features.size(1);
  const std::int64_t heads = options_.Heads();
  const std::int64_t head_width = options_.width / heads;
  // [3, examples, heads, positions, head_width]
  const torch::Tensor all = torch::linear(features, block.query_key_value)
                                .view({examples, positions, 3, heads, head_width})
                                .permute({2, 0, 3, 1, 4});
  const torch::Tensor query = Rotate(all[0]) / std::sqrt(static_cast<double>(head_width));
  const torch::Tensor key = Rotate(all[1]);
  const torch::Tensor mask = mask_.narrow(0, 0, positions).narrow(1, 0, positions);
  const torch::Tensor scores = torch::softmax(torch::matmul(query, key.transpose(2, 3)) + mask, 3);
  const torch::Tensor mixed = torch::matmul(scores, all[2])  // [examples, heads, positions, d]
                                  .transpose(1, 2)
                                  .reshape({examples, positions, options_.width});
  return torch::linear(mixed, block.attention_output);
}

// heads: [examples, heads, positions, d].
torch::Tensor MoeTransformer::Rotate(const torch::Tensor& heads) const {
  const std::int64_t half = heads.size(3) / 2;
  const torch::Tensor cosine = cosine_.narrow(0, 0, heads.size(2));
  const torch::Tensor sine = sine_.narrow(0, 0, heads.size(2));
  const torch::Tensor first = heads.narrow(3, 0, half);
  const torch::Tensor second = heads.narrow(3, half, half);
  return torch::cat({first * cosine - second * sine, second * cosine + first * sine}, 3);
}

torch::Tensor MoeTransformer::Read(const torch::Tensor& shares, const torch::Tensor& normed) const {
  switch (options_.gate_input) {
    case GateInput::kSequence:
      return RunningMean(normed);
    case GateInput::kData:
      return shares;
    default:
      return normed.view({-1, options_.width});
  }
}

torch::Tensor MoeTransformer::RunningMean(const torch::Tensor& features) const {
  const torch::Tensor counts = counts_.narrow(0, 0, features.size(1));
  return (features.cumsum(1) / counts).view({-1, features.size(2)});
}

}  // namespace fedmoe
