// Brings the shards of a task together: from the cache what it has, the rest over the transport,
// each verified against its digest.
#pragma once

#include <functional>
#include <map>
#include <vector>

#include "client/bandwidth.h"
#include "client/shard_cache.h"
#include "client/transport.h"
#include "common/clock.h"
#include "common/result.h"

namespace fedmoe {

// What a fetch works with; all outlive the call.
struct ShardFetchContext {
  Transport& transport;
  ShardCache& cache;
  Bandwidth& down;
  const Clock& clock;
  // Asked with every piece that arrives; an error ends the transfer and is its result.
  std::function<Status()> interrupted;
};

// By shard index, float32 values. `shards` name distinct shards, their bytes checked against the
// model's by the caller. A transfer with a wrong checksum or digest is tried once more; DATA_LOSS
// names the shard if that fails too. Verified shards stay in the cache when a later one fails.
Result<std::map<int, CachedShard>> FetchTaskShards(const ShardFetchContext& context,
                                                   const SessionId& session,
                                                   const std::vector<ShardReference>& shards);

}  // namespace fedmoe
