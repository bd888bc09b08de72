#include "moe/moe_mlp.h"

#include <utility>

namespace fedmoe {

MoeMlp::MoeMlp(const ModelOptions& options, const ModelSpec& spec, std::vector<ExpertIndex> held)
    : MoeModel(options, spec, std::move(held)),
      trunk_weight_(store_.Named("trunk.weight")),
      trunk_bias_(store_.Named("trunk.bias")),
      norm_scale_(store_.Named("norm.scale")),
      head_weight_(store_.Named("head.weight")),
      head_bias_(store_.Named("head.bias")) {}

torch::Tensor MoeMlp::Features(const torch::Tensor& inputs) const {
  return torch::relu(torch::linear(inputs, trunk_weight_, trunk_bias_));
}

std::vector<torch::Tensor> MoeMlp::GateProbabilities(const torch::Tensor& inputs) const {
  if (ffns_[0].layer == nullptr) return {};
  const bool reads_data = options_.gate_input == GateInput::kData;
  return {ffns_[0].layer->GateProbabilities(Standardise(reads_data ? inputs : Features(inputs)))};
}

MoeOutput MoeMlp::Forward(const torch::Tensor& inputs, const ForwardOptions& options) const {
  MoeOutput output;
  const torch::Tensor features = Features(inputs);
  const auto read = [&] { return options_.gate_input == GateInput::kData ? inputs : features; };
  const torch::Tensor mixed = features + RunFfn(0, features, read, options, output);
  output.logits = torch::linear(RmsNorm(mixed, norm_scale_), head_weight_, head_bias_);
  return output;
}

}  // namespace fedmoe
