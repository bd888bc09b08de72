// The experts' FFNs by libtorch's operators alone: RunExperts for any of its devices.
#pragma once

#include <vector>

#include "moe/expert_ffn.h"

namespace fedmoe {

// RunExperts (expert_ffn.h) without the kernels; gradients reach the parameters through autograd,
// and those of an expert without tokens stay undefined or as they were. The rows are sorted by
// expert; how many each has goes to the host, once a call. No sum depends on an order that the
// device chooses, as far as its matrix products do not.
torch::Tensor RunExpertsByTensorOps(ExpertActivation activation,
                                    const std::vector<FfnParameters>& experts,
                                    const torch::Tensor& tokens, const torch::Tensor& slots,
                                    const torch::Tensor& weights);

}  // namespace fedmoe
