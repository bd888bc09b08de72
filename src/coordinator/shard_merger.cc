#include "coordinator/shard_merger.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "kernels/robust_rules.h"
#include "kernels/server_step.h"
#include "kernels/weighted_sum.h"
#include "kernels/weighted_sum_encoded.h"
#include "storage/update_format.h"

namespace fedmoe {
namespace {

// Updates that are open and mapped at once, so that files and memory do not grow with the clients.
constexpr std::size_t kGroup = 8;

// As many updates are kept open, and so much of the small ones stays in memory.
constexpr std::size_t kOpenUpdates = 128;

Result<SpooledUpdate> FindBlocks(const Spool& spool, TaskId task, const ModelSpec& spec) {
  FEDMOE_ASSIGN_OR_RETURN(std::shared_ptr<const RandomAccessFile> file, spool.Read(task));
  FEDMOE_ASSIGN_OR_RETURN(ParsedUpdate parsed, ParseUpdate(*file, task, spec.blocks.size()));
  if (!parsed.verdict.accepted()) {
    return DataLoss("spooled update of task " + std::to_string(task) + ": " +
                    parsed.verdict.detail);
  }
  return SpooledUpdate{.task = task, .blocks = std::move(parsed.blocks), .file = std::move(file)};
}

}  // namespace

const UpdateBlock* SpooledUpdate::BlockOf(int parameter) const {
  const auto found = std::lower_bound(
      blocks.begin(), blocks.end(), parameter,
      [](const UpdateBlock& block, int wanted) { return block.parameter < wanted; });
  return found != blocks.end() && found->parameter == parameter ? &*found : nullptr;
}

Result<std::vector<SpooledUpdate>> FindUpdates(const Spool& spool, const AggregationPlan& plan,
                                               const ModelSpec& spec) {
  std::vector<SpooledUpdate> updates;
  for (const TaskId task : plan.updates) {
    FEDMOE_ASSIGN_OR_RETURN(SpooledUpdate update, FindBlocks(spool, task, spec));
    if (plan.updates.size() > kOpenUpdates) update.file.reset();
    updates.push_back(std::move(update));
  }
  return updates;
}

Status ShardMerger::Open() { return MeasureUpdates(); }

Status ShardMerger::MeasureUpdates() {
  const AggregationRule rule = inputs_.options.rule;
  const bool krum = rule == AggregationRule::kKrum || rule == AggregationRule::kMultiKrum;
  if (!krum && rule != AggregationRule::kClip) return Status::Ok();
  std::vector<const BlockPlan*> plans;
  for (const int index : inputs_.spec.BlocksOf(base_.shard)) {
    const BlockPlan* plan = PlanOf(index);
    if (plan != nullptr && plan->row_weights.empty()) plans.push_back(plan);
  }
  std::vector<std::size_t> used;
  for (std::size_t i = 0; i < inputs_.updates.size(); ++i) {
    const bool counts = std::any_of(plans.begin(), plans.end(),
                                    [i](const BlockPlan* plan) { return plan->weights[i] > 0.0; });
    if (counts) used.push_back(i);
  }
  return krum ? MeasureKrum(used) : MeasureNorms(used);
}

Status ShardMerger::MeasureKrum(const std::vector<std::size_t>& used) {
  const auto count = static_cast<int>(used.size());
  if (count < 3) return Status::Ok();  // nobody to outvote
  std::vector<double> distances(used.size() * used.size(), 0.0);
  FEDMOE_RETURN_IF_ERROR(ForEachWindow(used, [&](auto sources, std::int64_t at, std::int64_t size) {
    return AddSquaredDistances(sources, static_cast<std::uint64_t>(at),
                               static_cast<std::uint64_t>(size), distances, inputs_.parallel);
  }));
  const int hostile = HostileCount(inputs_.options, count);
  const int selected = inputs_.options.rule == AggregationRule::kKrum ? 1 : count - hostile;
  FEDMOE_ASSIGN_OR_RETURN(const std::vector<int> chosen,
                          SelectByKrum(distances, count, hostile, selected));
  factors_.assign(inputs_.updates.size(), 0.0);
  for (const int each : chosen) factors_[used[static_cast<std::size_t>(each)]] = 1.0;
  return Status::Ok();
}

Status ShardMerger::MeasureNorms(const std::vector<std::size_t>& used) {
  if (used.empty()) return Status::Ok();
  std::vector<double> norms(used.size(), 0.0);
  for (std::size_t start = 0; start < used.size(); start += kGroup) {
    const std::size_t size = std::min(kGroup, used.size() - start);
    const std::vector<std::size_t> group(used.begin() + static_cast<std::ptrdiff_t>(start),
                                         used.begin() + static_cast<std::ptrdiff_t>(start + size));
    FEDMOE_RETURN_IF_ERROR(
        ForEachWindow(group, [&](auto sources, std::int64_t at, std::int64_t count) {
          return AddSquaredNorms(sources, static_cast<std::uint64_t>(at),
                                 static_cast<std::uint64_t>(count),
                                 std::span(norms).subspan(start, size), inputs_.parallel);
        }));
  }
  double limit = inputs_.options.clip_norm;
  if (limit == 0.0) {
    std::vector<double> sorted = norms;
    std::sort(sorted.begin(), sorted.end());
    limit = std::sqrt(sorted[(sorted.size() - 1) / 2]);
  }
  factors_.assign(inputs_.updates.size(), 1.0);
  for (std::size_t i = 0; i < used.size(); ++i) {
    factors_[used[i]] = limit > 0.0 ? ClipFactor(norms[i], limit) : 0.0;
  }
  return Status::Ok();
}

Status ShardMerger::ForEachWindow(const std::vector<std::size_t>& group, const Measure& measure) {
  for (const int index : inputs_.spec.BlocksOf(base_.shard)) {
    const BlockPlan* plan = PlanOf(index);
    if (plan == nullptr || !plan->row_weights.empty()) continue;
    const std::int64_t elements = inputs_.spec.blocks[index].ElementCount();
    for (std::int64_t at = 0; at < elements; at += WindowElements()) {
      const std::int64_t count = std::min(WindowElements(), elements - at);
      FEDMOE_ASSIGN_OR_RETURN(const auto sources, ReadGroup(group, index, at, count));
      FEDMOE_RETURN_IF_ERROR(measure(sources, at, count));
    }
  }
  return Status::Ok();
}

std::vector<double> ShardMerger::Ruled(const std::vector<double>& weights) const {
  if (factors_.empty()) return weights;
  std::vector<double> ruled(weights.size());
  for (std::size_t i = 0; i < weights.size(); ++i) ruled[i] = weights[i] * factors_[i];
  if (inputs_.options.rule == AggregationRule::kClip) return ruled;
  // Those that Krum chose count alike.
  const auto chosen = std::count_if(ruled.begin(), ruled.end(), [](double w) { return w > 0.0; });
  for (double& weight : ruled) weight = weight > 0.0 ? 1.0 / static_cast<double>(chosen) : 0.0;
  return ruled;
}

// Where the rule adds or picks element by element, the windows of four updates or more are as many
// bytes together, however many they are. Rules that measure whole updates add in the same order
// only over windows of kWindowElements.
std::int64_t ShardMerger::WindowElements() const {
  constexpr std::size_t kFullWindows = 4;
  constexpr std::int64_t kLeast = std::int64_t{1} << 12;
  const AggregationRule rule = inputs_.options.rule;
  const bool adds = rule == AggregationRule::kMean;
  const bool picks = rule == AggregationRule::kMedian || rule == AggregationRule::kTrimmedMean;
  if (!adds && !picks) return kWindowElements;
  const std::size_t updates = inputs_.updates.size();
  const std::size_t at_once = std::max(kFullWindows, adds ? std::min(kGroup, updates) : updates);
  const std::int64_t even =
      kWindowElements * std::int64_t{kFullWindows} / static_cast<std::int64_t>(at_once);
  return std::max(kLeast, even / kLeast * kLeast);
}

void ShardMerger::Release() {
  open_.clear();
  for (std::vector<float>* values : {&window_, &window_first_, &window_second_, &delta_})
    std::vector<float>().swap(*values);
  std::vector<double>().swap(sums_);
}

Status ShardMerger::Write(const ShardContent::Sinks& sinks, const Consensus& consensus) {
  std::int64_t offset = 0;
  for (const int index : inputs_.spec.BlocksOf(base_.shard)) {
    FEDMOE_RETURN_IF_ERROR(WriteBlock(index, offset, sinks, consensus));
    offset += inputs_.spec.blocks[index].ElementCount();
  }
  return Status::Ok();
}

Result<std::span<float>> ShardMerger::MergeWindow(int index, std::int64_t offset, std::int64_t at,
                                                  std::int64_t count) {
  static const std::vector<double> kNone;
  const BlockPlan* plan = PlanOf(index);
  FEDMOE_RETURN_IF_ERROR(Merge(index, offset, at, count, plan == nullptr ? kNone : plan->weights));
  return std::span<float>(window_);
}

const BlockPlan* ShardMerger::PlanOf(int parameter) const {
  for (const BlockPlan& block : inputs_.plan.blocks) {
    if (block.parameter == parameter) return &block;
  }
  return nullptr;
}

Status ShardMerger::WriteBlock(int index, std::int64_t offset, const ShardContent::Sinks& sinks,
                               const Consensus& consensus) {
  const ParameterBlock& block = inputs_.spec.blocks[index];
  const BlockPlan* plan = PlanOf(index);
  const std::int64_t elements = block.ElementCount();
  if (plan == nullptr || plan->row_weights.empty()) {
    static const std::vector<double> kNone;
    return WriteRange(index, offset, 0, elements, plan == nullptr ? kNone : plan->weights, sinks,
                      consensus);
  }
  const std::int64_t row = elements / block.shape[0];
  for (std::int64_t i = 0; i < block.shape[0]; ++i) {
    FEDMOE_RETURN_IF_ERROR(
        WriteRange(index, offset, i * row, (i + 1) * row, plan->row_weights[i], sinks, consensus));
  }
  return Status::Ok();
}

Status ShardMerger::WriteRange(int index, std::int64_t offset, std::int64_t begin, std::int64_t end,
                               const std::vector<double>& weights, const ShardContent::Sinks& sinks,
                               const Consensus& consensus) {
  for (std::int64_t at = begin; at < end; at += WindowElements()) {
    FEDMOE_RETURN_IF_ERROR(Merge(index, offset, at, std::min(WindowElements(), end - at), weights));
    if (consensus) FEDMOE_RETURN_IF_ERROR(consensus(offset + at, window_));
    FEDMOE_RETURN_IF_ERROR(sinks.values(window_));
    if (!window_first_.empty()) FEDMOE_RETURN_IF_ERROR(sinks.first(window_first_));
    if (!window_second_.empty()) FEDMOE_RETURN_IF_ERROR(sinks.second(window_second_));
  }
  return Status::Ok();
}

Status ShardMerger::Merge(int index, std::int64_t offset, std::int64_t at, std::int64_t count,
                          const std::vector<double>& weights) {
  FEDMOE_RETURN_IF_ERROR(LoadWindow(offset + at, count));
  const std::vector<double> ruled = Ruled(weights);
  const bool changes =
      std::any_of(ruled.begin(), ruled.end(), [](double weight) { return weight > 0.0; });
  if (!changes) return Status::Ok();
  FEDMOE_RETURN_IF_ERROR(SumWindow(index, at, count, ruled));
  Apply();
  return CheckFinite(index);
}

// Read, not mapped: pages of a mapping would count as the coordinator's memory until it ends.
Status ShardMerger::LoadWindow(std::int64_t at, std::int64_t count) {
  const AggregationOptions& options = inputs_.options;
  const auto elements = static_cast<std::size_t>(count);
  const std::uint64_t byte = static_cast<std::uint64_t>(at) * sizeof(float);
  const auto bytes_of = [](std::vector<float>& values) {
    return std::as_writable_bytes(std::span(values));
  };
  window_.resize(elements);
  FEDMOE_RETURN_IF_ERROR(inputs_.store.ReadShardAt(base_.digest, byte, bytes_of(window_)));
  const int moments = MomentCount(options.optimizer);
  const auto load = [&](int index, std::vector<float>& window, float otherwise) -> Status {
    if (moments <= index) return Status::Ok();
    window.assign(elements, otherwise);
    if (base_.moment_count <= index) return Status::Ok();
    return inputs_.store.ReadMomentsAt(base_, index, byte, bytes_of(window));
  };
  FEDMOE_RETURN_IF_ERROR(load(0, window_first_, 0.0f));
  return load(1, window_second_, static_cast<float>(options.tau * options.tau));
}

// In groups of clients, in their order: the sum is the same for any size of the groups.
Status ShardMerger::SumWindow(int index, std::int64_t at, std::int64_t count,
                              const std::vector<double>& weights) {
  std::vector<std::size_t> used;
  std::vector<double> used_weights;
  for (std::size_t i = 0; i < inputs_.updates.size(); ++i) {
    if (!(weights[i] > 0.0)) continue;
    used.push_back(i);
    used_weights.push_back(weights[i]);
  }
  const auto first = static_cast<std::uint64_t>(at);
  delta_.resize(static_cast<std::size_t>(count));
  if (inputs_.options.rule == AggregationRule::kMedian ||
      inputs_.options.rule == AggregationRule::kTrimmedMean) {
    return PickWindow(used, index, at, count);
  }
  if (used.size() <= kGroup) {
    FEDMOE_ASSIGN_OR_RETURN(const auto sources, ReadGroup(used, index, at, count));
    return WeightedSumEncoded(sources, used_weights, first, delta_, inputs_.parallel);
  }
  sums_.assign(static_cast<std::size_t>(count), 0.0);
  for (std::size_t start = 0; start < used.size(); start += kGroup) {
    const std::size_t size = std::min(kGroup, used.size() - start);
    const auto begin = used.begin() + static_cast<std::ptrdiff_t>(start);
    const std::vector<std::size_t> group(begin, begin + static_cast<std::ptrdiff_t>(size));
    FEDMOE_ASSIGN_OR_RETURN(const auto sources, ReadGroup(group, index, at, count));
    FEDMOE_RETURN_IF_ERROR(AccumulateEncoded(sources, std::span(used_weights).subspan(start, size),
                                             first, sums_, inputs_.parallel));
  }
  RoundSums(sums_, delta_);
  return Status::Ok();
}

Status ShardMerger::PickWindow(const std::vector<std::size_t>& used, int index, std::int64_t at,
                               std::int64_t count) {
  FEDMOE_ASSIGN_OR_RETURN(const auto sources, ReadGroup(used, index, at, count));
  const auto first = static_cast<std::uint64_t>(at);
  if (inputs_.options.rule == AggregationRule::kMedian) {
    return CoordinateMedian(sources, first, delta_, inputs_.parallel);
  }
  const int trim = TrimCount(inputs_.options, static_cast<int>(used.size()));
  return TrimmedMean(sources, trim, first, delta_, inputs_.parallel);
}

// What the updates of the group have for the window; valid until the next call.
Result<std::vector<EncodedValues>> ShardMerger::ReadGroup(const std::vector<std::size_t>& group,
                                                          int index, std::int64_t at,
                                                          std::int64_t count) {
  std::vector<EncodedValues> sources;
  for (std::size_t slot = 0; slot < group.size(); ++slot) {
    const TaskId task = inputs_.updates[group[slot]].task;
    FEDMOE_ASSIGN_OR_RETURN(PayloadReader* const reader, Reader(slot, group[slot], index));
    Result<EncodedValues> window =
        reader->Window(static_cast<std::uint64_t>(at), static_cast<std::uint64_t>(count));
    if (window.status().code() == StatusCode::kInvalidArgument) {
      return DataLoss("spooled update of task " + std::to_string(task) + ": " +
                      window.status().message());
    }
    FEDMOE_RETURN_IF_ERROR(window.status());
    sources.push_back(*window);
  }
  return sources;
}

Result<PayloadReader*> ShardMerger::Reader(std::size_t slot, std::size_t update, int index) {
  if (open_.size() <= slot) open_.resize(slot + 1);
  OpenBlock& open = open_[slot];
  if (open.reader != nullptr && open.update == update && open.index == index) {
    return open.reader.get();
  }
  const SpooledUpdate& spooled = inputs_.updates[update];
  const UpdateBlock* const block = spooled.BlockOf(index);
  if (block == nullptr) {
    return Internal("update of task " + std::to_string(spooled.task) +
                    " has weight but no block '" + inputs_.spec.blocks[index].name + "'");
  }
  open.reader.reset();
  open.file = spooled.file;
  if (open.file == nullptr) {
    FEDMOE_ASSIGN_OR_RETURN(open.file, inputs_.spool.Read(spooled.task));
  }
  open.reader = std::make_unique<PayloadReader>(*open.file, *block);
  open.update = update;
  open.index = index;
  return open.reader.get();
}

// A model that is no longer made of numbers must not be published.
Status ShardMerger::CheckFinite(int index) const {
  if (AllFinite(window_) && AllFinite(window_first_) && AllFinite(window_second_)) {
    return Status::Ok();
  }
  return Internal("block '" + inputs_.spec.blocks[index].name +
                  "' would not be finite: lower aggregation.learning_rate or the clients' "
                  "learning rate");
}

void ShardMerger::Apply() {
  const ServerStepOptions step{.learning_rate = inputs_.options.learning_rate,
                               .momentum = inputs_.options.momentum,
                               .beta2 = inputs_.options.beta2,
                               .tau = inputs_.options.tau};
  switch (inputs_.options.optimizer) {
    case ServerOptimizer::kFedAvg:
      return FedAvgStep(window_, delta_, step);
    case ServerOptimizer::kFedAvgM:
      return FedAvgMStep(window_, delta_, window_first_, step);
    case ServerOptimizer::kFedAdam:
      return FedAdamStep(window_, delta_, window_first_, window_second_, step);
    case ServerOptimizer::kFedYogi:
      return FedYogiStep(window_, delta_, window_first_, window_second_, step);
  }
}

}  // namespace fedmoe
