#include "moe/moe_model.h"

#include <utility>

#include "moe/moe_cnn.h"
#include "moe/moe_mlp.h"
#include "moe/moe_transformer.h"

namespace fedmoe {

MoeModel::MoeModel(const ModelOptions& options, const ModelSpec& spec,
                   std::vector<ExpertIndex> held, const ComputeOptions& compute)
    : options_(options), store_(spec, std::move(held), compute) {
  for (const FfnPlace& place : FfnPlaces(options)) {
    Ffn& ffn = ffns_.emplace_back();
    if (place.layer >= 0) {
      ffn.layer = std::make_unique<MoeLayer>(options, place, store_);
    } else {
      ffn.dense = FfnOf(store_, place.prefix + "ffn.", options.expert_activation);
    }
  }
}

std::vector<GateOutput> MoeModel::RunGates(const torch::Tensor& inputs) const {
  return Forward(inputs).layers;
}

void MoeModel::UpdateSelectionBias(const MoeOutput& output, double rate) const {
  std::size_t index = 0;
  for (const Ffn& ffn : ffns_) {
    if (ffn.layer != nullptr) ffn.layer->UpdateSelectionBias(output.layers[index++], rate);
  }
}

void MoeModel::MoveExpertsToMean(double share) const {
  for (const Ffn& ffn : ffns_) {
    if (ffn.layer != nullptr) ffn.layer->MoveExpertsToMean(share);
  }
}

std::unique_ptr<MoeModel> BuildMoeModel(const ModelOptions& options, const ModelSpec& spec,
                                        std::vector<ExpertIndex> held,
                                        const ComputeOptions& compute) {
  if (options.preset == "moe_cnn") {
    return std::make_unique<MoeCnn>(options, spec, std::move(held), compute);
  }
  if (options.preset == "moe_transformer") {
    return std::make_unique<MoeTransformer>(options, spec, std::move(held), compute);
  }
  TORCH_CHECK(options.preset == "moe_mlp", "no module for preset '", options.preset, "'");
  return std::make_unique<MoeMlp>(options, spec, std::move(held), compute);
}

}  // namespace fedmoe
