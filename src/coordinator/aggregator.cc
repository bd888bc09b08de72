#include "coordinator/aggregator.h"

#include <utility>
#include <vector>

#include "coordinator/consensus.h"
#include "coordinator/shard_merger.h"

namespace fedmoe {

Result<Manifest> AggregateRound(const ModelSpec& spec, const AggregationOptions& options,
                                const AggregationPlan& plan, ModelVersion version,
                                const Manifest& base, Spool& spool, ShardStore& store,
                                const ParallelFor& parallel, Syncing syncing) {
  FEDMOE_ASSIGN_OR_RETURN(const std::vector<SpooledUpdate> updates, FindUpdates(spool, plan, spec));
  const MergeInputs inputs{.spec = spec,
                           .options = options,
                           .plan = plan,
                           .updates = updates,
                           .spool = spool,
                           .store = store,
                           .parallel = parallel};
  FEDMOE_ASSIGN_OR_RETURN(const ConsensusMeans means, ConsensusMeans::Compute(inputs, base, spool));
  std::vector<ShardContent> changed;
  for (const int shard : plan.changed_shards) {
    const StoredShard& stored = base.shards.at(static_cast<std::size_t>(shard));
    ShardContent content;
    content.shard = shard;
    content.moment_count = MomentCount(options.optimizer);
    content.steps = stored.steps + 1;
    content.write = [&, stored](const ShardContent::Sinks& sinks) -> Status {
      ShardMerger merger(inputs, stored);
      FEDMOE_RETURN_IF_ERROR(merger.Open());
      return merger.Write(sinks, means.Of(stored.shard));
    };
    changed.push_back(std::move(content));
  }
  return store.Stage(version, &base, changed, syncing);
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
