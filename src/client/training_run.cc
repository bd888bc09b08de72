#include "client/training_run.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <string>
#include <utility>

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

// Where the blocks `parts` of every MoE layer stand in the model's values.
std::vector<OptimizerState::Range> RangesOf(const MoeModel& model,
                                            const std::vector<std::string>& parts) {
  const ParameterStore& store = model.parameters();
  std::set<std::string> names;
  for (const FfnPlace& place : FfnPlaces(model.options())) {
    if (place.layer < 0) continue;
    for (const std::string& part : parts) names.insert(place.prefix + part);
  }
  std::vector<OptimizerState::Range> ranges;
  std::size_t offset = 0;
  for (const int index : store.HeldBlocks()) {
    const ParameterBlock& block = store.spec().blocks[static_cast<std::size_t>(index)];
    const auto elements = static_cast<std::size_t>(block.ElementCount());
    if (names.contains(block.name)) ranges.push_back({offset, offset + elements});
    offset += elements;
  }
  return ranges;
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

Tally::Tally(const ModelSpec& spec)
    : tokens(static_cast<std::size_t>(spec.experts), 0.0),
      weight(tokens),
      weighted_loss(tokens),
      weighted_correct(tokens),
      experts_per_layer_(static_cast<std::size_t>(spec.ExpertsPerLayer())) {}

void Tally::Add(const MoeOutput& output, const torch::Tensor& losses, const torch::Tensor& labels) {
  const torch::Tensor predicted = output.logits.argmax(1);
  const auto rows = static_cast<std::size_t>(labels.size(0));
  const auto* loss_of = losses.data_ptr<float>();
  const auto* label_of = labels.data_ptr<std::int64_t>();
  const auto* predicted_of = predicted.data_ptr<std::int64_t>();
  std::vector<bool> right(rows);
  for (std::size_t row = 0; row < rows; ++row) {
    right[row] = label_of[row] == predicted_of[row];
    predictions += 1.0;
    loss += loss_of[row];
    correct += right[row] ? 1.0 : 0.0;
  }
  for (std::size_t layer = 0; layer < output.layers.size(); ++layer) {
    AddLayer(output.layers[layer], layer * experts_per_layer_, loss_of, right);
  }
}

void Tally::AddLayer(const GateOutput& gate, std::size_t first_expert, const float* losses,
                     const std::vector<bool>& right) {
  if (!gate.selected.defined()) return;
  const auto slots = static_cast<std::size_t>(gate.selected.numel());
  const std::size_t slots_per_prediction = slots / right.size();
  const auto* selected = gate.selected.data_ptr<std::int64_t>();
  const auto* weights = gate.weights.data_ptr<float>();
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

TrainingRun::TrainingRun(const TaskAssignment& task, const ExampleSource& source, MoeModel& model)
    : task_(task),
      source_(source),
      model_(model),
      tally_(model.spec()),
      values_(FloatsOf(model.parameters().Values())),
      gradients_(FloatsOf(model.parameters().Gradients())),
      optimizer_(task.training, values_.size(), RangesOf(model, {"gate.weight"}),
                 RangesOf(model, {"gate.mean", "gate.square", "gate.post_hoc", "gate.bias"})),
      uses_held_mass_(UsesHeldMassLoss(task, model.spec())),
      // Where nothing is held the pass is without experts as it is.
      uses_trunk_loss_(task.training.trunk_lambda > 0.0 && !task.experts.empty()) {
  if (task.training.fedprox_mu != 0.0) received_.assign(values_.begin(), values_.end());
}

Status TrainingRun::Run(const TrainContext& context) {
  const std::int64_t size = source_.size();
  const std::int64_t batch_size = OptionsOf(0).batch_size;
  const int most = task_.training.max_batches;
  std::int64_t total = (size + batch_size - 1) / batch_size * task_.training.epochs;
  if (most > 0) total = std::min<std::int64_t>(total, most);
  for (int epoch = 0; epoch < task_.training.epochs && steps_ < total; ++epoch) {
    std::vector<std::int64_t> order = Shuffled(epoch);
    // Those of the batches that will be taken: others are not even read.
    order.resize(static_cast<std::size_t>(std::min(size, (total - steps_) * batch_size)));
    ExampleSource::Pass pass(source_, std::move(order), OptionsOf(epoch));
    while (true) {
      FEDMOE_RETURN_IF_ERROR(CheckCancelled(context, task_));
      FEDMOE_ASSIGN_OR_RETURN(const std::optional<Batch> batch, pass.Next());
      if (!batch) break;
      FEDMOE_RETURN_IF_ERROR(Step(*batch));
      ReportProgress(context, static_cast<double>(steps_) / static_cast<double>(total));
    }
  }
  optimizer_.Finish(values_);
  const bool finite =
      std::all_of(values_.begin(), values_.end(), [](float value) { return std::isfinite(value); });
  return finite ? Status::Ok() : Diverged("a parameter", steps_, task_.training);
}

Status TrainingRun::TrainPostHocGates(const TrainContext& context) {
  const int most = model_.options().post_hoc_batches;
  if (most == 0 || task_.experts.empty()) return Status::Ok();
  TrainingOptions training = task_.training;
  training.weight_decay = training.fedprox_mu = training.gate_learning_rate = 0.0;
  const std::vector<OptimizerState::Range> gates = RangesOf(model_, {"gate.post_hoc"});
  std::vector<OptimizerState> optimizers;
  for (const auto& [begin, end] : gates) optimizers.emplace_back(training, end - begin);

  const PassOptions options = OptionsOf(training.epochs);
  std::vector<std::int64_t> order = Shuffled(training.epochs);
  order.resize(static_cast<std::size_t>(std::min(source_.size(), most * options.batch_size)));
  ExampleSource::Pass pass(source_, std::move(order), options);
  for (int step = 0;; ++step) {
    FEDMOE_RETURN_IF_ERROR(CheckCancelled(context, task_));
    FEDMOE_ASSIGN_OR_RETURN(const std::optional<Batch> batch, pass.Next());
    if (!batch) return Status::Ok();
    std::fill(gradients_.begin(), gradients_.end(), 0.0F);
    const MoeOutput output = model_.Forward(batch->inputs, {.lone_expert = step});
    TaskLosses(output, *batch).mean().backward();
    for (std::size_t i = 0; i < gates.size(); ++i) {
      const auto [begin, end] = gates[i];
      const double norm = optimizers[i].Step(values_.subspan(begin, end - begin),
                                             gradients_.subspan(begin, end - begin), {});
      if (!std::isfinite(norm)) return Diverged("an expert's own gate", step + 1, task_.training);
    }
  }
}

TrainingFeedback TrainingRun::Feedback() const {
  TrainingFeedback feedback;
  feedback.examples = source_.size();
  feedback.steps = steps_;
  feedback.train_loss = tally_.loss / tally_.predictions;
  feedback.train_accuracy = tally_.correct / tally_.predictions;
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

std::vector<BlockDelta> TrainingRun::TakeDeltas(const ShardValues& shards) {
  optimizer_ = OptimizerState(task_.training, 0);
  received_ = {};
  gradients_ = {};
  model_.ReleaseGradients();
  const ModelSpec& spec = model_.spec();
  std::vector<BlockDelta> deltas;
  std::vector<std::size_t> shard_offsets(static_cast<std::size_t>(spec.ShardCount()), 0);
  std::size_t offset = 0;
  for (const int index : model_.parameters().HeldBlocks()) {
    const ParameterBlock& block = spec.blocks[static_cast<std::size_t>(index)];
    const auto elements = static_cast<std::size_t>(block.ElementCount());
    const std::span<const float> values = values_.subspan(offset, elements);
    offset += elements;
    const int shard = spec.ShardOf(index);
    if (shard < 0) continue;  // client state
    std::size_t& shard_offset = shard_offsets[static_cast<std::size_t>(shard)];
    const std::span<const float> received = shards(shard).subspan(shard_offset, elements);
    shard_offset += elements;
    if (block.owner == BlockOwner::kExpert &&
        !(tally_.tokens[static_cast<std::size_t>(block.expert)] > 0.0)) {
      continue;
    }
    BlockDelta& delta = deltas.emplace_back();
    delta.parameter = index;
    delta.delta.resize(elements);
    for (std::size_t i = 0; i < elements; ++i) delta.delta[i] = values[i] - received[i];
  }
  return deltas;
}

std::vector<std::int64_t> TrainingRun::Shuffled(int epoch) const {
  std::vector<std::int64_t> order = source_.Order();
  CounterRng::For(task_.seed, task_.client, task_.round, fmt::format("shuffle.{}", epoch))
      .Shuffle(order);
  return order;
}

std::uint64_t TrainingRun::KeyFor(const std::string& purpose) const {
  return CounterRng::For(task_.seed, task_.client, task_.round, purpose).NextU64();
}

PassOptions TrainingRun::OptionsOf(int epoch) const {
  const TrainingOptions& training = task_.training;
  return {.batch_size = std::min<std::int64_t>(training.batch_size, source_.size()),
          .augment = {.random_flip = training.random_flip,
                      .random_crop = training.random_crop,
                      .random_shift = training.random_shift},
          .augment_key = KeyFor(fmt::format("augment.{}", epoch)),
          .last_label = model_.spec().tokens_per_example == 1};
}

bool TrainingRun::HoldsExpertOf(std::size_t layer) const {
  const ModelSpec& spec = model_.spec();
  return std::any_of(model_.held().begin(), model_.held().end(), [&](ExpertIndex expert) {
    return static_cast<std::size_t>(spec.LayerOf(expert)) == layer;
  });
}

// What the gates of all layers add to the task's loss; undefined for nothing.
torch::Tensor TrainingRun::RouterLosses(const MoeOutput& output) const {
  const TrainingOptions& training = task_.training;
  torch::Tensor sum;
  const auto add = [&sum](double lambda, const torch::Tensor& loss) {
    sum = sum.defined() ? sum + lambda * loss : lambda * loss;
  };
  for (std::size_t layer = 0; layer < output.layers.size(); ++layer) {
    const GateOutput& gate = output.layers[layer];
    // A layer without an expert of this client has no mass to win; its zero-computation experts
    // shall not draw it away from the experts of others.
    if (uses_held_mass_ && HoldsExpertOf(layer)) {
      add(training.held_mass_lambda, HeldMassLoss(gate.detached_logits, gate.candidates));
    }
    if (training.balance_lambda > 0.0 && gate.selected.defined()) {
      add(training.balance_lambda, BalanceLoss(gate));
    }
    if (training.router_z_lambda > 0.0) add(training.router_z_lambda, RouterZLoss(gate));
  }
  return sum;
}

// The task's loss of what the trunk gives without any expert.
torch::Tensor TrainingRun::TrunkLoss(const Batch& batch) const {
  return TaskLosses(model_.Forward(batch.inputs, {.without_experts = true}), batch).mean();
}

Status TrainingRun::Step(const Batch& batch) {
  std::fill(gradients_.begin(), gradients_.end(), 0.0F);
  ForwardOptions forward = {.detached_gate = uses_held_mass_,
                            .gate_noise = task_.training.gate_noise};
  if (forward.gate_noise > 0.0) forward.noise_key = KeyFor(fmt::format("gate.noise.{}", steps_));
  const MoeOutput output = model_.Forward(batch.inputs, forward);
  const torch::Tensor losses = TaskLosses(output, batch);
  torch::Tensor loss = losses.mean();
  if (uses_trunk_loss_) loss = loss + task_.training.trunk_lambda * TrunkLoss(batch);
  if (const torch::Tensor router = RouterLosses(output); router.defined()) loss = loss + router;
  ++steps_;
  if (!std::isfinite(loss.item<float>())) return Diverged("loss", steps_, task_.training);
  loss.backward();
  tally_.Add(output, losses, batch.labels);
  const double norm = optimizer_.Step(values_, gradients_, received_);
  model_.UpdateSelectionBias(output, task_.training.selection_bias_rate);
  return std::isfinite(norm) ? Status::Ok() : Diverged("the gradient", steps_, task_.training);
}

}  // namespace fedmoe
