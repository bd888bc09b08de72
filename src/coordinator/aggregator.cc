#include "coordinator/aggregator.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "kernels/server_step.h"
#include "kernels/weighted_sum.h"
#include "storage/update_format.h"

namespace fedmoe {
namespace {

constexpr std::int64_t kWindowElements = std::int64_t{1} << 20;

// Updates that are open and mapped at once, so that files and memory do not grow with the clients.
constexpr std::size_t kGroup = 8;

// Where an accepted update in the spool has its payloads: its parameters, ascending, and their
// offsets in the file.
struct SpooledUpdate {
  TaskId task = 0;
  std::vector<int> parameters;
  std::vector<std::uint64_t> offsets;

  std::optional<std::uint64_t> OffsetOf(int parameter) const {
    const auto found = std::lower_bound(parameters.begin(), parameters.end(), parameter);
    if (found == parameters.end() || *found != parameter) return std::nullopt;
    return offsets[static_cast<std::size_t>(found - parameters.begin())];
  }
};

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

// What one changed shard is made from: its old values and moments, and the plan of each of its
// blocks.
class ShardMerger {
 public:
  ShardMerger(const ModelSpec& spec, const AggregationOptions& options, const AggregationPlan& plan,
              const std::vector<SpooledUpdate>& updates, const Spool& spool,
              const StoredShard& base, const ShardStore& store)
      : spec_(spec),
        options_(options),
        plan_(plan),
        updates_(updates),
        spool_(spool),
        base_(base),
        store_(store) {}

  Status Write(const ShardContent::Sinks& sinks) {
    FEDMOE_ASSIGN_OR_RETURN(values_, store_.ReadShard(base_.digest));
    const int moments = MomentCount(options_.optimizer);
    if (moments >= 1 && base_.moment_count >= 1) {
      FEDMOE_ASSIGN_OR_RETURN(first_, store_.ReadMoments(base_, 0));
    }
    if (moments >= 2 && base_.moment_count >= 2) {
      FEDMOE_ASSIGN_OR_RETURN(second_, store_.ReadMoments(base_, 1));
    }
    std::int64_t offset = 0;
    for (const int index : spec_.BlocksOf(base_.shard)) {
      FEDMOE_RETURN_IF_ERROR(WriteBlock(index, offset, sinks));
      offset += spec_.blocks[index].ElementCount();
    }
    return Status::Ok();
  }

 private:
  const BlockPlan* PlanOf(int parameter) const {
    for (const BlockPlan& block : plan_.blocks) {
      if (block.parameter == parameter) return &block;
    }
    return nullptr;
  }

  Status WriteBlock(int index, std::int64_t offset, const ShardContent::Sinks& sinks) {
    const ParameterBlock& block = spec_.blocks[index];
    const BlockPlan* plan = PlanOf(index);
    const std::int64_t elements = block.ElementCount();
    if (plan == nullptr || plan->row_weights.empty()) {
      static const std::vector<double> kNone;
      return WriteRange(index, offset, 0, elements, plan == nullptr ? kNone : plan->weights, sinks);
    }
    const std::int64_t row = elements / block.shape[0];
    for (std::int64_t i = 0; i < block.shape[0]; ++i) {
      FEDMOE_RETURN_IF_ERROR(
          WriteRange(index, offset, i * row, (i + 1) * row, plan->row_weights[i], sinks));
    }
    return Status::Ok();
  }

  // Elements [begin, end) of block `index`, which starts at element `offset` of the shard.
  Status WriteRange(int index, std::int64_t offset, std::int64_t begin, std::int64_t end,
                    const std::vector<double>& weights, const ShardContent::Sinks& sinks) {
    const bool changes =
        std::any_of(weights.begin(), weights.end(), [](double w) { return w > 0.0; });
    for (std::int64_t at = begin; at < end; at += kWindowElements) {
      const std::int64_t count = std::min(kWindowElements, end - at);
      LoadWindow(offset + at, count);
      if (changes) {
        FEDMOE_RETURN_IF_ERROR(SumWindow(index, at, count, weights));
        Apply();
        FEDMOE_RETURN_IF_ERROR(CheckFinite(index));
      }
      FEDMOE_RETURN_IF_ERROR(sinks.values(window_));
      if (!window_first_.empty()) FEDMOE_RETURN_IF_ERROR(sinks.first(window_first_));
      if (!window_second_.empty()) FEDMOE_RETURN_IF_ERROR(sinks.second(window_second_));
    }
    return Status::Ok();
  }

  static void Copy(const std::unique_ptr<MappedRegion>& from, std::int64_t at, std::int64_t count,
                   std::vector<float>& to, float otherwise) {
    to.assign(static_cast<std::size_t>(count), otherwise);
    if (from != nullptr) {
      std::memcpy(to.data(), from->bytes().data() + at * sizeof(float),
                  static_cast<std::size_t>(count) * sizeof(float));
    }
  }

  void LoadWindow(std::int64_t at, std::int64_t count) {
    const int moments = MomentCount(options_.optimizer);
    Copy(values_, at, count, window_, 0.0f);
    if (moments >= 1) Copy(first_, at, count, window_first_, 0.0f);
    if (moments >= 2)
      Copy(second_, at, count, window_second_, static_cast<float>(options_.tau * options_.tau));
  }

  // In groups of clients, in their order: the sum is the same for any size of the groups.
  Status SumWindow(int index, std::int64_t at, std::int64_t count,
                   const std::vector<double>& weights) {
    sums_.assign(static_cast<std::size_t>(count), 0.0);
    std::vector<std::size_t> group;
    for (std::size_t i = 0; i < updates_.size(); ++i) {
      if (weights[i] > 0.0) group.push_back(i);
      if (group.size() < kGroup && i + 1 < updates_.size()) continue;
      FEDMOE_RETURN_IF_ERROR(AddGroup(group, index, at, count, weights));
      group.clear();
    }
    delta_.resize(static_cast<std::size_t>(count));
    RoundSums(sums_, delta_);
    return Status::Ok();
  }

  Status AddGroup(const std::vector<std::size_t>& group, int index, std::int64_t at,
                  std::int64_t count, const std::vector<double>& weights) {
    std::vector<std::unique_ptr<RandomAccessFile>> files;
    std::vector<std::unique_ptr<MappedRegion>> regions;
    std::vector<const float*> sources;
    std::vector<double> used;
    for (const std::size_t i : group) {
      const std::optional<std::uint64_t> offset = updates_[i].OffsetOf(index);
      if (!offset) {
        return Internal("update of task " + std::to_string(updates_[i].task) +
                        " has weight but no block '" + spec_.blocks[index].name + "'");
      }
      FEDMOE_ASSIGN_OR_RETURN(auto file, spool_.Read(updates_[i].task));
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
  Status CheckFinite(int index) const {
    if (AllFinite(window_) && AllFinite(window_first_) && AllFinite(window_second_)) {
      return Status::Ok();
    }
    return Internal("block '" + spec_.blocks[index].name +
                    "' would not be finite: lower aggregation.learning_rate or the clients' "
                    "learning rate");
  }

  void Apply() {
    const ServerStepOptions step{.learning_rate = options_.learning_rate,
                                 .momentum = options_.momentum,
                                 .beta2 = options_.beta2,
                                 .tau = options_.tau};
    switch (options_.optimizer) {
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

  const ModelSpec& spec_;
  const AggregationOptions& options_;
  const AggregationPlan& plan_;
  const std::vector<SpooledUpdate>& updates_;
  const Spool& spool_;
  const StoredShard& base_;
  const ShardStore& store_;
  std::unique_ptr<MappedRegion> values_, first_, second_;
  std::vector<float> window_, window_first_, window_second_, delta_;
  std::vector<double> sums_;
};

}  // namespace

Result<Manifest> AggregateRound(const ModelSpec& spec, const AggregationOptions& options,
                                const AggregationPlan& plan, ModelVersion version,
                                const Manifest& base, const Spool& spool, ShardStore& store) {
  std::vector<SpooledUpdate> updates;
  for (const TaskId task : plan.updates) {
    FEDMOE_ASSIGN_OR_RETURN(SpooledUpdate update, FindBlocks(spool, task, spec));
    updates.push_back(std::move(update));
  }
  std::vector<ShardContent> changed;
  for (const int shard : plan.changed_shards) {
    const StoredShard& stored = base.shards.at(static_cast<std::size_t>(shard));
    ShardContent content;
    content.shard = shard;
    content.moment_count = MomentCount(options.optimizer);
    content.steps = stored.steps + 1;
    content.write = [&, stored](const ShardContent::Sinks& sinks) {
      return ShardMerger(spec, options, plan, updates, spool, stored, store).Write(sinks);
    };
    changed.push_back(std::move(content));
  }
  return store.Stage(version, &base, changed);
}

Result<Manifest> StageInitialModel(const ModelSpec& spec, std::uint64_t seed, ShardStore& store,
                                   Upcycling* upcycling) {
  std::vector<ShardContent> contents;
  for (int shard = 0; shard < spec.ShardCount(); ++shard) {
    ShardContent content;
    content.shard = shard;
    content.write = [&spec, seed, shard, upcycling](const ShardContent::Sinks& sinks) -> Status {
      std::vector<float> values;
      for (const int index : spec.BlocksOf(shard)) {
        if (upcycling != nullptr) {
          FEDMOE_RETURN_IF_ERROR(upcycling->WriteBlock(spec.blocks[index], seed, sinks.values));
          continue;
        }
        values.resize(static_cast<std::size_t>(spec.blocks[index].ElementCount()));
        InitializeBlock(spec.blocks[index], seed, values);
        FEDMOE_RETURN_IF_ERROR(sinks.values(values));
      }
      return Status::Ok();
    };
    contents.push_back(std::move(content));
  }
  return store.Stage(0, nullptr, contents);
}

}  // namespace fedmoe
