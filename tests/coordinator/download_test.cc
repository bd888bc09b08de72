// Runs whose trainers download encoded shards: they end in a model, always the same, whatever
// happens to coordinator and files.
#include <filesystem>
#include <fstream>
#include <future>
#include <map>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "client/shard_fetch.h"
#include "tests/coordinator/raw_client.h"

namespace fedmoe {
namespace {

using ::testing::EndsWith;

constexpr DownloadOptions kInt8{.encoding = Encoding::kInt8};

CoreOptions EncodedOptions(const DownloadOptions& download) {
  CoreOptions options = FleetOptions();
  options.run.training.download = download;
  return options;
}

RunSummary RunOnce(const DownloadOptions& download) {
  Fleet fleet(EncodedOptions(download));
  return fleet.RunToEnd();
}

// A coordinator with one client, which has its first task.
struct OneClient {
  explicit OneClient(CoreOptions options) : fleet(Alone(std::move(options)), 1) {
    EXPECT_OK(fleet.coordinator.Start());
    alice.Join();
    alice.TakeTask();
  }
  static CoreOptions Alone(CoreOptions options) {
    options.run.participation.min_clients = 1;
    return options;
  }
  Fleet fleet;
  RawClient alice{.slot = fleet.coordinator.slot, .name = "alice"};
};

// What the coordinator counts as sent.
std::uint64_t CountedDown(CoordinatorCore& core) {
  std::promise<std::string> answer;
  core.Status([&answer](Result<std::string> json) { answer.set_value(std::move(json).value()); });
  const nlohmann::json status = nlohmann::json::parse(answer.get_future().get());
  return status.at("bytes_down").get<std::uint64_t>();
}

std::set<std::string> EncodedFiles(const Fleet& fleet) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(fleet.Path("encoded"))) {
    names.insert(entry.path().filename());
  }
  return names;
}

TEST(DownloadTest, EveryEncodingGivesAModelOfItsOwnAndTheSameOneEachTime) {
  std::set<std::string> digests;
  for (const DownloadOptions& download :
       {DownloadOptions{}, DownloadOptions{.encoding = Encoding::kBfloat16},
        DownloadOptions{.encoding = Encoding::kFloat16}, kInt8,
        DownloadOptions{.encoding = Encoding::kInt4}}) {
    SCOPED_TRACE(EncodingName(download.encoding));
    const RunSummary summary = RunOnce(download);
    EXPECT_EQ(summary.status, "completed") << summary.detail;
    EXPECT_EQ(summary.rounds, 3);
    const RunSummary again = RunOnce(download);
    EXPECT_EQ(again.model_digest, summary.model_digest);
    EXPECT_EQ(again.bytes_down, summary.bytes_down);
    digests.insert(summary.model_digest);
  }
  EXPECT_EQ(digests.size(), 5U);
}

TEST(DownloadTest, CompressionDoesNotChangeTheModel) {
  for (const Encoding encoding : {Encoding::kFloat32, Encoding::kInt8}) {
    EXPECT_EQ(RunOnce({.encoding = encoding, .zstd = true}).model_digest,
              RunOnce({.encoding = encoding}).model_digest)
        << EncodingName(encoding);
  }
}

TEST(DownloadTest, WithoutAnEncodingNothingIsEncoded) {
  Fleet fleet;
  EXPECT_EQ(fleet.RunToEnd().status, "completed");
  EXPECT_FALSE(std::filesystem::exists(fleet.Path("encoded")));
}

TEST(DownloadTest, TrafficIsTheEncodedBytes) {
  for (const DownloadOptions& download : {DownloadOptions{}, kInt8}) {
    CoreOptions options = EncodedOptions(download);
    OneClient one(options);
    Fleet& fleet = one.fleet;
    RawClient& alice = one.alice;
    std::uint64_t bytes = 0;
    std::uint64_t expected = 0;
    for (const ShardReference& shard : alice.task.shards) {
      EXPECT_EQ(shard.download(), download);
      expected += static_cast<std::uint64_t>(DownloadBytes(alice.spec, shard.shard, download));
    }
    EXPECT_OK(alice.transport.FetchShards(
        alice.session, alice.task.shards,
        [&](const ShardReference&, std::uint64_t, std::span<const std::byte> piece) {
          bytes += piece.size();
          return Status::Ok();
        },
        false, 0));
    EXPECT_EQ(bytes, expected);
    EXPECT_EQ(CountedDown(fleet.coordinator.core()), expected);
  }
}

TEST(DownloadTest, AnEvaluatorGetsTheCheckpointItself) {
  Fleet fleet(EncodedOptions(kInt8));
  ASSERT_OK(fleet.coordinator.Start());
  // Before the fleet's own evaluator, by name.
  RawClient judge{.slot = fleet.coordinator.slot, .name = "a-judge"};
  RegisterRequest request = judge.Request();
  request.role = ClientRole::kEvaluator;
  const Result<RegisterReply> reply = judge.transport.Register(request);
  ASSERT_OK(reply.status());
  judge.session = {judge.name, reply->session};
  fleet.StartClients();
  judge.TakeTask();
  EXPECT_EQ(judge.task.kind, TaskKind::kEvaluate);
  for (const ShardReference& shard : judge.task.shards) {
    EXPECT_FALSE(shard.encoded());
    EXPECT_EQ(shard.bytes, judge.spec.ShardBytes(shard.shard));
  }
}

// What a stopped transfer has is good for the next coordinator's: the same bytes, made again or
// not.
TEST(DownloadTest, ARestartServesTheSameBytes) {
  CoreOptions options = EncodedOptions({.encoding = Encoding::kInt4, .zstd = true});
  OneClient one(options);
  Fleet& fleet = one.fleet;
  RawClient& alice = one.alice;
  const auto fetch = [&] {
    std::string all;
    EXPECT_OK(alice.transport.FetchShards(
        alice.session, alice.task.shards,
        [&](const ShardReference&, std::uint64_t, std::span<const std::byte> piece) {
          all.append(reinterpret_cast<const char*>(piece.data()), piece.size());
          return Status::Ok();
        },
        false, 0));
    return all;
  };
  const std::string before = fetch();
  EXPECT_FALSE(before.empty());
  fleet.coordinator.Kill();
  ASSERT_OK(fleet.coordinator.Start());
  EXPECT_EQ(fetch(), before);
  fleet.coordinator.Kill();
  std::filesystem::remove_all(fleet.Path("encoded"));
  ASSERT_OK(fleet.coordinator.Start());
  EXPECT_EQ(fetch(), before);
}

// Killed with every piece that arrives: whatever was there before the restart is not fetched again.
TEST(DownloadTest, ADownloadGoesOnAfterARestart) {
  for (const DownloadOptions& download :
       {DownloadOptions{}, kInt8, DownloadOptions{.encoding = Encoding::kInt4, .zstd = true}}) {
    SCOPED_TRACE(EncodingName(download.encoding));
    CoreOptions options = EncodedOptions(download);
    OneClient one(options);
    Fleet& fleet = one.fleet;
    RawClient& alice = one.alice;
    ShardCache cache(1 << 20);
    std::optional<PartialShard> partial;
    Bandwidth down;
    const SteadyClock clock;
    int pieces = 0;
    const ShardFetchContext context{.spec = alice.spec,
                                    .transport = alice.transport,
                                    .cache = cache,
                                    .partial = partial,
                                    .down = down,
                                    .clock = clock,
                                    .interrupted = [&] {
                                      // The next piece is asked for from nobody.
                                      fleet.coordinator.Kill();
                                      ++pieces;
                                      return Status::Ok();
                                    }};
    Result<std::map<int, HeldShard>> held = Unavailable("not yet");
    int tries = 0;
    while (held.status().code() == StatusCode::kUnavailable && tries++ < 1'000) {
      if (tries > 1) {
        ASSERT_OK(fleet.coordinator.Start());
        alice.Join();
      }
      held = FetchTaskShards(context, alice.session, alice.task.shards);
    }
    ASSERT_OK(held.status());
    EXPECT_EQ(tries, pieces) << "each had one";
    EXPECT_GT(pieces, 3);
    ASSERT_OK(fleet.coordinator.Start());
    alice.Join();
    ShardCache empty(0);
    const ShardFetchContext whole{.spec = alice.spec,
                                  .transport = alice.transport,
                                  .cache = empty,
                                  .partial = partial,
                                  .down = down,
                                  .clock = clock,
                                  .interrupted = [] { return Status::Ok(); }};
    const auto expected = FetchTaskShards(whole, alice.session, alice.task.shards);
    ASSERT_OK(expected.status());
    for (const auto& [index, shard] : *expected) {
      EXPECT_TRUE(std::ranges::equal(shard.values, held->at(index).values)) << index;
    }
  }
}

// Behind the back of a coordinator that has checked its files.
TEST(DownloadTest, ADamagedFileIsMadeAgainWhenAClientSaysSo) {
  CoreOptions options = EncodedOptions(kInt8);
  options.small_bytes = 0;  // with files of their own
  OneClient one(options);
  Fleet& fleet = one.fleet;
  RawClient& alice = one.alice;
  const auto fetch = [&] {
    ShardCache cache(0);
    std::optional<PartialShard> partial;
    Bandwidth down;
    const SteadyClock clock;
    const ShardFetchContext context{.spec = alice.spec,
                                    .transport = alice.transport,
                                    .cache = cache,
                                    .partial = partial,
                                    .down = down,
                                    .clock = clock,
                                    .interrupted = [] { return Status::Ok(); }};
    std::vector<float> values;
    const auto held = FetchTaskShards(context, alice.session, alice.task.shards);
    EXPECT_OK(held.status());
    if (!held.ok()) return values;
    for (const auto& [index, shard] : *held) {
      values.insert(values.end(), shard.values.begin(), shard.values.end());
    }
    return values;
  };
  const std::vector<float> before = fetch();
  ASSERT_FALSE(before.empty());
  std::map<std::string, std::string> whole;
  for (const std::string& name : EncodedFiles(fleet)) {
    const std::string path = fleet.Path("encoded/" + name);
    whole[name] = ReadAll(path);
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(70);
    file.put(static_cast<char>(whole[name][70] ^ 1));
  }
  ASSERT_EQ(whole.size(), alice.task.shards.size());
  EXPECT_EQ(fetch(), before);
  for (const auto& [name, bytes] : whole) EXPECT_EQ(ReadAll(fleet.Path("encoded/" + name)), bytes);
}

TEST(DownloadTest, WhatNoTaskAsksForIsNotEncoded) {
  Fleet fleet(EncodedOptions(kInt8));
  ASSERT_OK(fleet.coordinator.Start());
  RawClient alice{.slot = fleet.coordinator.slot, .name = "client-9"};
  alice.Join();
  const auto open = [&](const ShardReference& shard) {
    const auto sink = [](const ShardReference&, std::uint64_t, std::span<const std::byte>) {
      return Status::Ok();
    };
    return alice.transport.FetchShards(alice.session, {shard}, sink, true, 0);
  };
  const Digest unknown(64, 'a');
  EXPECT_EQ(open({.shard = 0, .digest = unknown, .bytes = 64, .encoding = Encoding::kInt4}),
            FailedPrecondition("shards of this run travel as int8, not as int4 (transfer.down)"));
  EXPECT_EQ(
      open({.shard = 0, .digest = unknown, .bytes = 64, .encoding = Encoding::kInt8, .zstd = true}),
      FailedPrecondition(
          "shards of this run travel as int8, not as int8 with zstd (transfer.down)"));
  EXPECT_EQ(open({.shard = 7, .digest = unknown, .bytes = 64, .encoding = Encoding::kInt8}),
            NotFound("no stored version has shard 7 " + unknown));
  EXPECT_TRUE(EncodedFiles(fleet).empty());
}

TEST(DownloadTest, FilesOfPastVersionsGo) {
  Fleet fleet(EncodedOptions(kInt8));
  const RunSummary summary = fleet.RunToEnd();
  EXPECT_EQ(summary.status, "completed");
  fleet.coordinator.Kill();
  // Of the last version alone, which nobody trains from; its clients evaluate it.
  const std::set<std::string> names = EncodedFiles(fleet);
  EXPECT_LE(names.size(), 5U);
  for (const std::string& name : names) EXPECT_THAT(name, EndsWith(".int8"));
}

TEST(DownloadTest, ACoordinatorKilledAfterAnyCallEndsInTheSameModel) {
  const std::string undisturbed = RunOnce(kInt8).model_digest;
  for (std::int64_t calls = 5; calls < 120; calls += 13) {
    SCOPED_TRACE("after " + std::to_string(calls) + " calls");
    Fleet fleet(EncodedOptions(kInt8));
    ASSERT_OK(fleet.coordinator.Start());
    fleet.coordinator.slot.CloseAfter(calls);
    fleet.StartClients();
    while (!fleet.coordinator.core().WaitFor(1) && !fleet.coordinator.slot.closed()) {
    }
    ASSERT_TRUE(fleet.coordinator.slot.closed()) << "the run ended before the kill";
    fleet.coordinator.Kill();
    ASSERT_OK(fleet.coordinator.Start());
    const RunSummary summary = fleet.coordinator.core().Wait();
    EXPECT_EQ(summary.status, "completed") << summary.detail;
    EXPECT_EQ(summary.model_digest, undisturbed);
  }
}

}  // namespace
}  // namespace fedmoe
