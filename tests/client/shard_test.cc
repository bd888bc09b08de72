#include <gtest/gtest.h>

#include "client/shard_cache.h"
#include "client/shard_fetch.h"
#include "tests/client/client_fakes.h"

namespace fedmoe {
namespace {

CachedShard Values(std::size_t count) {
  return std::make_shared<const std::vector<float>>(count, 1.0F);
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

TEST(ShardFetchTest, ATaskKeepsShardsThatTheCacheCannot) {
  FakeTransport transport;
  ShardCache cache(0);
  Bandwidth down;
  const SteadyClock clock;
  const ShardFetchContext context{
      .transport = transport, .cache = cache, .down = down, .clock = clock, .interrupted = [] {
        return Status::Ok();
      }};
  const auto shards = FetchTaskShards(context, {"alice", 1}, {ReferenceTo(0), ReferenceTo(2)});
  ASSERT_TRUE(shards.ok()) << shards.status().ToString();
  EXPECT_EQ(*shards->at(0), ShardOf(0));
  EXPECT_EQ(*shards->at(2), ShardOf(2));
}

}  // namespace
}  // namespace fedmoe
