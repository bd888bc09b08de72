#include "moe/moe_mlp.h"

#include <utility>

namespace fedmoe {

MoeMlp::MoeMlp(const ModelOptions& options, const ModelSpec& spec, std::vector<ExpertIndex> held,
               const ComputeOptions& compute)
    : MoeModel(options, spec, std::move(held), compute),
      trunk_weight_(store_.Named("trunk.weight")),
      trunk_bias_(store_.Named("trunk.bias")),
      norm_scale_(store_.Named("norm.scale")),
      head_weight_(store_.Named("head.weight")),
      head_bias_(store_.Named("head.bias")) {
  if (options.embedding > 0) embedding_ = store_.Named("embedding.weight");
}

torch::Tensor MoeMlp::Embed(const torch::Tensor& inputs) const {
  return embedding_.defined() ? torch::embedding(embedding_, inputs) : inputs;
}

torch::Tensor MoeMlp::Features(const torch::Tensor& embedded) const {
  return torch::relu(torch::linear(embedded.flatten(1), trunk_weight_, trunk_bias_));
}

torch::Tensor MoeMlp::Read(const torch::Tensor& inputs, const torch::Tensor& embedded,
                           const torch::Tensor& features) const {
  if (options_.gate_input == GateInput::kToken) return features;
  if (options_.gate_input == GateInput::kSequence) return embedded.mean(1);
  if (!embedding_.defined()) return inputs;
  const torch::Tensor counts =
      torch::zeros({inputs.size(0), options_.classes}, embedding_.options());
  const torch::Tensor share =
      torch::full(inputs.sizes(), 1.0 / static_cast<double>(inputs.size(1)), embedding_.options());
  return counts.scatter_add(1, inputs, share);
}

std::vector<GateOutput> MoeMlp::RunGates(const torch::Tensor& inputs) const {
  if (ffns_[0].layer == nullptr) return {};
  const torch::Tensor embedded = Embed(inputs);
  const torch::Tensor features =
      options_.gate_input == GateInput::kToken ? Features(embedded) : torch::Tensor();
  return {ffns_[0].layer->RunGate(Standardise(Read(inputs, embedded, features)))};
}

MoeOutput MoeMlp::Forward(const torch::Tensor& inputs, const ForwardOptions& options) const {
  MoeOutput output;
  const torch::Tensor embedded = Embed(inputs);
  const torch::Tensor features = Features(embedded);
  const auto read = [&] { return Read(inputs, embedded, features); };
  const torch::Tensor mixed = features + RunFfn(0, features, read, options, output);
  output.logits = torch::linear(RmsNorm(mixed, norm_scale_), head_weight_, head_bias_);
  return output;
}

}  // namespace fedmoe
