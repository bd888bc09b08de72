#include "client/training_run.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "common/counter_rng.h"

namespace fedmoe {
namespace {

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

void ReportProgress(const TrainContext& context, double fraction) {
  if (context.progress) context.progress(fraction);
}

Status CheckCancelled(const TrainContext& context, const TaskAssignment& task) {
  if (!context.cancelled || !context.cancelled()) return Status::Ok();
  return Cancelled(fmt::format("task {} was cancelled", task.task));
}

TrainingRun::TrainingRun(const TaskAssignment& task, const ExampleSource& source, MoeModel& model)
    : task_(task),
      source_(source),
      model_(model),
      ledger_(model.spec(), model.parameters().path(), task.training.learning_rate),
      optimizer_(MakeModelOptimizer(
          model.parameters().path(), task.training,
          {.values = model.parameters().Values(),
           .gradients = model.parameters().Gradients(),
           .gates = RangesOf(model, {"gate.weight"}),
           .left_alone =
               RangesOf(model, {"gate.mean", "gate.square", "gate.post_hoc", "gate.bias"})})),
      uses_held_mass_(UsesHeldMassLoss(task, model.spec())),
      // Where nothing is held the pass is without experts as it is.
      uses_trunk_loss_(task.training.trunk_lambda > 0.0 && !task.experts.empty()) {}

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
  FEDMOE_RETURN_IF_ERROR(ledger_.Flush());
  optimizer_->Finish();
  const auto [smallest, largest] = torch::aminmax(model_.parameters().Values());
  const bool finite = torch::isfinite(torch::stack({smallest, largest})).all().item<bool>();
  return finite ? Status::Ok() : Diverged("a parameter", steps_, task_.training.learning_rate);
}

Status TrainingRun::TrainPostHocGates(const TrainContext& context) {
  const int most = model_.options().post_hoc_batches;
  if (most == 0 || task_.experts.empty()) return Status::Ok();
  TrainingOptions training = task_.training;
  training.weight_decay = training.fedprox_mu = training.gate_learning_rate = 0.0;
  const std::vector<OptimizerState::Range> gates = RangesOf(model_, {"gate.post_hoc"});
  const ParameterStore& store = model_.parameters();
  std::vector<std::unique_ptr<ModelOptimizer>> optimizers;
  for (const auto& [begin, end] : gates) {
    const auto first = static_cast<std::int64_t>(begin);
    const auto length = static_cast<std::int64_t>(end - begin);
    optimizers.push_back(
        MakeModelOptimizer(store.path(), training,
                           {.values = store.Values().narrow(0, first, length),
                            .gradients = store.Gradients().narrow(0, first, length)}));
  }

  const PassOptions options = OptionsOf(training.epochs);
  std::vector<std::int64_t> order = Shuffled(training.epochs);
  order.resize(static_cast<std::size_t>(std::min(source_.size(), most * options.batch_size)));
  ExampleSource::Pass pass(source_, std::move(order), options);
  for (int step = 0;; ++step) {
    FEDMOE_RETURN_IF_ERROR(CheckCancelled(context, task_));
    FEDMOE_ASSIGN_OR_RETURN(const std::optional<Batch> batch, pass.Next());
    if (!batch) return Status::Ok();
    store.Gradients().zero_();
    const MoeOutput output = model_.Forward(batch->inputs, {.lone_expert = step});
    TaskLosses(output, *batch).mean().backward();
    std::vector<torch::Tensor> norms;
    for (const auto& optimizer : optimizers) norms.push_back(optimizer->Step());
    if (!torch::isfinite(torch::stack(norms)).all().item<bool>()) {
      return Diverged("an expert's own gate", step + 1, training.learning_rate);
    }
  }
}

TrainingFeedback TrainingRun::Feedback() const {
  const Tally& tally = ledger_.tally();
  TrainingFeedback feedback;
  feedback.examples = source_.size();
  feedback.steps = steps_;
  feedback.train_loss = tally.loss / tally.predictions;
  feedback.train_accuracy = tally.correct / tally.predictions;
  feedback.tokens = tally.tokens;
  feedback.expert_loss.assign(tally.tokens.size(), 0.0);
  feedback.expert_accuracy.assign(tally.tokens.size(), 0.0);
  for (std::size_t expert = 0; expert < tally.tokens.size(); ++expert) {
    if (!(tally.weight[expert] > 0.0)) continue;
    feedback.expert_loss[expert] = tally.weighted_loss[expert] / tally.weight[expert];
    feedback.expert_accuracy[expert] = tally.weighted_correct[expert] / tally.weight[expert];
  }
  return feedback;
}

void TrainingRun::Release() {
  optimizer_.reset();
  model_.ReleaseGradients();
}

std::vector<BlockDelta> TrainingRun::Deltas(const ShardValues& shards,
                                            std::span<const float> values) const {
  const ModelSpec& spec = model_.spec();
  const ParameterStore& store = model_.parameters();
  const std::vector<double>& tokens = ledger_.tally().tokens;
  std::vector<BlockDelta> deltas;
  std::vector<std::size_t> shard_offsets(static_cast<std::size_t>(spec.ShardCount()), 0);
  for (const int index : store.HeldBlocks()) {
    const ParameterBlock& block = spec.blocks[static_cast<std::size_t>(index)];
    const auto elements = static_cast<std::size_t>(block.ElementCount());
    const std::span<const float> trained = values.subspan(store.OffsetOf(index), elements);
    const int shard = spec.ShardOf(index);
    if (shard < 0) continue;  // client state
    std::size_t& shard_offset = shard_offsets[static_cast<std::size_t>(shard)];
    const std::span<const float> received = shards(shard).subspan(shard_offset, elements);
    shard_offset += elements;
    if (block.owner == BlockOwner::kExpert &&
        !(tokens[static_cast<std::size_t>(block.expert)] > 0.0)) {
      continue;
    }
    BlockDelta& delta = deltas.emplace_back();
    delta.parameter = index;
    delta.delta.resize(elements);
    for (std::size_t i = 0; i < elements; ++i) delta.delta[i] = trained[i] - received[i];
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
  model_.parameters().Gradients().zero_();
  ForwardOptions forward = {.detached_gate = uses_held_mass_,
                            .gate_noise = task_.training.gate_noise};
  if (forward.gate_noise > 0.0) forward.noise_key = KeyFor(fmt::format("gate.noise.{}", steps_));
  const MoeOutput output = model_.Forward(batch.inputs, forward);
  const torch::Tensor losses = TaskLosses(output, batch);
  torch::Tensor loss = losses.mean();
  if (uses_trunk_loss_) loss = loss + task_.training.trunk_lambda * TrunkLoss(batch);
  if (const torch::Tensor router = RouterLosses(output); router.defined()) loss = loss + router;
  ++steps_;
  loss.backward();
  BatchOutcome outcome = OutcomeOf(output, losses, batch.labels);
  outcome.loss = loss.detach();
  outcome.gradient_norm = optimizer_->Step();
  model_.UpdateSelectionBias(output, task_.training.selection_bias_rate);
  return ledger_.Add(std::move(outcome));
}

}  // namespace fedmoe
