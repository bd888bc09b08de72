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
  std::optional<PartialShard> partial;
  Bandwidth down;
  const SteadyClock clock;
  const ModelSpec spec = TinySpec();
  const ShardFetchContext context{.spec = spec,
                                  .transport = transport,
                                  .cache = cache,
                                  .partial = partial,
                                  .down = down,
                                  .clock = clock,
                                  .interrupted = [] { return Status::Ok(); }};
  const auto shards = FetchTaskShards(context, {"alice", 1}, {ReferenceTo(0), ReferenceTo(2)});
  ASSERT_TRUE(shards.ok()) << shards.status().ToString();
  EXPECT_EQ(ValuesOf(*shards, 0), ShardOf(0));
  EXPECT_EQ(ValuesOf(*shards, 2), ShardOf(2));
}

// Gives shards of TinySpec() byte by byte from where it is asked to, and breaks off, unreachable,
// once `until_cut` bytes have passed.
class CutTransport final : public FakeTransport {
 public:
  Status FetchShards(const SessionId&, const std::vector<ShardReference>& shards,
                     const ShardSink& sink, bool damaged, std::uint64_t first_offset) override {
    std::string note = fmt::format("from {}{}:", first_offset, damaged ? " damaged" : "");
    for (const ShardReference& shard : shards) note += fmt::format(" {}", shard.shard);
    asked.push_back(note);
    if (refuses_to_go_on && first_offset > 0) return InvalidArgument("first_offset");
    for (const ShardReference& shard : shards) {
      const std::vector<float> values = ShardOf(shard.shard);
      const auto bytes = std::as_bytes(std::span(values));
      for (std::uint64_t at = std::exchange(first_offset, 0); at < bytes.size(); ++at) {
        if (until_cut-- == 0) return Unavailable("cut");
        std::byte one = bytes[at];
        if (damage) one ^= std::byte{1};
        FEDMOE_RETURN_IF_ERROR(sink(shard, at, std::span(&one, 1)));
      }
    }
    return Status::Ok();
  }
  std::vector<std::string> asked;
  std::int64_t until_cut = -1;  // negative: never
  bool damage = false;
  bool refuses_to_go_on = false;
};

class PartialFetchTest : public ::testing::Test {
 protected:
  Result<std::map<int, HeldShard>> Fetch(const std::vector<ShardReference>& shards) {
    const ShardFetchContext context{.spec = spec_,
                                    .transport = transport_,
                                    .cache = *cache_,
                                    .partial = partial_,
                                    .down = down_,
                                    .clock = clock_,
                                    .interrupted = [] { return Status::Ok(); }};
    return FetchTaskShards(context, {"alice", 1}, shards);
  }
  // Of a first fetch, when it broke off.
  void CutAfter(std::int64_t bytes) {
    transport_.until_cut = bytes;
    EXPECT_EQ(Fetch({ReferenceTo(0), ReferenceTo(2)}).status(), Unavailable("cut"));
    transport_.until_cut = -1;
  }
  const ModelSpec spec_ = TinySpec();
  CutTransport transport_;
  std::optional<ShardCache> cache_{1'000};
  std::optional<PartialShard> partial_;
  Bandwidth down_;
  const SteadyClock clock_{};
};

TEST_F(PartialFetchTest, GoesOnAtTheByteWhereTheLastOneBrokeOff) {
  const auto trunk = static_cast<std::int64_t>(ReferenceTo(0).bytes);
  const auto expert = static_cast<std::int64_t>(ReferenceTo(2).bytes);
  for (std::int64_t cut = 0; cut < trunk + expert; ++cut) {
    SCOPED_TRACE(cut);
    cache_.emplace(1'000);
    transport_.asked.clear();
    CutAfter(cut);
    const auto shards = Fetch({ReferenceTo(0), ReferenceTo(2)});
    ASSERT_TRUE(shards.ok()) << shards.status().ToString();
    EXPECT_EQ(ValuesOf(*shards, 0), ShardOf(0));
    EXPECT_EQ(ValuesOf(*shards, 2), ShardOf(2));
    const std::string again =
        cut < trunk ? fmt::format("from {}: 0 2", cut) : fmt::format("from {}: 2", cut - trunk);
    EXPECT_EQ(transport_.asked, (std::vector<std::string>{"from 0: 0 2", again}));
    EXPECT_FALSE(partial_.has_value());
  }
}

TEST_F(PartialFetchTest, APartComesFirstWhateverTheOrder) {
  CutAfter(3);
  const auto shards = Fetch({ReferenceTo(2), ReferenceTo(0)});
  ASSERT_TRUE(shards.ok()) << shards.status().ToString();
  EXPECT_EQ(ValuesOf(*shards, 0), ShardOf(0));
  EXPECT_EQ(transport_.asked.back(), "from 3: 0 2");
}

TEST_F(PartialFetchTest, APartOfAnotherVersionIsDropped) {
  CutAfter(3);
  partial_->shard.digest = std::string(64, 'a');
  const auto shards = Fetch({ReferenceTo(0)});
  ASSERT_TRUE(shards.ok()) << shards.status().ToString();
  EXPECT_EQ(transport_.asked.back(), "from 0: 0");
}

TEST_F(PartialFetchTest, APartThatNoTaskWantsIsDropped) {
  CutAfter(static_cast<std::int64_t>(ReferenceTo(0).bytes) + 3);
  EXPECT_TRUE(partial_.has_value());
  ASSERT_TRUE(Fetch({ReferenceTo(0)}).ok()) << "which is in the cache";
  EXPECT_FALSE(partial_.has_value());
}

TEST_F(PartialFetchTest, AShardWithADamagedPartIsFetchedWholly) {
  transport_.damage = true;
  CutAfter(3);
  transport_.damage = false;
  const auto shards = Fetch({ReferenceTo(0)});
  ASSERT_TRUE(shards.ok()) << shards.status().ToString();
  EXPECT_EQ(ValuesOf(*shards, 0), ShardOf(0));
  EXPECT_EQ(transport_.asked,
            (std::vector<std::string>{"from 0: 0 2", "from 3: 0", "from 0 damaged: 0"}));
}

// As where an encoded shard was made again, and is shorter now.
TEST_F(PartialFetchTest, APartThatTheCoordinatorDoesNotGoOnWithIsDropped) {
  CutAfter(3);
  transport_.refuses_to_go_on = true;
  const auto shards = Fetch({ReferenceTo(0)});
  ASSERT_TRUE(shards.ok()) << shards.status().ToString();
  EXPECT_EQ(ValuesOf(*shards, 0), ShardOf(0));
}

TEST_F(PartialFetchTest, APartIsOfAnyShardWithItsContent) {
  CutAfter(3);
  partial_->shard.shard = 1;
  const auto shards = Fetch({ReferenceTo(0)});
  ASSERT_TRUE(shards.ok()) << shards.status().ToString();
  EXPECT_EQ(transport_.asked.back(), "from 3: 0");
}

// Gives the encoded trunk of TinySpec(), damaged the first `damaged` times.
class EncodedTransport final : public FakeTransport {
 public:
  explicit EncodedTransport(int damaged) : damaged_(damaged) {}
  Status FetchShards(const SessionId&, const std::vector<ShardReference>& shards,
                     const ShardSink& sink, bool damaged, std::uint64_t) override {
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
                                    .partial = partial_,
                                    .down = down_,
                                    .clock = clock_,
                                    .interrupted = [] { return Status::Ok(); }};
    return FetchTaskShards(context, {"alice", 1}, {EncodedTrunk()});
  }
  const ModelSpec spec_ = TinySpec();
  ShardCache cache_{1'000};
  std::optional<PartialShard> partial_;
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
