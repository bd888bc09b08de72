// A shard as it arrives at a client, without the way.
#pragma once

#include <cstdint>
#include <memory>

#include "common/file_system.h"
#include "common/result.h"
#include "federation/model_spec.h"
#include "federation/task.h"
#include "storage/shard_store.h"

namespace fedmoe {

struct TravelledShard {
  Digest digest;
  std::shared_ptr<const MappedRegion> values;  // float32, what a client would train from
  std::uint64_t bytes = 0;                     // that it would download
};

// The stored shard itself, or encoded and decoded by the functions of coordinator and client.
Result<TravelledShard> Travel(const ShardReference& shard, const ModelSpec& spec,
                              const ShardStore& store);

}  // namespace fedmoe
