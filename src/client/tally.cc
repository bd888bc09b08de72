#include "client/tally.h"

#include <cmath>

#include <fmt/format.h>

namespace fedmoe {
namespace {

// Batches that wait on a device for their way to the host, so that its queue does not run empty at
// each of them. What they need is a few numbers a prediction.
constexpr std::size_t kWaitingBatches = 32;

// Calls `visit` for each tensor that the batch has, always in the same order.
template <typename Outcome, typename Visit>
void ForEachTensor(Outcome& batch, const Visit& visit) {
  const auto visit_defined = [&visit](auto& tensor) {
    if (tensor.defined()) visit(tensor);
  };
  visit_defined(batch.losses);
  visit_defined(batch.right);
  visit_defined(batch.loss);
  visit_defined(batch.gradient_norm);
  for (auto& layer : batch.layers) {
    visit_defined(layer.selected);
    visit_defined(layer.weights);
  }
}

}  // namespace

std::span<float> FloatsOf(const torch::Tensor& tensor) {
  TORCH_CHECK(tensor.is_cpu(), "the values of a tensor on ", tensor.device(), " were to be read");
  return {tensor.data_ptr<float>(), static_cast<std::size_t>(tensor.numel())};
}

std::vector<torch::Tensor> ToHost(const std::vector<torch::Tensor>& tensors) {
  if (tensors.empty()) return {};
  std::vector<torch::Tensor> flat;
  flat.reserve(tensors.size());
  for (const torch::Tensor& tensor : tensors) {
    flat.push_back(tensor.detach().to(torch::kFloat32).flatten());
  }
  const torch::Tensor all = torch::cat(flat).to(torch::kCPU);
  std::vector<torch::Tensor> host;
  host.reserve(tensors.size());
  std::int64_t begin = 0;
  for (const torch::Tensor& tensor : tensors) {
    host.push_back(
        all.narrow(0, begin, tensor.numel()).view(tensor.sizes()).to(tensor.scalar_type()));
    begin += tensor.numel();
  }
  return host;
}

torch::Tensor TaskLosses(const MoeOutput& output, const Batch& batch) {
  return torch::cross_entropy_loss(output.logits, batch.labels, {}, at::Reduction::None);
}

Status Diverged(const char* what, std::int64_t step, double learning_rate) {
  return Internal(fmt::format("training diverged: {} is not finite at step {} (learning rate {})",
                              what, step, learning_rate));
}

BatchOutcome OutcomeOf(const MoeOutput& output, const torch::Tensor& losses,
                       const torch::Tensor& labels) {
  const torch::NoGradGuard no_gradient;
  BatchOutcome batch;
  batch.losses = losses.detach();
  batch.right = output.logits.argmax(1).eq(labels);
  for (const GateOutput& gate : output.layers) {
    BatchOutcome::Choice& choice = batch.layers.emplace_back();
    if (gate.selected.defined()) choice = {gate.selected, gate.weights.detach()};
  }
  return batch;
}

Tally::Tally(const ModelSpec& spec)
    : tokens(static_cast<std::size_t>(spec.experts), 0.0),
      weight(tokens),
      weighted_loss(tokens),
      weighted_correct(tokens),
      experts_per_layer_(static_cast<std::size_t>(spec.ExpertsPerLayer())) {}

void Tally::Add(const BatchOutcome& batch) {
  const std::span<const float> losses = FloatsOf(batch.losses);
  const bool* right = batch.right.data_ptr<bool>();
  for (std::size_t row = 0; row < losses.size(); ++row) {
    predictions += 1.0;
    loss += losses[row];
    correct += right[row] ? 1.0 : 0.0;
  }
  for (std::size_t layer = 0; layer < batch.layers.size(); ++layer) {
    AddLayer(batch.layers[layer], layer * experts_per_layer_, batch);
  }
}

void Tally::AddLayer(const BatchOutcome::Choice& choice, std::size_t first_expert,
                     const BatchOutcome& batch) {
  if (!choice.selected.defined()) return;
  const std::span<const float> losses = FloatsOf(batch.losses);
  const bool* right = batch.right.data_ptr<bool>();
  const auto slots = static_cast<std::size_t>(choice.selected.numel());
  const std::size_t slots_per_prediction = slots / losses.size();
  const auto* selected = choice.selected.data_ptr<std::int64_t>();
  const auto* weights = choice.weights.data_ptr<float>();
  for (std::size_t slot = 0; slot < slots; ++slot) {
    const auto row = static_cast<std::size_t>(selected[slot]);
    if (row >= experts_per_layer_) continue;  // a zero-computation expert
    const std::size_t prediction = slot / slots_per_prediction;
    const std::size_t expert = first_expert + row;
    const double gate_weight = weights[slot];
    tokens[expert] += 1.0;
    weight[expert] += gate_weight;
    weighted_loss[expert] += gate_weight * losses[prediction];
    weighted_correct[expert] += right[prediction] ? gate_weight : 0.0;
  }
}

Status OutcomeLedger::Add(BatchOutcome batch) {
  if (path_ == ComputePath::kKernels) return Take(batch);
  waiting_.push_back(std::move(batch));
  return waiting_.size() < kWaitingBatches ? Status::Ok() : Flush();
}

Status OutcomeLedger::Flush() {
  std::vector<BatchOutcome> batches = std::exchange(waiting_, {});
  std::vector<torch::Tensor> tensors;
  for (const BatchOutcome& batch : batches) {
    ForEachTensor(batch, [&](const torch::Tensor& tensor) { tensors.push_back(tensor); });
  }
  tensors = ToHost(tensors);
  auto next = tensors.begin();
  for (BatchOutcome& batch : batches) {
    ForEachTensor(batch, [&](torch::Tensor& tensor) { tensor = *next++; });
    FEDMOE_RETURN_IF_ERROR(Take(batch));
  }
  return Status::Ok();
}

Status OutcomeLedger::Take(const BatchOutcome& batch) {
  ++batches_;
  const auto is_finite = [](const torch::Tensor& value) {
    return !value.defined() || std::isfinite(value.item<double>());
  };
  if (!is_finite(batch.loss)) return Diverged("loss", batches_, learning_rate_);
  tally_.Add(batch);
  return is_finite(batch.gradient_norm) ? Status::Ok()
                                        : Diverged("the gradient", batches_, learning_rate_);
}

}  // namespace fedmoe
