// Which model a run trains. Plain options without a body, so that `config` may include this header.
#pragma once

#include <map>
#include <string>

#include "federation/model_spec.h"

namespace fedmoe {

enum class ExpertInitialization {
  kAlike,  // every expert starts from the same values
  kApart,  // each from its own
};

// What the gate reads.
enum class GateInput {
  kTrunk,  // the trunk's features, standardised over the feature axis
  kData,   // the model's own input, standardised over the feature axis
};

struct ModelOptions {
  std::string preset = "moe_mlp";
  int inputs = 32;  // features of an example, flattened
  int classes = 8;
  int width = 64;  // of the trunk's features
  int expert_width = 64;
  int experts = 8;
  int top_k = 2;
  GateMode gate_mode = GateMode::kSharedAll;
  GateInput gate_input = GateInput::kTrunk;
  ExpertInitialization expert_initialization = ExpertInitialization::kApart;
};

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
