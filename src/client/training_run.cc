#include "client/training_run.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include <fmt/format.h>

#include "common/counter_rng.h"

namespace fedmoe {
namespace {

Status Diverged(const char* what, std::int64_t step, const TrainingOptions& training) {
  return Internal(fmt::format("training diverged: {} is not finite at step {} (learning rate {})",
                              what, step, training.learning_rate));
}

bool UsesHeldMassLoss(const TaskAssignment& task, const ModelSpec& spec) {
  const auto held = static_cast<int>(task.experts.size());
  return spec.gate_mode == GateMode::kSharedAll && task.training.held_mass_lambda > 0.0 &&
         held > 0 && held < spec.experts;
}

}  // namespace

std::span<float> FloatsOf(const torch::Tensor& tensor) {
  return {tensor.data_ptr<float>(), static_cast<std::size_t>(tensor.numel())};
}

torch::Tensor TaskLosses(const MoeOutput& output, const Batch& batch) {
  return torch::cross_entropy_loss(output.logits, batch.labels, {}, at::Reduction::None);
}

void ReportProgress(const TrainContext& context, double fraction) {
  if (context.progress) context.progress(fraction);
}

Status CheckCancelled(const TrainContext& context, const TaskAssignment& task) {
  if (!context.cancelled || !context.cancelled()) return Status::Ok();
  return Cancelled(fmt::format("task {} was cancelled", task.task));
}

Tally::Tally(int experts)
    : tokens(static_cast<std::size_t>(experts), 0.0),
      weight(tokens),
      weighted_loss(tokens),
      weighted_correct(tokens) {}

void Tally::Add(const MoeOutput& output, const torch::Tensor& losses, const torch::Tensor& labels) {
  const torch::Tensor predicted = output.logits.argmax(1);
  const std::int64_t rows = labels.size(0);
  const auto* loss_of = losses.data_ptr<float>();
  const auto* label_of = labels.data_ptr<std::int64_t>();
  const auto* predicted_of = predicted.data_ptr<std::int64_t>();
  const std::int64_t chosen = output.selected.defined() ? output.selected.size(1) : 0;
  const auto* selected = chosen > 0 ? output.selected.data_ptr<std::int64_t>() : nullptr;
  const auto* weights = chosen > 0 ? output.weights.data_ptr<float>() : nullptr;
  for (std::int64_t row = 0; row < rows; ++row) {
    const bool right = label_of[row] == predicted_of[row];
    examples += 1.0;
    loss += loss_of[row];
    correct += right ? 1.0 : 0.0;
    for (std::int64_t slot = row * chosen; slot < (row + 1) * chosen; ++slot) {
      const auto expert = static_cast<std::size_t>(selected[slot]);
      const double gate = weights[slot];
      tokens[expert] += 1.0;
      weight[expert] += gate;
      weighted_loss[expert] += gate * loss_of[row];
      weighted_correct[expert] += right ? gate : 0.0;
    }
  }
}

TrainingRun::TrainingRun(const TaskAssignment& task, const ExampleSource& source, MoeMlp& model)
    : task_(task),
      source_(source),
      model_(model),
      tally_(model.spec().experts),
      values_(FloatsOf(model.Values())),
      gradients_(FloatsOf(model.Gradients())),
      received_(values_.begin(), values_.end()),
      optimizer_(task.training, values_.size()),
      uses_held_mass_(UsesHeldMassLoss(task, model.spec())) {}

Status TrainingRun::Run(const TrainContext& context) {
  const auto size = static_cast<std::size_t>(source_.size());
  const auto batch = std::min(static_cast<std::size_t>(task_.training.batch_size), size);
  const double total = static_cast<double>((size + batch - 1) / batch) * task_.training.epochs;
  for (int epoch = 0; epoch < task_.training.epochs; ++epoch) {
    const std::vector<std::int64_t> order = Shuffled(epoch);
    for (std::size_t first = 0; first < size; first += batch) {
      FEDMOE_RETURN_IF_ERROR(CheckCancelled(context, task_));
      const std::size_t count = std::min(batch, size - first);
      FEDMOE_RETURN_IF_ERROR(Step(source_.Gather(std::span(order).subspan(first, count))));
      ReportProgress(context, static_cast<double>(steps_) / total);
    }
  }
  const bool finite =
      std::all_of(values_.begin(), values_.end(), [](float value) { return std::isfinite(value); });
  return finite ? Status::Ok() : Diverged("a parameter", steps_, task_.training);
}

TrainingFeedback TrainingRun::Feedback() const {
  TrainingFeedback feedback;
  feedback.examples = source_.size();
  feedback.steps = steps_;
  feedback.train_loss = tally_.loss / tally_.examples;
  feedback.train_accuracy = tally_.correct / tally_.examples;
  feedback.tokens = tally_.tokens;
  feedback.expert_loss.assign(tally_.tokens.size(), 0.0);
  feedback.expert_accuracy.assign(tally_.tokens.size(), 0.0);
  for (std::size_t expert = 0; expert < tally_.tokens.size(); ++expert) {
    if (!(tally_.weight[expert] > 0.0)) continue;
    feedback.expert_loss[expert] = tally_.weighted_loss[expert] / tally_.weight[expert];
    feedback.expert_accuracy[expert] = tally_.weighted_correct[expert] / tally_.weight[expert];
  }
  return feedback;
}

std::vector<BlockDelta> TrainingRun::Deltas() const {
  std::vector<BlockDelta> deltas;
  std::size_t offset = 0;
  for (const int index : model_.HeldBlocks()) {
    const ParameterBlock& block = model_.spec().blocks[static_cast<std::size_t>(index)];
    const auto elements = static_cast<std::size_t>(block.ElementCount());
    const bool sent = block.owner == BlockOwner::kTrunk ||
                      (block.owner == BlockOwner::kExpert &&
                       tally_.tokens[static_cast<std::size_t>(block.expert)] > 0.0);
    if (sent) {
      BlockDelta& delta = deltas.emplace_back();
      delta.parameter = index;
      delta.delta.resize(elements);
      for (std::size_t i = 0; i < elements; ++i) {
        delta.delta[i] = values_[offset + i] - received_[offset + i];
      }
    }
    offset += elements;
  }
  return deltas;
}

std::vector<std::int64_t> TrainingRun::Shuffled(int epoch) const {
  std::vector<std::int64_t> order(static_cast<std::size_t>(source_.size()));
  std::iota(order.begin(), order.end(), 0);
  CounterRng::For(task_.seed, task_.client, task_.round, fmt::format("shuffle.{}", epoch))
      .Shuffle(order);
  return order;
}

Status TrainingRun::Step(const Batch& batch) {
  std::fill(gradients_.begin(), gradients_.end(), 0.0F);
  const MoeOutput output =
      model_.Forward(batch.features, uses_held_mass_ ? MoeMlp::DetachedGate::kCompute
                                                     : MoeMlp::DetachedGate::kOmit);
  const torch::Tensor losses = TaskLosses(output, batch);
  torch::Tensor loss = losses.mean();
  if (uses_held_mass_) {
    loss = loss + task_.training.held_mass_lambda *
                      HeldMassLoss(output.gate_probabilities_detached, task_.experts);
  }
  ++steps_;
  if (!std::isfinite(loss.item<float>())) return Diverged("loss", steps_, task_.training);
  loss.backward();
  tally_.Add(output, losses, batch.labels);
  const double norm = optimizer_.Step(values_, gradients_, received_);
  return std::isfinite(norm) ? Status::Ok() : Diverged("the gradient", steps_, task_.training);
}

}  // namespace fedmoe
