#include "moe/expert_tensor_ops.h"

#include <cstdint>
#include <tuple>

namespace fedmoe {
namespace {

// How often each of 0 to values - 1 occurs in `of`, on the host.
std::vector<std::int64_t> CountsOnHost(const torch::Tensor& of, std::int64_t values) {
  const torch::Tensor counts =
      torch::zeros({values}, of.options()).scatter_add(0, of, torch::ones_like(of)).to(torch::kCPU);
  const auto* first = counts.data_ptr<std::int64_t>();
  return {first, first + values};
}

}  // namespace

torch::Tensor RunExpertsByTensorOps(ExpertActivation activation,
                                    const std::vector<FfnParameters>& experts,
                                    const torch::Tensor& tokens, const torch::Tensor& slots,
                                    const torch::Tensor& weights) {
  TORCH_CHECK(!experts.empty(), "no expert to run");
  const std::int64_t count = tokens.size(0);
  const std::int64_t width = tokens.size(1);
  const std::int64_t per_token = slots.size(1);
  const torch::Tensor chosen = slots.flatten();
  // Slots that are routed to no expert here, which are negative, come first.
  const torch::Tensor order =
      std::get<1>(chosen.sort(/*stable=*/true, /*dim=*/0, /*descending=*/false));
  const std::vector<std::int64_t> rows =
      CountsOnHost(chosen.clamp_min(-1) + 1, static_cast<std::int64_t>(experts.size()) + 1);
  const torch::Tensor routed = order.narrow(0, rows[0], count * per_token - rows[0]);
  if (routed.size(0) == 0) return torch::zeros_like(tokens);
  // A token is repeated for its slots first, so that its gradient is a sum over a dimension, not
  // one of atomic additions: no index below occurs twice.
  const torch::Tensor inputs = tokens.unsqueeze(1)
                                   .expand({count, per_token, width})
                                   .reshape({count * per_token, width})
                                   .index_select(0, routed);
  std::vector<torch::Tensor> outputs;
  std::int64_t begin = 0;
  for (std::size_t expert = 0; expert < experts.size(); ++expert) {
    const std::int64_t mine = rows[expert + 1];
    if (mine == 0) continue;
    outputs.push_back(RunDenseFfn(activation, experts[expert], inputs.narrow(0, begin, mine)));
    begin += mine;
  }
  const torch::Tensor weighted =
      torch::cat(outputs) * weights.flatten().index_select(0, routed).unsqueeze(1);
  return torch::zeros({count * per_token, width}, tokens.options())
      .index_copy(0, routed, weighted)
      .view({count, per_token, width})
      .sum(1);
}

}  // namespace fedmoe
