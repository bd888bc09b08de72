#include "tests/support/fake_trainer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "common/counter_rng.h"

namespace fedmoe {
namespace {

std::uint64_t StateOf(std::span<const std::byte> bytes) {
  std::uint64_t state = 0;
  if (bytes.size() == sizeof(state)) std::memcpy(&state, bytes.data(), sizeof(state));
  return state;
}

// The received values of one block: its part of its shard.
std::span<const float> Received(const ModelSpec& spec, int index, const ShardValues& shards) {
  const int shard = spec.ShardOf(index);
  std::size_t offset = 0;
  for (const int other : spec.BlocksOf(shard)) {
    if (other == index) break;
    offset += static_cast<std::size_t>(spec.blocks[other].ElementCount());
  }
  return shards(shard).subspan(offset, static_cast<std::size_t>(spec.blocks[index].ElementCount()));
}

TrainingFeedback FeedbackOf(const ModelSpec& spec, const TaskAssignment& task,
                            std::int64_t examples) {
  CounterRng random = CounterRng::For(task.seed, task.client, task.round, "feedback");
  const auto experts = static_cast<std::size_t>(spec.experts);
  TrainingFeedback feedback;
  feedback.examples = examples;
  feedback.steps = 3;
  feedback.train_loss = random.NextUniform();
  feedback.train_accuracy = random.NextUniform();
  feedback.train_s = 0.5;
  feedback.tokens.assign(experts, 0.0);
  feedback.expert_loss.assign(experts, 0.0);
  feedback.expert_accuracy.assign(experts, 0.0);
  for (const ExpertIndex expert : task.experts) {
    // Now and then an expert sees no token.
    const double tokens = static_cast<double>(random.NextBelow(5) * (1 + random.NextBelow(40)));
    feedback.tokens[static_cast<std::size_t>(expert)] = tokens;
    feedback.expert_loss[static_cast<std::size_t>(expert)] =
        tokens > 0.0 ? random.NextUniform() : 0.0;
  }
  for (std::size_t e = 0; e < experts; ++e) {
    feedback.affinity.push_back(0.1 + random.NextUniform());
  }
  for (int layer = 0; layer < spec.layers; ++layer) {
    const auto begin = feedback.affinity.begin() + layer * spec.ExpertsPerLayer();
    const auto end = begin + spec.ExpertsPerLayer();
    const double sum = std::accumulate(begin, end, 0.0);
    std::for_each(begin, end, [sum](double& value) { value /= sum; });
  }
  return feedback;
}

}  // namespace

void AnswerLedger::Record(const TaskAssignment& task, const TrainResult& result) {
  const std::lock_guard lock(mutex_);
  answers_[{task.round, task.client}] = {task, result};
}

std::map<std::pair<RoundNumber, ClientId>, AnswerLedger::Answer> AnswerLedger::answers() const {
  const std::lock_guard lock(mutex_);
  return answers_;
}

Status FakeTrainer::Prepare(const ModelSpec& spec, std::uint64_t) {
  spec_ = spec;
  return Status::Ok();
}

TrainResult FakeTrainer::Answer(const ModelSpec& spec, const TaskAssignment& task,
                                const ShardValues& shards, std::span<const std::byte> state,
                                std::int64_t examples) {
  TrainResult result;
  result.feedback = FeedbackOf(spec, task, examples);
  const std::uint64_t before = StateOf(state);
  const double of_state = static_cast<double>(before % 97) / 970.0;
  for (int index = 0; index < static_cast<int>(spec.blocks.size()); ++index) {
    const ParameterBlock& block = spec.blocks[index];
    if (block.owner == BlockOwner::kClient) continue;
    if (block.owner == BlockOwner::kExpert &&
        !(result.feedback.tokens[static_cast<std::size_t>(block.expert)] > 0.0)) {
      continue;
    }
    CounterRng random = CounterRng::For(task.seed, task.client, task.round, "delta " + block.name);
    BlockDelta delta{.parameter = index, .delta = {}};
    for (const float value : Received(spec, index, shards)) {
      delta.delta.push_back(static_cast<float>(task.training.learning_rate * random.NextNormal() +
                                               of_state - 0.05 * value));
    }
    result.blocks.push_back(std::move(delta));
  }
  const std::uint64_t after =
      MixKey({before, KeyOf(task.client), static_cast<std::uint64_t>(task.round)});
  result.state.resize(sizeof(after));
  std::memcpy(result.state.data(), &after, sizeof(after));
  return result;
}

Result<TrainResult> FakeTrainer::Train(const TaskAssignment& task, const ShardValues& shards,
                                       std::span<const std::byte> state,
                                       const TrainContext& context) {
  if (context.cancelled()) return Cancelled("training was cancelled");
  TrainResult result = Answer(spec_, task, shards, state, examples_);
  context.progress(1.0);
  if (ledger_ != nullptr) ledger_->Record(task, result);
  before_answer(task, result);
  return result;
}

Result<EvaluationResult> FakeTrainer::Evaluate(const TaskAssignment& task,
                                               const ShardValues& shards,
                                               std::span<const std::byte>, const TrainContext&) {
  double sum = 0.0;
  for (const ShardReference& shard : task.shards) {
    for (const float value : shards(shard.shard)) sum += std::abs(value);
  }
  return EvaluationResult{.task = task.task,
                          .correct = std::floor(std::fmod(sum * 1000.0, 100.0)),
                          .loss = sum,
                          .examples = 100.0};
}

}  // namespace fedmoe
