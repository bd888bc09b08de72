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
// Examples of which the gates' view is taken: of a model whose gates stand behind its experts, or
// of text, of which a round may train a small part, a pass over all would take a third of the
// training's time and more.
constexpr std::size_t kGateExamples = 512;
constexpr std::size_t kGateTextExamples = 4096;  // of one token each
// How far the gates' moments go in a round towards those measured in it.
constexpr double kMomentsRate = 0.2;

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

// Part of a model's values on the host.
std::span<float> PartOf(std::span<float> values, int block, const ParameterStore& store) {
  const ParameterBlock& part = store.spec().blocks[static_cast<std::size_t>(block)];
  return values.subspan(store.OffsetOf(block), static_cast<std::size_t>(part.ElementCount()));
}

// `host`: all values of the store, on the host.
Status LoadShard(int shard, const ShardValues& shards, const ParameterStore& store,
                 std::span<float> host) {
  const ModelSpec& spec = store.spec();
  const std::span<const float> values = shards(shard);
  if (static_cast<std::int64_t>(values.size()) != spec.ShardElements(shard)) {
    return InvalidArgument(fmt::format("shard {} has {} values, the model takes {}",
                                       spec.ShardName(shard), values.size(),
                                       spec.ShardElements(shard)));
  }
  std::size_t offset = 0;
  for (const int block : spec.BlocksOf(shard)) {
    const std::span<float> parameter = PartOf(host, block, store);
    std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(offset), parameter.size(),
                parameter.begin());
    offset += parameter.size();
  }
  return Status::Ok();
}

// Those in no shard.
std::vector<int> ClientBlocks(const ModelSpec& spec) { return spec.BlocksOf(-1); }

Status LoadClientState(std::span<const std::byte> state, std::uint64_t seed,
                       const ParameterStore& store, std::span<float> host) {
  const ModelSpec& spec = store.spec();
  const std::int64_t bytes = spec.ShardBytes(-1);
  if (!state.empty() && static_cast<std::int64_t>(state.size()) != bytes) {
    return InvalidArgument(fmt::format("the client state has {} bytes, the model's local gate {}",
                                       state.size(), bytes));
  }
  std::size_t offset = 0;
  for (const int block : ClientBlocks(spec)) {
    const std::span<float> parameter = PartOf(host, block, store);
    if (state.empty()) {
      InitializeBlock(spec.blocks[static_cast<std::size_t>(block)], seed, parameter);
    } else {
      std::memcpy(parameter.data(), state.data() + offset, parameter.size_bytes());
      offset += parameter.size_bytes();
    }
  }
  return Status::Ok();
}

std::vector<std::byte> SaveClientState(const ParameterStore& store, std::span<float> host) {
  std::vector<std::byte> state;
  for (const int block : ClientBlocks(store.spec())) {
    const auto bytes = std::as_bytes(PartOf(host, block, store));
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

// What the gates of the model as received say of the client's own data.
struct GateView {
  std::vector<double> affinity;  // by expert; those of a layer sum to 1
  // By MoE layer and feature that its gate reads: the means of the feature and of its square.
  // Empty unless the gates are normalised over the population.
  std::vector<torch::Tensor> means;
  std::vector<torch::Tensor> squares;
};

// The examples that a view of the gates is taken of.
std::vector<std::int64_t> GateExamples(const ExampleSource& source, const TaskAssignment& task,
                                       const ModelSpec& spec) {
  std::vector<std::int64_t> order = source.Order();
  const bool one_token = spec.tokens_per_example == 1;
  if (one_token && !source.dataset().IsText()) return order;
  const std::size_t most = one_token ? kGateTextExamples : kGateExamples;
  if (order.size() <= most) return order;
  CounterRng::For(task.seed, task.client, task.round, "affinity").Shuffle(order);
  order.resize(most);
  return order;
}

void AddMoments(const std::vector<GateOutput>& layers, GateView& view) {
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    const torch::Tensor read = layers[layer].read.to(torch::kFloat64);
    if (view.means.size() == layer) {
      view.means.push_back(torch::zeros({read.size(1)}, read.options()));
      view.squares.push_back(torch::zeros({read.size(1)}, read.options()));
    }
    view.means[layer] += read.sum(0);
    view.squares[layer] += read.square().sum(0);
  }
}

// On the host.
std::vector<torch::Tensor> ProbabilitiesOf(const std::vector<GateOutput>& layers,
                                           ComputePath path) {
  std::vector<torch::Tensor> probabilities;
  for (const GateOutput& layer : layers) probabilities.push_back(layer.probabilities);
  return path == ComputePath::kKernels ? probabilities : ToHost(probabilities);
}

Result<GateView> ViewGates(const MoeModel& model, const ExampleSource& source,
                           const TaskAssignment& task, const TrainContext& context) {
  const torch::NoGradGuard no_gradient;
  const ModelSpec& spec = model.spec();
  const auto experts = static_cast<std::size_t>(spec.ExpertsPerLayer());
  const bool moments = model.options().gate_normalisation == GateNormalisation::kPopulation;
  GateView view;
  std::vector<double>& sums = view.affinity;
  sums.assign(static_cast<std::size_t>(spec.experts), 0.0);
  if (spec.experts == 0) return view;
  double tokens = 0.0;
  ExampleSource::Pass pass(source, GateExamples(source, task, spec),
                           EvaluationPass(source.dataset(), task.training));
  while (true) {
    FEDMOE_RETURN_IF_ERROR(CheckCancelled(context, task));
    FEDMOE_ASSIGN_OR_RETURN(const std::optional<Batch> batch, pass.Next());
    if (!batch) break;
    const std::vector<GateOutput> layers = model.RunGates(batch->inputs);
    const std::vector<torch::Tensor> probabilities =
        ProbabilitiesOf(layers, model.parameters().path());
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
      const std::span<const float> values = FloatsOf(probabilities[layer]);
      const auto rows = static_cast<std::size_t>(probabilities[layer].size(1));
      for (std::size_t i = 0; i < values.size(); ++i) {
        if (i % rows < experts) sums[layer * experts + i % rows] += values[i];
      }
    }
    if (moments) AddMoments(layers, view);
    tokens += static_cast<double>(layers[0].probabilities.size(0));
  }
  // Zero-computation experts have their share of the probability, which is not the experts'.
  for (std::size_t first = 0; first < sums.size(); first += experts) {
    const auto begin = sums.begin() + static_cast<std::ptrdiff_t>(first);
    const auto end = begin + static_cast<std::ptrdiff_t>(experts);
    const double total = std::accumulate(begin, end, 0.0);
    for (auto sum = begin; sum != end; ++sum) *sum /= total;
  }
  for (torch::Tensor& mean : view.means) mean /= tokens;
  for (torch::Tensor& square : view.squares) square /= tokens;
  return view;
}

// Moves the gates' moments in the model towards the view's; all the way where they were not
// measured before.
void MoveMoments(const GateView& view, const MoeModel& model) {
  const torch::NoGradGuard no_gradient;
  std::size_t layer = 0;
  for (const FfnPlace& place : FfnPlaces(model.options())) {
    if (place.layer < 0 || layer == view.means.size()) continue;
    torch::Tensor mean = model.parameters().Named(place.prefix + "gate.mean");
    torch::Tensor square = model.parameters().Named(place.prefix + "gate.square");
    const double rate = square.sum().item<float>() == 0.0F ? 1.0 : kMomentsRate;
    mean.copy_(mean + rate * (view.means[layer] - mean));
    square.copy_(square + rate * (view.squares[layer] - square));
    ++layer;
  }
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
  Implementation(std::optional<Dataset> train_data, Dataset evaluation_data,
                 ComputeOptions compute_options)
      : evaluation(std::move(evaluation_data)), compute(std::move(compute_options)) {
    if (train_data) train.emplace(std::move(*train_data));
  }

  std::optional<ExampleSource> train;  // of a trainer
  ExampleSource evaluation;
  const ComputeOptions compute;
  std::optional<ModelSpec> spec;
  ModelOptions options;
  std::uint64_t seed = 0;

  Status CheckData(const Dataset& data) const {
    const bool reads_text = options.ReadsText();
    if (data.IsText() != reads_text) {
      const char* setting = options.preset != "moe_mlp" ? ""
                            : reads_text                ? " with model.embedding"
                                                        : " without model.embedding";
      return InvalidArgument(fmt::format("data '{}' is {}, model.preset {} takes {}{}", data.name,
                                         data.IsText() ? "text" : "not text", options.preset,
                                         reads_text ? "text" : "images or tables", setting));
    }
    if (data.ExampleElements() == options.inputs && data.classes == options.classes) {
      return Status::Ok();
    }
    return InvalidArgument(fmt::format(
        "data '{}' has {} features and {} classes, the model takes {} and {}", data.name,
        data.ExampleElements(), data.classes, options.inputs, options.classes));
  }

  // By one copy where the parameters are not on the host.
  Status Load(const ShardValues& shards, std::span<const std::byte> state,
              const ParameterStore& store) const {
    const torch::Tensor& values = store.Values();
    const torch::Tensor host = values.is_cpu() ? values : torch::empty_like(values, torch::kCPU);
    const std::span<float> floats = FloatsOf(host);
    FEDMOE_RETURN_IF_ERROR(LoadShard(kTrunkShard, shards, store, floats));
    for (const ExpertIndex expert : store.held()) {
      FEDMOE_RETURN_IF_ERROR(LoadShard(ShardOfExpert(expert), shards, store, floats));
    }
    FEDMOE_RETURN_IF_ERROR(LoadClientState(state, seed, store, floats));
    if (!values.is_cpu()) values.copy_(host);
    return Status::Ok();
  }

  Result<TrainResult> Train(const TaskAssignment& task, const ShardValues& shards,
                            std::span<const std::byte> state, const TrainContext& context) const {
    const SteadyClock clock;
    const Milliseconds start_ms = clock.NowMs();
    const std::unique_ptr<MoeModel> model = BuildMoeModel(options, *spec, task.experts, compute);
    FEDMOE_RETURN_IF_ERROR(Load(shards, state, model->parameters()));
    FEDMOE_ASSIGN_OR_RETURN(GateView view, ViewGates(*model, *train, task, context));
    TrainingRun run(task, *train, *model);
    FEDMOE_RETURN_IF_ERROR(run.Run(context));
    FEDMOE_RETURN_IF_ERROR(run.TrainPostHocGates(context));
    MoveMoments(view, *model);
    TrainResult result;
    result.feedback = run.Feedback();
    result.feedback.affinity = std::move(view.affinity);
    run.Release();
    const torch::Tensor values = model->parameters().Values().to(torch::kCPU);
    result.blocks = run.Deltas(shards, FloatsOf(values));
    result.state = SaveClientState(model->parameters(), FloatsOf(values));
    result.feedback.train_s = static_cast<double>(clock.NowMs() - start_ms) / 1000.0;
    return result;
  }

  Result<EvaluationResult> Evaluate(const TaskAssignment& task, const ShardValues& shards,
                                    std::span<const std::byte> state,
                                    const TrainContext& context) const {
    const torch::NoGradGuard no_gradient;
    const std::unique_ptr<MoeModel> model = BuildMoeModel(options, *spec, task.experts, compute);
    FEDMOE_RETURN_IF_ERROR(Load(shards, state, model->parameters()));
    ForwardOptions forward;
    if (static_cast<int>(task.experts.size()) == spec->experts && spec->experts > 0) {
      if (options.soup > 0.0) model->MoveExpertsToMean(options.soup);
      forward.post_hoc_gate = options.post_hoc_batches > 0;
    }
    OutcomeLedger ledger(*spec, compute.path, /*learning_rate=*/0.0);
    PassOptions options_of_pass = EvaluationPass(evaluation.dataset(), task.training);
    options_of_pass.last_label = spec->tokens_per_example == 1;
    ExampleSource::Pass pass(evaluation, evaluation.Order(), options_of_pass);
    std::int64_t done = 0;
    while (true) {
      FEDMOE_RETURN_IF_ERROR(CheckCancelled(context, task));
      FEDMOE_ASSIGN_OR_RETURN(const std::optional<Batch> batch, pass.Next());
      if (!batch) break;
      const MoeOutput output = model->Forward(batch->inputs, forward);
      FEDMOE_RETURN_IF_ERROR(
          ledger.Add(OutcomeOf(output, TaskLosses(output, *batch), batch->labels)));
      done += batch->examples;
      ReportProgress(context, static_cast<double>(done) / static_cast<double>(evaluation.size()));
    }
    FEDMOE_RETURN_IF_ERROR(ledger.Flush());
    const Tally& tally = ledger.tally();
    EvaluationResult result;
    result.task = task.task;
    result.correct = tally.correct;
    result.loss = tally.loss;
    result.examples = tally.predictions;
    return result;
  }
};

LocalTrainer::LocalTrainer(LocalData data, ComputeOptions compute)
    : implementation_(std::make_unique<Implementation>(
          std::move(data.train), std::move(data.holdout), std::move(compute))) {}

LocalTrainer::LocalTrainer(Dataset test, ComputeOptions compute)
    : implementation_(
          std::make_unique<Implementation>(std::nullopt, std::move(test), std::move(compute))) {}

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
      const torch::Device device(self.compute.device);
      if (self.train) self.train->Materialise(device);
      self.evaluation.Materialise(device);
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
