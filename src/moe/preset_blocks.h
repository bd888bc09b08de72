// The blocks that the presets have in common.
#pragma once

#include <string>
#include <vector>

#include "federation/model_spec.h"
#include "moe/model_options.h"

namespace fedmoe {

// Bounds of U(-b, b) that keep the variance of a layer's output at its input's: He et al., 2015
// (arXiv 1502.01852), with a factor 2 where a ReLU follows.
double ReluBound(double fan_in);
double LinearBound(double fan_in);

// A block of the trunk.
ParameterBlock TrunkBlock(std::string name, std::vector<std::int64_t> shape,
                          Initializer initializer, double scale);

// Adds the blocks of one FFN: of a dense one `<prefix>ffn.*`; of a MoE layer `<prefix>gate.*`,
// `<prefix>experts.<e>.*`, `<prefix>shared.*` and `<prefix>constants.<i>.*`. `output_scale` shrinks
// the initial output, which is added to the features that came in.
void AddFfn(const ModelOptions& options, const FfnPlace& place, int gate_inputs,
            double output_scale, std::vector<ParameterBlock>& blocks);

// Forward operations and activation floats of one token.
struct TokenCost {
  double flops = 0.0;
  double activations = 0.0;
};
TokenCost ExpertCost(const ModelOptions& options, int hidden);
// Of what the trunk runs for the FFNs of the model: dense ones, gates and shared experts.
TokenCost TrunkFfnCost(const ModelOptions& options, int gate_inputs);

// The presets; the options are checked.
ModelSpec BuildMoeMlp(const ModelOptions& options);
ModelSpec BuildMoeCnn(const ModelOptions& options);
ModelSpec BuildMoeTransformer(const ModelOptions& options);

}  // namespace fedmoe
