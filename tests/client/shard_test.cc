#include <gtest/gtest.h>

#include "client/shard_cache.h"
#include "client/shard_fetch.h"
#include "storage/encoded_shard.h"
#include "tests/client/client_fakes.h"

namespace fedmoe {
namespace {

CachedShard Values(std::size_t count) {
  return std::make_shared<const std::vector<std::byte>>(count * sizeof(float));
}

TEST(ShardCacheTest, DropsTheLeastRecentlyUsedBeyondItsBytes) {
  ShardCache cache(24);
  cache.Put("a", Values(2));
  cache.Put("b", Values(2));
  cache.Put("c", Values(2));
  EXPECT_EQ(cache.bytes(), 24U);
  EXPECT_NE(cache.Get("a"), nullptr);
  cache.Put("d", Values(2));
  EXPECT_NE(cache.Get("a"), nullptr);
  EXPECT_EQ(cache.Get("b"), nullptr);
  EXPECT_EQ(cache.bytes(), 24U);
}

TEST(ShardCacheTest, KeepsNothingThatIsLargerThanAll) {
  ShardCache cache(24);
  cache.Put("a", Values(2));
  cache.Put("b", Values(7));
  EXPECT_EQ(cache.Get("b"), nullptr);
  EXPECT_NE(cache.Get("a"), nullptr);
}

TEST(ShardCacheTest, PuttingTwiceCountsOnce) {
  ShardCache cache(24);
  cache.Put("a", Values(2));
  cache.Put("a", Values(2));
  EXPECT_EQ(cache.bytes(), 8U);
}

std::vector<float> ValuesOf(const std::map<int, HeldShard>& shards, int shard) {
  const std::span<const float> values = shards.at(shard).values;
  return {values.begin(), values.end()};
}

TEST(ShardFetchTest, ATaskKeepsShardsThatTheCacheCannot) {
  FakeTransport transport;
  ShardCache cache(0);
  Bandwidth down;
  const SteadyClock clock;
  const ModelSpec spec = TinySpec();
  const ShardFetchContext context{.spec = spec,
                                  .transport = transport,
                                  .cache = cache,
                                  .down = down,
                                  .clock = clock,
                                  .interrupted = [] { return Status::Ok(); }};
  const auto shards = FetchTaskShards(context, {"alice", 1}, {ReferenceTo(0), ReferenceTo(2)});
  ASSERT_TRUE(shards.ok()) << shards.status().ToString();
  EXPECT_EQ(ValuesOf(*shards, 0), ShardOf(0));
  EXPECT_EQ(ValuesOf(*shards, 2), ShardOf(2));
}

// Gives the encoded trunk of TinySpec(), damaged the first `damaged` times.
class EncodedTransport final : public FakeTransport {
 public:
  explicit EncodedTransport(int damaged) : damaged_(damaged) {}
  Status FetchShards(const SessionId&, const std::vector<ShardReference>& shards,
                     const ShardSink& sink, bool damaged) override {
    flags.push_back(damaged);
    const std::vector<float> values = ShardOf(kTrunkShard);
    std::vector<std::byte> bytes;
    FEDMOE_RETURN_IF_ERROR(EncodeShard(
        shards.at(0), TinySpec(),
        [&](std::uint64_t offset, std::span<std::byte> out) {
          std::copy_n(std::as_bytes(std::span(values)).begin() + static_cast<long>(offset),
                      out.size(), out.begin());
          return Status::Ok();
        },
        [&](std::span<const std::byte> piece) {
          bytes.insert(bytes.end(), piece.begin(), piece.end());
          return Status::Ok();
        }));
    if (damaged_-- > 0) bytes[130] ^= std::byte{1};
    ShardReference shard = shards.at(0);
    shard.bytes = static_cast<std::int64_t>(bytes.size());
    const std::span<const std::byte> all = bytes;
    FEDMOE_RETURN_IF_ERROR(sink(shard, 0, all.first(100)));
    return sink(shard, 100, all.subspan(100));
  }
  std::vector<bool> flags;

 private:
  int damaged_;
};

ShardReference EncodedTrunk() {
  ShardReference shard = ReferenceTo(kTrunkShard);
  shard.encoding = Encoding::kBfloat16;
  shard.bytes = DownloadBytes(TinySpec(), kTrunkShard, shard.download());
  return shard;
}

class EncodedFetchTest : public ::testing::Test {
 protected:
  Result<std::map<int, HeldShard>> Fetch(Transport& transport) {
    const ShardFetchContext context{.spec = spec_,
                                    .transport = transport,
                                    .cache = cache_,
                                    .down = down_,
                                    .clock = clock_,
                                    .interrupted = [] { return Status::Ok(); }};
    return FetchTaskShards(context, {"alice", 1}, {EncodedTrunk()});
  }
  const ModelSpec spec_ = TinySpec();
  ShardCache cache_{1'000};
  Bandwidth down_;
  const SteadyClock clock_{};
};

TEST_F(EncodedFetchTest, TheCacheKeepsTheEncodedBytes) {
  EncodedTransport transport(0);
  const auto first = Fetch(transport);
  ASSERT_TRUE(first.ok()) << first.status().ToString();
  EXPECT_EQ(ValuesOf(*first, kTrunkShard), ShardOf(kTrunkShard)) << "small numbers are exact";
  EXPECT_EQ(cache_.bytes(), static_cast<std::uint64_t>(EncodedTrunk().bytes));
  const auto second = Fetch(transport);
  ASSERT_TRUE(second.ok()) << second.status().ToString();
  EXPECT_EQ(ValuesOf(*second, kTrunkShard), ShardOf(kTrunkShard));
  EXPECT_EQ(transport.flags, std::vector<bool>{false}) << "nothing is fetched twice";
}

TEST_F(EncodedFetchTest, ADamagedShardIsFetchedOnceMoreAndTheCoordinatorTold) {
  EncodedTransport transport(1);
  const auto shards = Fetch(transport);
  ASSERT_TRUE(shards.ok()) << shards.status().ToString();
  EXPECT_EQ(ValuesOf(*shards, kTrunkShard), ShardOf(kTrunkShard));
  EXPECT_EQ(transport.flags, (std::vector<bool>{false, true}));
}

TEST_F(EncodedFetchTest, AShardThatStaysDamagedIsNamed) {
  EncodedTransport broken(2);
  EXPECT_EQ(Fetch(broken).status(),
            DataLoss("the encoded shard trunk is damaged: trunk: payload: wrong checksum"));
  EXPECT_EQ(broken.flags, (std::vector<bool>{false, true}));
  EXPECT_EQ(cache_.bytes(), 0U);
}

}  // namespace
}  // namespace fedmoe
