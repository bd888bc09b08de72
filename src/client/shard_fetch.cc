#include "client/shard_fetch.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include <spdlog/spdlog.h>

namespace fedmoe {
namespace {

std::string NameOf(const ShardReference& shard) {
  return shard.shard == 0 ? "the trunk's shard"
                          : "the shard of expert " + std::to_string(shard.shard - 1);
}

// Receives the pieces of several shards, one shard after another.
class Receiver {
 public:
  Receiver(const ShardFetchContext& context, std::map<int, CachedShard>& held)
      : context_(context), held_(held) {}

  Status Take(const ShardReference& shard, std::uint64_t offset, std::span<const std::byte> bytes) {
    FEDMOE_RETURN_IF_ERROR(context_.interrupted());
    if (offset == 0) Begin(shard);
    const auto size = static_cast<std::uint64_t>(shard.bytes);
    if (shard.shard != shard_ || offset != filled_ || bytes.size() > size - filled_) {
      return DataLoss(NameOf(shard) + " came in the wrong order");
    }
    std::memcpy(reinterpret_cast<std::byte*>(values_->data()) + offset, bytes.data(), bytes.size());
    sha_.Update(bytes);
    filled_ += bytes.size();
    received_ += bytes.size();
    return filled_ == size ? Complete(shard) : Status::Ok();
  }

  std::uint64_t received() const { return received_; }

 private:
  void Begin(const ShardReference& shard) {
    shard_ = shard.shard;
    filled_ = 0;
    sha_ = Sha256();
    values_ =
        std::make_shared<std::vector<float>>(static_cast<std::size_t>(shard.bytes) / sizeof(float));
  }

  Status Complete(const ShardReference& shard) {
    const Digest digest = sha_.Finish();
    shard_ = -1;
    if (digest != shard.digest) {
      return DataLoss(NameOf(shard) + " is damaged: its SHA-256 is " + digest + ", not " +
                      shard.digest);
    }
    context_.cache.Put(digest, values_);
    held_[shard.shard] = std::move(values_);
    return Status::Ok();
  }

  const ShardFetchContext& context_;
  std::map<int, CachedShard>& held_;
  int shard_ = -1;
  std::uint64_t filled_ = 0;
  std::uint64_t received_ = 0;
  Sha256 sha_;
  std::shared_ptr<std::vector<float>> values_;
};

std::vector<ShardReference> MissingOf(const ShardFetchContext& context,
                                      const std::vector<ShardReference>& shards,
                                      std::map<int, CachedShard>& held) {
  std::vector<ShardReference> missing;
  for (const ShardReference& shard : shards) {
    if (held.contains(shard.shard)) continue;
    CachedShard cached = context.cache.Get(shard.digest);
    if (cached != nullptr &&
        cached->size() * sizeof(float) == static_cast<std::uint64_t>(shard.bytes)) {
      held[shard.shard] = std::move(cached);
    } else {
      missing.push_back(shard);
    }
  }
  return missing;
}

Status FetchOnce(const ShardFetchContext& context, const SessionId& session,
                 const std::vector<ShardReference>& missing, std::map<int, CachedShard>& held) {
  Receiver receiver(context, held);
  const Milliseconds start_ms = context.clock.NowMs();
  FEDMOE_RETURN_IF_ERROR(
      context.transport.FetchShards(session, missing,
                                    [&receiver](const ShardReference& shard, std::uint64_t offset,
                                                std::span<const std::byte> bytes) {
                                      return receiver.Take(shard, offset, bytes);
                                    }));
  context.down.Add(receiver.received(), context.clock.NowMs() - start_ms);
  for (const ShardReference& shard : missing) {
    if (!held.contains(shard.shard)) return DataLoss(NameOf(shard) + " came incomplete");
  }
  return Status::Ok();
}

}  // namespace

Result<std::map<int, CachedShard>> FetchTaskShards(const ShardFetchContext& context,
                                                   const SessionId& session,
                                                   const std::vector<ShardReference>& shards) {
  std::map<int, CachedShard> held;
  Status status;
  for (int attempt = 0; attempt < 2; ++attempt) {
    const std::vector<ShardReference> missing = MissingOf(context, shards, held);
    if (missing.empty()) return held;
    status = FetchOnce(context, session, missing, held);
    if (status.ok()) return held;
    if (status.code() != StatusCode::kDataLoss) return status;
    if (attempt == 0) spdlog::warn("{}; fetching it again", status.message());
  }
  return status;
}

}  // namespace fedmoe
