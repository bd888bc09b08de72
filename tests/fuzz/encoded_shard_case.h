// The model and the references that the encoded_shards target's inputs are for.
#pragma once

#include <string>

#include "tests/fuzz/update_case.h"

namespace fedmoe {

// The option bits of an input: 0 to 2 the encoding; kFuzzZstd; kFuzzLarge for the expert of more
// than one compressed chunk instead of the trunk; kFuzzRepair.
inline constexpr int kFuzzZstd = 8;
inline constexpr int kFuzzLarge = 16;
inline constexpr int kFuzzRepair = 32;

inline ShardReference FuzzShard(int options) {
  const ModelSpec spec = UpdateSpec();
  ShardReference shard;
  shard.shard = (options & kFuzzLarge) != 0 ? ShardOfExpert(1) : kTrunkShard;
  shard.digest = std::string(kDigestLength, 'a');
  shard.encoding = static_cast<Encoding>((options & 7) % static_cast<int>(Encoding::kTopK));
  // Without either it would travel as it is.
  shard.zstd = (options & kFuzzZstd) != 0 || shard.encoding == Encoding::kFloat32;
  shard.bytes = DownloadBytes(spec, shard.shard, shard.download());
  return shard;
}

}  // namespace fedmoe
