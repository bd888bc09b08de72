#include "moe/expert_ffn.h"

#include <memory>
#include <span>
#include <utility>

namespace fedmoe {
namespace {

std::span<const float> Values(const torch::Tensor& tensor) {
  return {tensor.data_ptr<float>(), static_cast<std::size_t>(tensor.numel())};
}

std::span<float> MutableValues(const torch::Tensor& tensor) {
  return {tensor.data_ptr<float>(), static_cast<std::size_t>(tensor.numel())};
}

float* PointerOf(const torch::Tensor& tensor) {
  return tensor.defined() ? tensor.data_ptr<float>() : nullptr;
}

float* GradientOf(const torch::Tensor& tensor) {
  return tensor.defined() ? tensor.grad().data_ptr<float>() : nullptr;
}

// What one pass through the experts needs again on the way back.
struct ExpertCall : torch::CustomClassHolder {
  MoeFfnShape shape;
  ExpertRouting routing;
  const std::vector<FfnParameters>* experts = nullptr;
  MoeFfnSaved<float> saved;
  bool keep = false;  // false: nothing will go back
};

std::vector<ExpertWeights<float>> WeightsOf(const std::vector<FfnParameters>& experts) {
  std::vector<ExpertWeights<float>> weights;
  for (const FfnParameters& expert : experts) {
    weights.push_back({.gate = PointerOf(expert.gate),
                       .up = PointerOf(expert.up),
                       .up_bias = PointerOf(expert.up_bias),
                       .down = PointerOf(expert.down),
                       .down_bias = PointerOf(expert.down_bias)});
  }
  return weights;
}

std::vector<ExpertGradients<float>> GradientsOf(const std::vector<FfnParameters>& experts) {
  std::vector<ExpertGradients<float>> gradients;
  for (const FfnParameters& expert : experts) {
    gradients.push_back({.gate = GradientOf(expert.gate),
                         .up = GradientOf(expert.up),
                         .up_bias = GradientOf(expert.up_bias),
                         .down = GradientOf(expert.down),
                         .down_bias = GradientOf(expert.down_bias)});
  }
  return gradients;
}

constexpr const char* kCall = "call";

class ExpertFunction : public torch::autograd::Function<ExpertFunction> {
 public:
  static torch::Tensor forward(torch::autograd::AutogradContext* context,
                               const torch::Tensor& tokens, const torch::Tensor& weights,
                               const c10::intrusive_ptr<ExpertCall>& call) {
    torch::Tensor output = torch::empty_like(tokens);
    MoeFfnForward<float>(call->shape, call->routing, WeightsOf(*call->experts), Values(tokens),
                         Values(weights), torch::get_num_threads(), MutableValues(output),
                         call->keep ? &call->saved : nullptr);
    context->save_for_backward({tokens, weights});
    context->saved_data[kCall] = c10::IValue::make_capsule(
        c10::static_intrusive_pointer_cast<torch::CustomClassHolder>(call));
    return output;
  }

  static torch::autograd::tensor_list backward(torch::autograd::AutogradContext* context,
                                               torch::autograd::tensor_list output_gradients) {
    const auto saved = context->get_saved_variables();
    const auto call =
        c10::static_intrusive_pointer_cast<ExpertCall>(context->saved_data[kCall].toCapsule());
    const torch::Tensor& tokens = saved[0];
    const torch::Tensor& weights = saved[1];
    const torch::Tensor from = output_gradients[0].contiguous();
    const torch::Tensor token_gradient =
        context->needs_input_grad(0) ? torch::empty_like(tokens) : torch::Tensor();
    const torch::Tensor weight_gradient =
        context->needs_input_grad(1) ? torch::empty_like(weights) : torch::Tensor();
    const auto into = [](const torch::Tensor& tensor) {
      return tensor.defined() ? MutableValues(tensor) : std::span<float>();
    };
    MoeFfnBackward<float>(call->shape, call->routing, WeightsOf(*call->experts), Values(tokens),
                          Values(weights), Values(from), call->saved, torch::get_num_threads(),
                          into(token_gradient), into(weight_gradient), GradientsOf(*call->experts));
    return {token_gradient, weight_gradient, torch::Tensor()};
  }
};

}  // namespace

torch::Tensor RunExperts(ExpertActivation activation, const std::vector<FfnParameters>& experts,
                         const torch::Tensor& tokens, const torch::Tensor& slots,
                         const torch::Tensor& weights) {
  TORCH_CHECK(!experts.empty(), "no expert to run");
  const torch::Tensor chosen = slots.contiguous();
  auto call = c10::make_intrusive<ExpertCall>();
  call->shape = {
      .width = experts[0].up.size(1), .hidden = experts[0].up.size(0), .activation = activation};
  call->routing =
      RouteTokens({chosen.data_ptr<std::int64_t>(), static_cast<std::size_t>(chosen.numel())},
                  chosen.size(1), static_cast<int>(experts.size()));
  call->experts = &experts;
  call->keep = torch::GradMode::is_enabled();
  return ExpertFunction::apply(tokens.contiguous(), weights.contiguous(), call);
}

torch::Tensor RunDenseFfn(ExpertActivation activation, const FfnParameters& ffn,
                          const torch::Tensor& tokens) {
  const torch::Tensor up = torch::linear(tokens, ffn.up, ffn.up_bias);
  switch (activation) {
    case ExpertActivation::kRelu:
      return torch::linear(torch::relu(up), ffn.down, ffn.down_bias);
    case ExpertActivation::kGelu:
      return torch::linear(torch::gelu(up), ffn.down, ffn.down_bias);
    case ExpertActivation::kSilu:
      return torch::linear(torch::silu(up), ffn.down, ffn.down_bias);
    case ExpertActivation::kSwiGlu:
      return torch::linear(torch::silu(torch::linear(tokens, ffn.gate)) * up, ffn.down,
                           ffn.down_bias);
  }
  TORCH_CHECK(false, "an activation outside its enumeration");
}

}  // namespace fedmoe
