// A client whose link stalls is cut while others wait for its place, and comes back by itself.
#include <future>
#include <map>

#include "tests/support/fault_proxy.h"
#include "tests/wire/loopback_fixture.h"

namespace fedmoe {
namespace {

// One place in each lane, which a transfer may hold for a fifth of a second while others wait.
class StalledTransferTest : public LoopbackTest {
 protected:
  StalledTransferTest() {
    transport_.reset();
    server_ = GrpcServer::Start(*core_, *gate_, "127.0.0.1:0",
                                {.lanes = {.bytes = {1 << 17, 1 << 17}, .patience_ms = {200, 200}}})
                  .value();
    transport_ = MakeGrpcTransport(server_->address()).value();
    link_ = FaultProxy::Start(server_->address(), 1).value();
    stalling_ = MakeGrpcTransport(link_->address()).value();
  }

  std::unique_ptr<FaultProxy> link_;
  std::unique_ptr<Transport> stalling_;  // over the link
};

TEST_F(StalledTransferTest, ADownloadGoesOnWhereItWasCut) {
  const SessionId session = Session();
  const TaskAssignment task = FirstTask(session);
  std::map<int, std::uint64_t> arrived;
  std::promise<void> stalled;
  bool first = true;
  auto download = std::async(std::launch::async, [&] {
    return stalling_->FetchShards(
        session, task.shards,
        [&](const ShardReference& shard, std::uint64_t offset, std::span<const std::byte> bytes) {
          EXPECT_EQ(offset, arrived[shard.shard]);
          arrived[shard.shard] = offset + bytes.size();
          if (std::exchange(first, false)) {
            link_->Set({.up = {}, .down = {.stalled = true}});
            stalled.set_value();
          }
          return Status::Ok();
        },
        false, 0);
  });
  ASSERT_EQ(stalled.get_future().wait_for(std::chrono::minutes(1)), std::future_status::ready);
  const Status beside = transport_->FetchShards(
      session, task.shards, [](const auto&, auto, auto) { return Status::Ok(); }, false, 0);
  EXPECT_EQ(beside.ToString(), "OK");
  link_->Heal();
  EXPECT_EQ(download.get().ToString(), "OK");
  for (const ShardReference& shard : task.shards) {
    EXPECT_EQ(arrived[shard.shard], static_cast<std::uint64_t>(shard.bytes));
  }
}

TEST_F(StalledTransferTest, AnUploadComesBackByItself) {
  const SessionId session = Session();
  const TaskAssignment task = FirstTask(session);
  const OutgoingUpdate update(task);
  std::promise<void> stalled;
  std::uint64_t sent = 0;
  bool first = true;
  auto upload = std::async(std::launch::async, [&] {
    return stalling_->SubmitUpdate(session, update.header, [&](const auto& sink) {
      return update.Encode([&](std::span<const std::byte> bytes) {
        sent += bytes.size();
        if (sent > update.header.total_bytes / 2 && std::exchange(first, false)) {
          link_->Set({.up = {.stalled = true}, .down = {}});
          stalled.set_value();
        }
        return sink(bytes);
      });
    });
  });
  ASSERT_EQ(stalled.get_future().wait_for(std::chrono::minutes(1)), std::future_status::ready);
  const Result<Verdict> beside = transport_->SubmitUpdate(
      session, update.header, [&](const auto& sink) { return update.Encode(sink); });
  EXPECT_EQ(beside.status().ToString(), "OK");
  link_->Heal();
  const Result<Verdict> verdict = upload.get();
  ASSERT_EQ(verdict.status().ToString(), "OK");
  EXPECT_TRUE(verdict->accepted()) << verdict->detail;
  EXPECT_TRUE(beside->accepted()) << beside->detail;
}

}  // namespace
}  // namespace fedmoe
