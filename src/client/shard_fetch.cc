#include "client/shard_fetch.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include <spdlog/spdlog.h>

#include "storage/encoded_shard.h"
#include "storage/small_file.h"

namespace fedmoe {
namespace {

std::string NameOf(const ShardReference& shard) {
  return shard.shard == 0 ? "the trunk's shard"
                          : "the shard of expert " + std::to_string(shard.shard - 1);
}

std::uint64_t BytesOf(const ShardReference& shard) {
  return static_cast<std::uint64_t>(shard.bytes);
}

// The values of a shard that came whole; DATA_LOSS where it is damaged.
Result<HeldShard> ValuesOf(const CachedShard& bytes, const ShardReference& shard,
                           const ModelSpec& spec) {
  if (!shard.encoded()) {
    return HeldShard{
        .owner = bytes,
        .values = {reinterpret_cast<const float*>(bytes->data()), bytes->size() / sizeof(float)}};
  }
  auto values = std::make_shared<std::vector<float>>(
      static_cast<std::size_t>(spec.ShardElements(shard.shard)));
  FEDMOE_RETURN_IF_ERROR(DecodeShard(*FileOf(bytes), shard, spec, *values));
  const std::span<const float> view = *values;
  return HeldShard{.owner = std::move(values), .values = view};
}

// Receives the pieces of several shards, one shard after another.
class Receiver {
 public:
  Receiver(const ShardFetchContext& context, std::map<int, HeldShard>& held)
      : context_(context), held_(held) {}

  Status Take(const ShardReference& shard, std::uint64_t offset, std::span<const std::byte> bytes) {
    FEDMOE_RETURN_IF_ERROR(context_.interrupted());
    if (offset == 0) Begin(shard);
    const auto size = static_cast<std::uint64_t>(shard.bytes);
    if (!context_.partial || shard != context_.partial->shard ||
        offset != context_.partial->filled || bytes.size() > size - offset) {
      return DataLoss(NameOf(shard) + " came in the wrong order");
    }
    PartialShard& part = *context_.partial;
    std::memcpy(part.bytes->data() + offset, bytes.data(), bytes.size());
    if (!shard.encoded()) part.sha.Update(bytes);
    part.filled += bytes.size();
    received_ += bytes.size();
    return part.filled == size ? Complete() : Status::Ok();
  }

  std::uint64_t received() const { return received_; }

 private:
  void Begin(const ShardReference& shard) {
    PartialShard& part = context_.partial.emplace();
    part.shard = shard;
    part.bytes = std::make_shared<std::vector<std::byte>>(static_cast<std::size_t>(shard.bytes));
  }

  Status Complete() {
    PartialShard whole = std::move(*context_.partial);
    context_.partial.reset();
    const ShardReference& shard = whole.shard;
    if (!shard.encoded()) {
      const Digest digest = whole.sha.Finish();
      if (digest != shard.digest) {
        return DataLoss(NameOf(shard) + " is damaged: its SHA-256 is " + digest + ", not " +
                        shard.digest);
      }
    }
    FEDMOE_ASSIGN_OR_RETURN(held_[shard.shard], ValuesOf(whole.bytes, shard, context_.spec));
    context_.cache.Put(ShardKey(shard), std::move(whole.bytes));
    return Status::Ok();
  }

  const ShardFetchContext& context_;
  std::map<int, HeldShard>& held_;
  std::uint64_t received_ = 0;
};

std::vector<ShardReference> MissingOf(const ShardFetchContext& context,
                                      const std::vector<ShardReference>& shards,
                                      std::map<int, HeldShard>& held) {
  std::vector<ShardReference> missing;
  for (const ShardReference& shard : shards) {
    if (held.contains(shard.shard)) continue;
    const CachedShard cached = context.cache.Get(ShardKey(shard));
    const bool fits = cached != nullptr && (shard.encoded() || cached->size() == BytesOf(shard));
    Result<HeldShard> values =
        fits ? ValuesOf(cached, shard, context.spec) : Result<HeldShard>(NotFound("not cached"));
    if (values.ok()) {
      held[shard.shard] = std::move(values).value();
    } else {
      missing.push_back(shard);
    }
  }
  return missing;
}

// Puts the shard first of which a part is here, and returns how much of it; forgets one that is not
// among them.
std::uint64_t GoOn(std::optional<PartialShard>& partial, std::vector<ShardReference>& missing) {
  const auto begun = std::find_if(missing.begin(), missing.end(), [&](const ShardReference& shard) {
    return partial && ShardKey(shard) == ShardKey(partial->shard);
  });
  if (begun == missing.end()) {
    partial.reset();
    return 0;
  }
  // Of equal content, the one that is asked for.
  partial->shard.shard = begun->shard;
  std::rotate(missing.begin(), begun, begun + 1);
  return partial->filled;
}

Status FetchOnce(const ShardFetchContext& context, const SessionId& session,
                 std::vector<ShardReference> missing, std::map<int, HeldShard>& held,
                 bool damaged) {
  const std::uint64_t first_offset = GoOn(context.partial, missing);
  Receiver receiver(context, held);
  const Milliseconds start_ms = context.clock.NowMs();
  FEDMOE_RETURN_IF_ERROR(context.transport.FetchShards(
      session, missing,
      [&receiver](const ShardReference& shard, std::uint64_t offset,
                  std::span<const std::byte> bytes) { return receiver.Take(shard, offset, bytes); },
      damaged, first_offset));
  context.down.Add(receiver.received(), context.clock.NowMs() - start_ms);
  for (const ShardReference& shard : missing) {
    if (!held.contains(shard.shard)) return DataLoss(NameOf(shard) + " came incomplete");
  }
  return Status::Ok();
}

}  // namespace

Result<std::map<int, HeldShard>> FetchTaskShards(const ShardFetchContext& context,
                                                 const SessionId& session,
                                                 const std::vector<ShardReference>& shards) {
  std::map<int, HeldShard> held;
  Status status;
  bool damaged = false;
  for (int attempt = 0; attempt < 2; ++attempt) {
    const std::vector<ShardReference> missing = MissingOf(context, shards, held);
    if (missing.empty()) {
      context.partial.reset();
      return held;
    }
    status = FetchOnce(context, session, missing, held, damaged);
    if (status.ok()) return held;
    // Which the coordinator may refuse to go on with, as when it is not as long any more.
    const bool refused = status.code() == StatusCode::kInvalidArgument && context.partial;
    if (status.code() != StatusCode::kDataLoss && !refused) return status;
    context.partial.reset();
    damaged = !refused;
    if (attempt == 0) spdlog::warn("{}; fetching it again", status.message());
  }
  return status;
}

}  // namespace fedmoe
