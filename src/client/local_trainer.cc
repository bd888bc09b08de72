#include "client/local_trainer.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <mutex>
#include <numeric>
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "client/example_source.h"
#include "client/training_run.h"
#include "common/clock.h"
#include "common/counter_rng.h"
#include "moe/moe_model.h"
#include "moe/torch.h"

namespace fedmoe {
namespace {

constexpr std::int64_t kEvaluationBatch = 512;
// Positions of text in a batch of an evaluation: bounds the logits.
constexpr std::int64_t kEvaluationPositions = 16'384;
// Examples that affinity is measured on: of a model whose gates stand behind its experts, a pass
// over all would take a third of the training's time.
constexpr std::size_t kAffinityExamples = 512;

// Runs `work` and turns what libtorch throws into a Status.
template <typename Work>
auto Guarded(const Work& work) -> decltype(work()) {
  try {
    return work();
  } catch (const c10::Error& error) {
    return Internal(fmt::format("libtorch: {}", error.what_without_backtrace()));
  } catch (const std::exception& error) {
    return Internal(fmt::format("libtorch: {}", error.what()));
  }
}

Status CheckTask(const TaskAssignment& task, const ModelSpec& spec) {
  const std::vector<ExpertIndex>& experts = task.experts;
  for (std::size_t i = 0; i < experts.size(); ++i) {
    if (experts[i] < 0 || experts[i] >= spec.experts || (i > 0 && experts[i] <= experts[i - 1])) {
      return InvalidArgument(
          fmt::format("task {}: experts must ascend within 0 to {} (got {} at position {})",
                      task.task, spec.experts - 1, experts[i], i));
    }
  }
  return Status::Ok();
}

Status CheckTraining(const TaskAssignment& task) {
  const TrainingOptions& training = task.training;
  if (training.batch_size < 1 || training.epochs < 1) {
    return InvalidArgument(
        fmt::format("task {}: batch_size and epochs must be at least 1 (got {} and {})", task.task,
                    training.batch_size, training.epochs));
  }
  return Status::Ok();
}

Status LoadShard(int shard, const ShardValues& shards, MoeModel& model) {
  const ModelSpec& spec = model.spec();
  const std::span<const float> values = shards(shard);
  if (static_cast<std::int64_t>(values.size()) != spec.ShardElements(shard)) {
    return InvalidArgument(fmt::format("shard {} has {} values, the model takes {}",
                                       spec.ShardName(shard), values.size(),
                                       spec.ShardElements(shard)));
  }
  std::size_t offset = 0;
  for (const int block : spec.BlocksOf(shard)) {
    const std::span<float> parameter = FloatsOf(model.parameters().Parameter(block));
    std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(offset), parameter.size(),
                parameter.begin());
    offset += parameter.size();
  }
  return Status::Ok();
}

// Those in no shard.
std::vector<int> ClientBlocks(const ModelSpec& spec) { return spec.BlocksOf(-1); }

Status LoadClientState(std::span<const std::byte> state, std::uint64_t seed, MoeModel& model) {
  const ModelSpec& spec = model.spec();
  const std::int64_t bytes = spec.ShardBytes(-1);
  if (!state.empty() && static_cast<std::int64_t>(state.size()) != bytes) {
    return InvalidArgument(fmt::format("the client state has {} bytes, the model's local gate {}",
                                       state.size(), bytes));
  }
  std::size_t offset = 0;
  for (const int block : ClientBlocks(spec)) {
    const std::span<float> parameter = FloatsOf(model.parameters().Parameter(block));
    if (state.empty()) {
      InitializeBlock(spec.blocks[static_cast<std::size_t>(block)], seed, parameter);
    } else {
      std::memcpy(parameter.data(), state.data() + offset, parameter.size_bytes());
      offset += parameter.size_bytes();
    }
  }
  return Status::Ok();
}

std::vector<std::byte> SaveClientState(const MoeModel& model) {
  std::vector<std::byte> state;
  for (const int block : ClientBlocks(model.spec())) {
    const auto bytes = std::as_bytes(FloatsOf(model.parameters().Parameter(block)));
    state.insert(state.end(), bytes.begin(), bytes.end());
  }
  return state;
}

// A pass without gradients over batches that need no more memory than one of training: there, what
// is kept of every layer has a gradient of its size.
PassOptions EvaluationPass(const Dataset& data, const TrainingOptions& training) {
  std::int64_t most = kEvaluationBatch;
  if (data.IsText()) {
    most = std::clamp<std::int64_t>(kEvaluationPositions / data.ExampleElements(), 1, most);
  }
  return {.batch_size = std::clamp<std::int64_t>(std::int64_t{2} * training.batch_size, 1, most)};
}

// Mean gate probability of each expert before masking; those of a layer sum to 1.
Result<std::vector<double>> MeasureAffinity(const MoeModel& model, const ExampleSource& source,
                                            const TaskAssignment& task,
                                            const TrainContext& context) {
  const torch::NoGradGuard no_gradient;
  const ModelSpec& spec = model.spec();
  const auto experts = static_cast<std::size_t>(spec.ExpertsPerLayer());
  std::vector<double> sums(static_cast<std::size_t>(spec.experts), 0.0);
  if (spec.experts == 0) return sums;
  std::vector<std::int64_t> order = source.Order();
  if (spec.tokens_per_example > 1 && order.size() > kAffinityExamples) {
    CounterRng::For(task.seed, task.client, task.round, "affinity").Shuffle(order);
    order.resize(kAffinityExamples);
  }
  ExampleSource::Pass pass(source, std::move(order),
                           EvaluationPass(source.dataset(), task.training));
  while (true) {
    FEDMOE_RETURN_IF_ERROR(CheckCancelled(context, task));
    FEDMOE_ASSIGN_OR_RETURN(const std::optional<Batch> batch, pass.Next());
    if (!batch) break;
    const std::vector<torch::Tensor> layers = model.GateProbabilities(batch->inputs);
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
      const std::span<const float> values = FloatsOf(layers[layer]);
      const auto rows = static_cast<std::size_t>(layers[layer].size(1));
      for (std::size_t i = 0; i < values.size(); ++i) {
        if (i % rows < experts) sums[layer * experts + i % rows] += values[i];
      }
    }
  }
  // Zero-computation experts have their share of the probability, which is not the experts'.
  for (std::size_t first = 0; first < sums.size(); first += experts) {
    const auto begin = sums.begin() + static_cast<std::ptrdiff_t>(first);
    const auto end = begin + static_cast<std::ptrdiff_t>(experts);
    const double total = std::accumulate(begin, end, 0.0);
    for (auto sum = begin; sum != end; ++sum) *sum /= total;
  }
  return sums;
}

}  // namespace

void SetTorchThreads(int threads) {
  torch::set_num_threads(std::max(1, threads));
  // libtorch allows this once in a process, before its first use.
  static std::once_flag once;
  std::call_once(once, [] {
    try {
      at::set_num_interop_threads(1);
    } catch (const std::exception&) {
      // The pool was started by someone else; nothing here uses it.
    }
  });
}

struct LocalTrainer::Implementation {
  Implementation(std::optional<Dataset> train_data, Dataset evaluation_data)
      : evaluation(std::move(evaluation_data)) {
    if (train_data) train.emplace(std::move(*train_data));
  }

  std::optional<ExampleSource> train;  // of a trainer
  ExampleSource evaluation;
  std::optional<ModelSpec> spec;
  ModelOptions options;
  std::uint64_t seed = 0;

  Status CheckData(const Dataset& data) const {
    const bool reads_text = options.preset == "moe_transformer";
    if (data.IsText() != reads_text) {
      return InvalidArgument(fmt::format("data '{}' is {}, model.preset {} takes {}", data.name,
                                         data.IsText() ? "text" : "not text", options.preset,
                                         reads_text ? "text" : "images or tables"));
    }
    if (data.ExampleElements() == options.inputs && data.classes == options.classes) {
      return Status::Ok();
    }
    return InvalidArgument(fmt::format(
        "data '{}' has {} features and {} classes, the model takes {} and {}", data.name,
        data.ExampleElements(), data.classes, options.inputs, options.classes));
  }

  Status Load(const ShardValues& shards, std::span<const std::byte> state, MoeModel& model) const {
    FEDMOE_RETURN_IF_ERROR(LoadShard(kTrunkShard, shards, model));
    for (const ExpertIndex expert : model.held()) {
      FEDMOE_RETURN_IF_ERROR(LoadShard(ShardOfExpert(expert), shards, model));
    }
    return LoadClientState(state, seed, model);
  }

  Result<TrainResult> Train(const TaskAssignment& task, const ShardValues& shards,
                            std::span<const std::byte> state, const TrainContext& context) const {
    const SteadyClock clock;
    const Milliseconds start_ms = clock.NowMs();
    const std::unique_ptr<MoeModel> model = BuildMoeModel(options, *spec, task.experts);
    FEDMOE_RETURN_IF_ERROR(Load(shards, state, *model));
    FEDMOE_ASSIGN_OR_RETURN(std::vector<double> affinity,
                            MeasureAffinity(*model, *train, task, context));
    TrainingRun run(task, *train, *model);
    FEDMOE_RETURN_IF_ERROR(run.Run(context));
    TrainResult result;
    result.feedback = run.Feedback();
    result.feedback.affinity = std::move(affinity);
    result.blocks = run.TakeDeltas(shards);
    result.state = SaveClientState(*model);
    result.feedback.train_s = static_cast<double>(clock.NowMs() - start_ms) / 1000.0;
    return result;
  }

  Result<EvaluationResult> Evaluate(const TaskAssignment& task, const ShardValues& shards,
                                    std::span<const std::byte> state,
                                    const TrainContext& context) const {
    const torch::NoGradGuard no_gradient;
    const std::unique_ptr<MoeModel> model = BuildMoeModel(options, *spec, task.experts);
    FEDMOE_RETURN_IF_ERROR(Load(shards, state, *model));
    Tally tally(*spec);
    ExampleSource::Pass pass(evaluation, evaluation.Order(),
                             EvaluationPass(evaluation.dataset(), task.training));
    std::int64_t done = 0;
    while (true) {
      FEDMOE_RETURN_IF_ERROR(CheckCancelled(context, task));
      FEDMOE_ASSIGN_OR_RETURN(const std::optional<Batch> batch, pass.Next());
      if (!batch) break;
      const MoeOutput output = model->Forward(batch->inputs);
      tally.Add(output, TaskLosses(output, *batch), batch->labels);
      done += batch->examples;
      ReportProgress(context, static_cast<double>(done) / static_cast<double>(evaluation.size()));
    }
    EvaluationResult result;
    result.task = task.task;
    result.correct = tally.correct;
    result.loss = tally.loss;
    result.examples = tally.predictions;
    return result;
  }
};

LocalTrainer::LocalTrainer(LocalData data)
    : implementation_(
          std::make_unique<Implementation>(std::move(data.train), std::move(data.holdout))) {}

LocalTrainer::LocalTrainer(Dataset test)
    : implementation_(std::make_unique<Implementation>(std::nullopt, std::move(test))) {}

LocalTrainer::~LocalTrainer() = default;

Status LocalTrainer::Prepare(const ModelSpec& spec, std::uint64_t seed) {
  Implementation& self = *implementation_;
  FEDMOE_ASSIGN_OR_RETURN(self.options, ParseModelOptions(spec.preset, spec.options));
  const ExampleSource& main = self.train ? *self.train : self.evaluation;
  FEDMOE_RETURN_IF_ERROR(self.CheckData(main.dataset()));
  if (main.size() == 0) {
    return InvalidArgument(fmt::format("data '{}' has no {} examples", main.dataset().name,
                                       self.train ? "training" : "test"));
  }
  return Guarded([&]() -> Status {
    if (!self.spec) {
      if (self.train) self.train->Materialise();
      self.evaluation.Materialise();
    }
    self.spec = spec;
    self.seed = seed;
    return Status::Ok();
  });
}

Result<TrainResult> LocalTrainer::Train(const TaskAssignment& task, const ShardValues& shards,
                                        std::span<const std::byte> state,
                                        const TrainContext& context) {
  const Implementation& self = *implementation_;
  if (!self.spec) return FailedPrecondition("the trainer is not prepared for a model");
  if (!self.train) return FailedPrecondition("an evaluator has no training data");
  FEDMOE_RETURN_IF_ERROR(CheckTask(task, *self.spec));
  FEDMOE_RETURN_IF_ERROR(CheckTraining(task));
  return Guarded([&]() { return self.Train(task, shards, state, context); });
}

Result<EvaluationResult> LocalTrainer::Evaluate(const TaskAssignment& task,
                                                const ShardValues& shards,
                                                std::span<const std::byte> state,
                                                const TrainContext& context) {
  const Implementation& self = *implementation_;
  if (!self.spec) return FailedPrecondition("the trainer is not prepared for a model");
  FEDMOE_RETURN_IF_ERROR(CheckTask(task, *self.spec));
  return Guarded([&]() { return self.Evaluate(task, shards, state, context); });
}

std::int64_t LocalTrainer::examples() const {
  return implementation_->train ? implementation_->train->size() : 0;
}

}  // namespace fedmoe
