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
    if (shard != shard_ || offset != filled_ || bytes.size() > size - filled_) {
      return DataLoss(NameOf(shard) + " came in the wrong order");
    }
    std::memcpy(bytes_->data() + offset, bytes.data(), bytes.size());
    if (!shard.encoded()) sha_.Update(bytes);
    filled_ += bytes.size();
    received_ += bytes.size();
    return filled_ == size ? Complete(shard) : Status::Ok();
  }

  std::uint64_t received() const { return received_; }

 private:
  void Begin(const ShardReference& shard) {
    shard_ = shard;
    filled_ = 0;
    sha_ = Sha256();
    bytes_ = std::make_shared<std::vector<std::byte>>(static_cast<std::size_t>(shard.bytes));
  }

  Status Complete(const ShardReference& shard) {
    shard_ = ShardReference{.shard = -1};
    if (!shard.encoded()) {
      const Digest digest = sha_.Finish();
      if (digest != shard.digest) {
        return DataLoss(NameOf(shard) + " is damaged: its SHA-256 is " + digest + ", not " +
                        shard.digest);
      }
    }
    FEDMOE_ASSIGN_OR_RETURN(held_[shard.shard], ValuesOf(bytes_, shard, context_.spec));
    context_.cache.Put(ShardKey(shard), std::move(bytes_));
    return Status::Ok();
  }

  const ShardFetchContext& context_;
  std::map<int, HeldShard>& held_;
  ShardReference shard_{.shard = -1};  // of the pieces that come; with the bytes that it has
  std::uint64_t filled_ = 0;
  std::uint64_t received_ = 0;
  Sha256 sha_;
  std::shared_ptr<std::vector<std::byte>> bytes_;
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

Status FetchOnce(const ShardFetchContext& context, const SessionId& session,
                 const std::vector<ShardReference>& missing, std::map<int, HeldShard>& held,
                 bool damaged) {
  Receiver receiver(context, held);
  const Milliseconds start_ms = context.clock.NowMs();
  FEDMOE_RETURN_IF_ERROR(context.transport.FetchShards(
      session, missing,
      [&receiver](const ShardReference& shard, std::uint64_t offset,
                  std::span<const std::byte> bytes) { return receiver.Take(shard, offset, bytes); },
      damaged));
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
  for (int attempt = 0; attempt < 2; ++attempt) {
    const std::vector<ShardReference> missing = MissingOf(context, shards, held);
    if (missing.empty()) return held;
    status = FetchOnce(context, session, missing, held, attempt > 0);
    if (status.ok()) return held;
    if (status.code() != StatusCode::kDataLoss) return status;
    if (attempt == 0) spdlog::warn("{}; fetching it again", status.message());
  }
  return status;
}

}  // namespace fedmoe
