// Which model a run trains. Plain options without a body, so that `config` may include this header.
#pragma once

#include <map>
#include <string>

#include "federation/model_spec.h"
#include "kernels/moe_ffn.h"

namespace fedmoe {

enum class ExpertInitialization {
  kAlike,  // every expert of a layer starts from the same values
  kApart,  // each from its own
};

// What the gate reads, standardised over the feature axis.
enum class GateInput {
  kToken,  // the features of the token itself
  // Their mean over the example's tokens (moe_transformer: over those so far); of a moe_mlp that
  // reads text the mean embedding.
  kSequence,
  // The model's own input; of text the share of each id in the window (moe_transformer: so far).
  // Not of moe_cnn.
  kData,
};

// How what the gate reads is brought to one scale.
enum class GateNormalisation {
  kExample,  // each token's by itself: standardised over the feature axis, no more
  // Then each feature over the examples of all clients, by moments that clients measure and the
  // coordinator merges, so that the gate does not see what all clients have in common.
  kPopulation,
};

// docs/models.md says what each preset makes of them. 0 in `channels`, `depth`, `heads` and
// `dense_width` stands for the preset's own choice; where a preset has no use for one, or for
// `embedding`, it must be 0.
struct ModelOptions {
  std::string preset = "moe_mlp";
  int inputs = 32;    // features of an example, flattened; moe_transformer: positions of a window
  int classes = 8;    // moe_transformer: ids of the alphabet
  int channels = 0;   // moe_cnn: of the image; 0: 1
  int embedding = 0;  // moe_mlp: features of an id of text; 0: inputs are numbers, not ids
  int width = 64;     // of a token's features
  int depth = 0;  // moe_cnn: residual blocks a stage (0: 1); moe_transformer: decoder blocks (0: 4)
  int heads = 0;  // moe_transformer: of the attention; 0: one for each 32 features
  int moe_layers = 1;     // how many of the FFNs, the last ones, are MoE layers; 0: a dense model
  int dense_width = 0;    // hidden units of the FFNs that are not; 0: expert_width
  int expert_width = 64;  // hidden units of an expert
  int experts = 8;        // of each layer
  int top_k = 2;
  ExpertActivation expert_activation = ExpertActivation::kRelu;
  int shared_expert_width = 0;  // hidden units of an expert that every token passes; 0: none
  // Zero-computation experts of each layer (Jin et al., 2024, arXiv 2410.07348). They stand behind
  // the experts in the gate, belong to the trunk, and cost a client no capacity.
  int zero_experts = 0;
  int copy_experts = 0;
  int constant_experts = 0;
  GateMode gate_mode = GateMode::kSharedAll;
  GateInput gate_input = GateInput::kToken;
  GateNormalisation gate_normalisation = GateNormalisation::kExample;
  // Steps after a task's training that give each held expert a gate of its own, all else frozen
  // (PHATGOOSE: Muqeeth et al., 2024, arXiv 2402.05859); whoever has all experts routes by these
  // gates. 0: none.
  int post_hoc_batches = 0;
  // A bias on each expert's selection, moved by its load (Wang et al., 2024, arXiv 2408.15664).
  bool selection_bias = false;
  ExpertInitialization expert_initialization = ExpertInitialization::kApart;
  // How far, of 1, whoever has all experts moves them towards their layer's mean before use. What
  // is trained and stored stays as it is.
  double soup = 0.0;

  // With the zeros above resolved.
  int Channels() const { return channels > 0 ? channels : 1; }
  int Depth() const;
  int Heads() const { return heads > 0 ? heads : (width >= 64 ? width / 32 : 1); }
  int DenseWidth() const { return dense_width > 0 ? dense_width : expert_width; }
  int FreeExperts() const { return zero_experts + copy_experts + constant_experts; }
  // What the model's input is: a window of ids, or numbers.
  bool ReadsText() const { return preset == "moe_transformer" || embedding > 0; }
  // Features that the gate reads.
  int GateInputs() const;
  // moe_cnn: pixels on a side of the image.
  int ImageSize() const;
};

// One FFN of a model: where it stands, and which MoE layer it is.
struct FfnPlace {
  std::string prefix;  // of its blocks' names: "" or "blocks.3."
  int layer = -1;      // 0 to moe_layers - 1, or -1: dense
};
// The FFNs of the preset, first to last.
std::vector<FfnPlace> FfnPlaces(const ModelOptions& options);

// The spec of a preset, with ModelSpec::options filled. INVALID_ARGUMENT naming the key, its value
// and range ("model.top_k must be 1 to model.experts (got 9 > 8)"). No libtorch: linked by the
// coordinator.
Result<ModelSpec> BuildModelSpec(const ModelOptions& options);

// The options as text, by configuration key below `model`.
std::map<std::string, std::string> ModelOptionsText(const ModelOptions& options);

// The inverse, as they travel to clients. INVALID_ARGUMENT names an option that this build does not
// know, or misses.
Result<ModelOptions> ParseModelOptions(const std::string& preset,
                                       const std::map<std::string, std::string>& options);

}  // namespace fedmoe
