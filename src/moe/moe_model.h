// A model as a trainer sees it.
#pragma once

#include <memory>
#include <vector>

#include "moe/moe_layer.h"
#include "moe/parameter_store.h"

namespace fedmoe {

// What one forward pass yields. Tensors keep their autograd history. n predictions: one an example,
// or one a position (moe_transformer). Each MoE layer routes t tokens, a multiple of n: a
// prediction's tokens stand together.
struct MoeOutput {
  torch::Tensor logits;            // [n, classes]
  std::vector<GateOutput> layers;  // by MoE layer
};

// Holds the trunk (and gates) and the experts it is given, no others. Not thread-safe. libtorch's
// exceptions (c10::Error, std::bad_alloc) pass through: the caller catches them.
class MoeModel {
 public:
  virtual ~MoeModel() = default;
  MoeModel(const MoeModel&) = delete;
  MoeModel& operator=(const MoeModel&) = delete;

  // inputs: [examples, inputs] float32; of a model that reads text [examples, positions] int64 ids.
  // On the parameters' device, as is all that comes out.
  virtual MoeOutput Forward(const torch::Tensor& inputs,
                            const ForwardOptions& options = {}) const = 0;
  // By MoE layer: the gates alone (GateOutput::logits, probabilities, read) where the preset can do
  // without running an expert, else all of Forward.
  virtual std::vector<GateOutput> RunGates(const torch::Tensor& inputs) const;
  // Of every layer, after a step.
  void UpdateSelectionBias(const MoeOutput& output, double rate) const;
  // Of every layer: moves the held experts by `share` of the way to their layer's mean.
  void MoveExpertsToMean(double share) const;
  // See ParameterStore.
  void ReleaseGradients() { store_.ReleaseGradients(); }

  const ModelOptions& options() const { return options_; }
  const ParameterStore& parameters() const { return store_; }
  const ModelSpec& spec() const { return store_.spec(); }
  const std::vector<ExpertIndex>& held() const { return store_.held(); }

 protected:
  MoeModel(const ModelOptions& options, const ModelSpec& spec, std::vector<ExpertIndex> held,
           const ComputeOptions& compute);

  // FFN number `index` of FfnPlaces: [t, width] -> [t, width], without the residual; a MoE layer
  // appends its gate's output. `read` is called for what the gate reads, not yet standardised.
  template <typename Read>
  torch::Tensor RunFfn(std::size_t index, const torch::Tensor& tokens, const Read& read,
                       const ForwardOptions& options, MoeOutput& output) const {
    if (ffns_[index].layer == nullptr) {
      return RunDenseFfn(options_.expert_activation, ffns_[index].dense, tokens);
    }
    if (options.without_experts) return ffns_[index].layer->ForwardShared(tokens);
    return ffns_[index].layer->Forward(tokens, Standardise(read()), options,
                                       output.layers.emplace_back());
  }

  struct Ffn {
    std::unique_ptr<MoeLayer> layer;  // null: dense
    FfnParameters dense;
  };
  ModelOptions options_;
  ParameterStore store_;
  std::vector<Ffn> ffns_;
};

// The module of the preset. `spec` is BuildModelSpec(options). `held`: global expert indices,
// ascending, within 0 to spec.experts - 1; a layer without any adds its shared expert only. All
// parameters start at zero.
std::unique_ptr<MoeModel> BuildMoeModel(const ModelOptions& options, const ModelSpec& spec,
                                        std::vector<ExpertIndex> held,
                                        const ComputeOptions& compute = {});

}  // namespace fedmoe
