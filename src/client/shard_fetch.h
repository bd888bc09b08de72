// Brings the shards of a task together: from the cache what it has, the rest over the transport,
// each verified against its digest or, where it is encoded, against its blocks' checksums.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "client/bandwidth.h"
#include "client/shard_cache.h"
#include "client/transport.h"
#include "common/checksum.h"
#include "common/clock.h"
#include "common/result.h"
#include "federation/model_spec.h"

namespace fedmoe {

// A shard of which a fetch that broke off has brought the beginning: what the next one need not
// bring again, be it in another session or for another task. Movable; not thread-safe.
struct PartialShard {
  ShardReference shard;  // with the bytes that it really has
  std::uint64_t filled = 0;
  Sha256 sha;  // of them
  std::shared_ptr<std::vector<std::byte>> bytes;
};

// What a fetch works with; all outlive the call.
struct ShardFetchContext {
  const ModelSpec& spec;
  Transport& transport;
  ShardCache& cache;
  std::optional<PartialShard>& partial;
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
// Verified shards stay in the cache when a later one fails, and of one that was cut what came so
// far, in `partial`, from where a later call goes on; it is dropped where that shard is not wanted
// any more.
Result<std::map<int, HeldShard>> FetchTaskShards(const ShardFetchContext& context,
                                                 const SessionId& session,
                                                 const std::vector<ShardReference>& shards);

}  // namespace fedmoe
