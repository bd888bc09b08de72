// Encoded shards over the real transport.
#include <map>

#include "tests/wire/loopback_fixture.h"
#include "wire/from_proto.h"
#include "wire/status.h"
#include "wire/to_proto.h"

namespace fedmoe {
namespace {

class EncodedLoopbackTest : public LoopbackTest {
 protected:
  EncodedLoopbackTest() : LoopbackTest({.encoding = Encoding::kBfloat16, .zstd = true}) {}
  // The bytes of the shards, one behind the other, from `first_offset` of the first on.
  std::string Fetch(const SessionId& session, const std::vector<ShardReference>& shards,
                    std::uint64_t first_offset) {
    grpc::ClientContext context;
    const auto reader = Stub()->FetchShards(&context, FetchToProto(session, shards, first_offset));
    std::string all;
    v1::ShardChunk chunk;
    while (reader->Read(&chunk)) {
      const Result<ShardReference> shard = ShardOfChunk(chunk, shards);
      EXPECT_TRUE(shard.ok()) << shard.status().ToString();
      EXPECT_GT(chunk.total_bytes(), 0U);
      totals_[chunk.index()] = chunk.total_bytes();
      all += chunk.data();
    }
    status_ = FromGrpc(reader->Finish());
    return all;
  }
  std::map<int, std::uint64_t> totals_;
  Status status_;
};

TEST_F(EncodedLoopbackTest, AFetchGoesOnWithinAnEncodedShard) {
  const SessionId session = Session();
  const TaskAssignment task = FirstTask(session);
  const std::string whole = Fetch(session, task.shards, 0);
  EXPECT_TRUE(status_.ok()) << status_.ToString();
  std::uint64_t total = 0;
  for (const auto& [index, bytes] : totals_) total += bytes;
  EXPECT_EQ(whole.size(), total);
  EXPECT_EQ(totals_.size(), task.shards.size());
  EXPECT_LT(total, static_cast<std::uint64_t>(Spec().ShardBytes(kTrunkShard)) / 2);
  EXPECT_EQ(Fetch(session, task.shards, 1'000), whole.substr(1'000));
  EXPECT_TRUE(status_.ok()) << status_.ToString();
  // What a reference allows and the shard does not have.
  Fetch(session, task.shards, static_cast<std::uint64_t>(task.shards[0].bytes) - 1);
  EXPECT_EQ(status_, InvalidArgument("first_offset must be 0 to " + std::to_string(totals_[0] - 1) +
                                     " (got " + std::to_string(task.shards[0].bytes - 1) + ")"));
}

TEST_F(EncodedLoopbackTest, EncodedShardsDoNotComeWithTheTask) {
  const std::vector<ShardReference> shards = FirstTask(Session()).shards;
  PollRequest request(Session());
  request.carry_bytes = kMaxCarryBytes;
  request.held = {DigestPrefix(shards[0].digest)};
  const auto reply = transport_->NextTask(request);
  ASSERT_TRUE(reply.ok()) << reply.status().ToString();
  EXPECT_EQ(reply->task.shards, shards);
  EXPECT_TRUE(reply->carried.empty());
}

TEST_F(EncodedLoopbackTest, AClientTrainsARunToItsEnd) {
  auto state = ClientState::Open(PosixFileSystem(), directory_.File("client")).value();
  OnesTrainer trainer;
  ClientLoop loop(
      *transport_, trainer, *state, clock_,
      {.name = "alice",
       .coordinator = server_->address(),
       .build_spec = [](const std::string&, const auto&) -> Result<ModelSpec> { return Spec(); }});
  const ClientOutcome outcome = loop.Run();
  EXPECT_EQ(outcome.end, ClientEnd::kRunOver) << outcome.detail;
  EXPECT_EQ(core_->Wait().status, "completed");
}

}  // namespace
}  // namespace fedmoe
