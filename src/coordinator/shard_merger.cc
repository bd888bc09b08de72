#include "coordinator/shard_merger.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "kernels/server_step.h"
#include "kernels/weighted_sum.h"
#include "storage/update_format.h"

namespace fedmoe {
namespace {

// Updates that are open and mapped at once, so that files and memory do not grow with the clients.
constexpr std::size_t kGroup = 8;

Result<SpooledUpdate> FindBlocks(const Spool& spool, TaskId task, const ModelSpec& spec) {
  SpooledUpdate update{.task = task, .parameters = {}, .offsets = {}};
  FEDMOE_ASSIGN_OR_RETURN(const std::unique_ptr<RandomAccessFile> file, spool.Read(task));
  FEDMOE_ASSIGN_OR_RETURN(ParsedUpdate parsed, ParseUpdate(*file, task, spec.blocks.size()));
  if (!parsed.verdict.accepted()) {
    return DataLoss("spooled update of task " + std::to_string(task) + ": " +
                    parsed.verdict.detail);
  }
  for (const UpdateBlock& block : parsed.blocks) {
    update.parameters.push_back(block.parameter);
    update.offsets.push_back(block.payload_offset);
  }
  return update;
}

void Copy(const std::unique_ptr<MappedRegion>& from, std::int64_t at, std::int64_t count,
          std::vector<float>& to, float otherwise) {
  to.assign(static_cast<std::size_t>(count), otherwise);
  if (from != nullptr) {
    std::memcpy(to.data(), from->bytes().data() + at * sizeof(float),
                static_cast<std::size_t>(count) * sizeof(float));
  }
}

}  // namespace

std::optional<std::uint64_t> SpooledUpdate::OffsetOf(int parameter) const {
  const auto found = std::lower_bound(parameters.begin(), parameters.end(), parameter);
  if (found == parameters.end() || *found != parameter) return std::nullopt;
  return offsets[static_cast<std::size_t>(found - parameters.begin())];
}

Result<std::vector<SpooledUpdate>> FindUpdates(const Spool& spool, const AggregationPlan& plan,
                                               const ModelSpec& spec) {
  std::vector<SpooledUpdate> updates;
  for (const TaskId task : plan.updates) {
    FEDMOE_ASSIGN_OR_RETURN(SpooledUpdate update, FindBlocks(spool, task, spec));
    updates.push_back(std::move(update));
  }
  return updates;
}

Status ShardMerger::Open() {
  FEDMOE_ASSIGN_OR_RETURN(values_, inputs_.store.ReadShard(base_.digest));
  const int moments = MomentCount(inputs_.options.optimizer);
  if (moments >= 1 && base_.moment_count >= 1) {
    FEDMOE_ASSIGN_OR_RETURN(first_, inputs_.store.ReadMoments(base_, 0));
  }
  if (moments >= 2 && base_.moment_count >= 2) {
    FEDMOE_ASSIGN_OR_RETURN(second_, inputs_.store.ReadMoments(base_, 1));
  }
  return Status::Ok();
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
  for (std::int64_t at = begin; at < end; at += kWindowElements) {
    FEDMOE_RETURN_IF_ERROR(Merge(index, offset, at, std::min(kWindowElements, end - at), weights));
    if (consensus) FEDMOE_RETURN_IF_ERROR(consensus(offset + at, window_));
    FEDMOE_RETURN_IF_ERROR(sinks.values(window_));
    if (!window_first_.empty()) FEDMOE_RETURN_IF_ERROR(sinks.first(window_first_));
    if (!window_second_.empty()) FEDMOE_RETURN_IF_ERROR(sinks.second(window_second_));
  }
  return Status::Ok();
}

Status ShardMerger::Merge(int index, std::int64_t offset, std::int64_t at, std::int64_t count,
                          const std::vector<double>& weights) {
  LoadWindow(offset + at, count);
  const bool changes =
      std::any_of(weights.begin(), weights.end(), [](double weight) { return weight > 0.0; });
  if (!changes) return Status::Ok();
  FEDMOE_RETURN_IF_ERROR(SumWindow(index, at, count, weights));
  Apply();
  return CheckFinite(index);
}

void ShardMerger::LoadWindow(std::int64_t at, std::int64_t count) {
  const AggregationOptions& options = inputs_.options;
  const int moments = MomentCount(options.optimizer);
  Copy(values_, at, count, window_, 0.0f);
  if (moments >= 1) Copy(first_, at, count, window_first_, 0.0f);
  if (moments >= 2)
    Copy(second_, at, count, window_second_, static_cast<float>(options.tau * options.tau));
}

// In groups of clients, in their order: the sum is the same for any size of the groups.
Status ShardMerger::SumWindow(int index, std::int64_t at, std::int64_t count,
                              const std::vector<double>& weights) {
  sums_.assign(static_cast<std::size_t>(count), 0.0);
  std::vector<std::size_t> group;
  for (std::size_t i = 0; i < inputs_.updates.size(); ++i) {
    if (weights[i] > 0.0) group.push_back(i);
    if (group.size() < kGroup && i + 1 < inputs_.updates.size()) continue;
    FEDMOE_RETURN_IF_ERROR(AddGroup(group, index, at, count, weights));
    group.clear();
  }
  delta_.resize(static_cast<std::size_t>(count));
  RoundSums(sums_, delta_);
  return Status::Ok();
}

Status ShardMerger::AddGroup(const std::vector<std::size_t>& group, int index, std::int64_t at,
                             std::int64_t count, const std::vector<double>& weights) {
  std::vector<std::unique_ptr<RandomAccessFile>> files;
  std::vector<std::unique_ptr<MappedRegion>> regions;
  std::vector<const float*> sources;
  std::vector<double> used;
  for (const std::size_t i : group) {
    const std::optional<std::uint64_t> offset = inputs_.updates[i].OffsetOf(index);
    if (!offset) {
      return Internal("update of task " + std::to_string(inputs_.updates[i].task) +
                      " has weight but no block '" + inputs_.spec.blocks[index].name + "'");
    }
    FEDMOE_ASSIGN_OR_RETURN(auto file, inputs_.spool.Read(inputs_.updates[i].task));
    FEDMOE_ASSIGN_OR_RETURN(auto region,
                            file->Map(*offset + at * sizeof(float), count * sizeof(float)));
    sources.push_back(reinterpret_cast<const float*>(region->bytes().data()));
    files.push_back(std::move(file));
    regions.push_back(std::move(region));
    used.push_back(weights[i]);
  }
  AccumulateWeighted(sources, used, sums_);
  return Status::Ok();
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
