// Brings the shards of a task together: from the cache what it has, the rest over the transport,
// each verified against its digest or, where it is encoded, against its blocks' checksums.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "client/bandwidth.h"
#include "client/shard_cache.h"
#include "client/transport.h"
#include "common/clock.h"
#include "common/result.h"
#include "federation/model_spec.h"

namespace fedmoe {

// What a fetch works with; all outlive the call.
struct ShardFetchContext {
  const ModelSpec& spec;
  Transport& transport;
  ShardCache& cache;
  Bandwidth& down;
  const Clock& clock;
  // Asked with every piece that arrives; an error ends the transfer and is its result.
  std::function<Status()> interrupted;
};

// A shard's float32 values for one task: those of the cache themselves where they are exact,
// decoded for the task where they are not.
struct HeldShard {
  std::shared_ptr<const void> owner;
  std::span<const float> values;
};

// By shard index. `shards` name distinct shards, their bytes checked against the model's by the
// caller. A transfer with a wrong checksum or digest, or whose blocks are not sound, is tried once
// more, and the coordinator then checks what it has; DATA_LOSS names the shard if that fails too.
// Verified shards stay in the cache when a later one fails.
Result<std::map<int, HeldShard>> FetchTaskShards(const ShardFetchContext& context,
                                                 const SessionId& session,
                                                 const std::vector<ShardReference>& shards);

}  // namespace fedmoe
