#include "federation/task.h"

#include <algorithm>
#include <charconv>

namespace fedmoe {

std::string ShardKey(const ShardReference& shard) {
  if (!shard.encoded()) return shard.digest;
  const std::string name =
      shard.shard == kTrunkShard ? "trunk" : "expert." + std::to_string(shard.shard - 1);
  return shard.digest + "." + name + "." + EncodingName(shard.encoding) +
         (shard.zstd ? ".zstd" : "");
}

std::uint64_t DigestPrefix(const Digest& digest) {
  std::uint64_t prefix = 0;
  std::from_chars(digest.data(), digest.data() + std::min<std::size_t>(digest.size(), 16), prefix,
                  16);
  return prefix;
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
