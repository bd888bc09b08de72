#include "simulation/travelled_shard.h"

#include <utility>
#include <vector>

#include "storage/encoded_shard.h"
#include "storage/small_file.h"

namespace fedmoe {
namespace {

class DecodedRegion final : public MappedRegion {
 public:
  explicit DecodedRegion(std::vector<float> values) : values_(std::move(values)) {}
  std::span<const std::byte> bytes() const override { return std::as_bytes(std::span(values_)); }

 private:
  const std::vector<float> values_;
};

}  // namespace

Result<TravelledShard> Travel(const ShardReference& shard, const ModelSpec& spec,
                              const ShardStore& store) {
  TravelledShard travelled{
      .digest = shard.digest, .values = nullptr, .bytes = static_cast<std::uint64_t>(shard.bytes)};
  if (!shard.encoded()) {
    FEDMOE_ASSIGN_OR_RETURN(travelled.values, store.ReadShard(shard.digest));
    return travelled;
  }
  auto encoded = std::make_shared<std::vector<std::byte>>();
  FEDMOE_RETURN_IF_ERROR(EncodeShard(
      shard, spec,
      [&](std::uint64_t offset, std::span<std::byte> out) {
        return store.ReadShardAt(shard.digest, offset, out);
      },
      [&encoded](std::span<const std::byte> bytes) {
        encoded->insert(encoded->end(), bytes.begin(), bytes.end());
        return Status::Ok();
      }));
  travelled.bytes = encoded->size();
  std::vector<float> values(static_cast<std::size_t>(spec.ShardElements(shard.shard)));
  FEDMOE_RETURN_IF_ERROR(DecodeShard(*FileOf(std::move(encoded)), shard, spec, values));
  travelled.values = std::make_shared<DecodedRegion>(std::move(values));
  return travelled;
}

}  // namespace fedmoe
