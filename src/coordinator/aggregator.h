// Spool -> kernel -> new shards: the heavy half of a commit.
#pragma once

#include "common/parallel.h"
#include "common/result.h"
#include "federation/aggregation.h"
#include "storage/shard_store.h"
#include "storage/spool.h"
#include "storage/upcycling.h"

namespace fedmoe {

// Stages version `version` in the store: for every changed shard, block by block in windows, the
// weighted sum of the updates' deltas in client order, then the server optimiser's step on values
// and moments. Memory: a few windows of 4 MiB, whatever the model and the number of clients. Blocks
// without weight keep values and moments bit for bit. Where the plan has consensus groups, their
// experts are merged once more before, for the mean, which takes a file of the size of one expert a
// layer in the spool while it runs. A block that would not be finite is an error. The same bytes
// for any `parallel`, over which windows are summed. Errors name the update, shard or block.
// `syncing` is Stage()'s.
Result<Manifest> AggregateRound(const ModelSpec& spec, const AggregationOptions& options,
                                const AggregationPlan& plan, ModelVersion version,
                                const Manifest& base, Spool& spool, ShardStore& store,
                                const ParallelFor& parallel = {}, Syncing syncing = Syncing::kNow);

// Version 0, from the run's seed, or where `upcycling` is not null from what it gives.
Result<Manifest> StageInitialModel(const ModelSpec& spec, std::uint64_t seed, ShardStore& store,
                                   Upcycling* upcycling = nullptr);

}  // namespace fedmoe
