// The experts' FFNs in libtorch's autograd: kernels/moe_ffn on tensors.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/moe_ffn.h"
#include "moe/torch.h"

namespace fedmoe {

// One FFN's parameters: float32, contiguous, leaves with a defined grad(). Those that the
// activation has no use for are undefined.
struct FfnParameters {
  torch::Tensor gate;       // [hidden, width]; kSwiGlu only
  torch::Tensor up;         // [hidden, width]
  torch::Tensor up_bias;    // [hidden]
  torch::Tensor down;       // [width, hidden]
  torch::Tensor down_bias;  // [width]
};

// y [tokens, width] = sum over slots of weights x FFN of the slot's expert. tokens: [t, width];
// slots: [t, k] int64, positions in `experts`, negative for none; weights: [t, k]. Gradients reach
// tokens and weights through autograd; those of the parameters are added to their grad() in place
// while backward runs, without a tensor of their own (as in fused gradient accumulation), so only
// once, by backward(), and not by torch::autograd::grad. `experts` must outlive backward.
torch::Tensor RunExperts(ExpertActivation activation, const std::vector<FfnParameters>& experts,
                         const torch::Tensor& tokens, const torch::Tensor& slots,
                         const torch::Tensor& weights);

// One FFN over all tokens: [t, width] -> [t, width], by autograd's own operators.
torch::Tensor RunDenseFfn(ExpertActivation activation, const FfnParameters& ffn,
                          const torch::Tensor& tokens);

}  // namespace fedmoe
