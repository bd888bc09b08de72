#include "federation/task.h"

namespace fedmoe {

std::string ShardKey(const ShardReference& shard) {
  if (!shard.encoded()) return shard.digest;
  const std::string name =
      shard.shard == kTrunkShard ? "trunk" : "expert." + std::to_string(shard.shard - 1);
  return shard.digest + "." + name + "." + EncodingName(shard.encoding) +
         (shard.zstd ? ".zstd" : "");
}

const char* CancelReasonName(CancelReason reason) {
  switch (reason) {
    case CancelReason::kRoundOver:
      return "round_over";
    case CancelReason::kRoundAborted:
      return "round_aborted";
    case CancelReason::kSuperseded:
      return "superseded";
    case CancelReason::kRunOver:
      return "run_over";
    case CancelReason::kTimedOut:
      return "timed_out";
  }
  return "unknown";
}

}  // namespace fedmoe
