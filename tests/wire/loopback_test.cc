// Transport, server and the real core over loopback.
#include <map>
#include <thread>

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "client/client_loop.h"
#include "client/grpc_admin.h"
#include "client/grpc_transport.h"
#include "common/version.h"
#include "coordinator/grpc_server.h"
#include "fedmoe/v1/coordinator.grpc.pb.h"
#include "storage/update_format.h"
#include "tests/wire/loopback_fixture.h"
#include "wire/limits.h"
#include "wire/to_proto.h"

namespace fedmoe {
namespace {

using ::testing::StartsWith;

TEST_F(LoopbackTest, AClientTrainsARunToItsEnd) {
  auto state = ClientState::Open(PosixFileSystem(), directory_.File("client")).value();
  OnesTrainer trainer;
  ClientLoop loop(
      *transport_, trainer, *state, clock_,
      {.name = "alice",
       .coordinator = server_->address(),
       .build_spec = [](const std::string&, const auto&) -> Result<ModelSpec> { return Spec(); }});
  const ClientOutcome outcome = loop.Run();
  EXPECT_EQ(outcome.end, ClientEnd::kRunOver) << outcome.detail;
  const RunSummary summary = core_->Wait();
  EXPECT_EQ(summary.status, "completed");
  EXPECT_EQ(summary.rounds, 2);
  EXPECT_GT(summary.bytes_up, 2U * 4 * kTrunkElements);
}

TEST_F(LoopbackTest, ShardsArriveWholeAndInOrder) {
  const SessionId session = Session();
  const TaskAssignment task = FirstTask(session);
  std::map<int, std::vector<std::byte>> shards;
  const Status status = transport_->FetchShards(
      session, task.shards,
      [&](const ShardReference& shard, std::uint64_t offset, std::span<const std::byte> bytes) {
        std::vector<std::byte>& all = shards[shard.shard];
        EXPECT_EQ(offset, all.size());
        all.insert(all.end(), bytes.begin(), bytes.end());
        return Status::Ok();
      },
      false, 0);
  ASSERT_TRUE(status.ok()) << status.ToString();
  EXPECT_EQ(shards.size(), task.shards.size());
  for (const ShardReference& shard : task.shards) {
    EXPECT_EQ(Sha256Of(shards[shard.shard]), shard.digest);
  }
}

TEST_F(LoopbackTest, ShortShardsThatTheClientLacksComeWithTheTask) {
  const std::vector<ShardReference> shards = FirstTask(Session()).shards;
  ASSERT_EQ(shards.size(), 3U);
  // Asks again, in a session of its own, as who has the first so many of them.
  const auto carried = [&](std::uint64_t carry_bytes, std::size_t held) {
    PollRequest request(Session());
    request.carry_bytes = carry_bytes;
    for (std::size_t i = 0; i < held; ++i) request.held.push_back(DigestPrefix(shards[i].digest));
    auto reply = transport_->NextTask(request);
    EXPECT_TRUE(reply.ok()) << reply.status().ToString();
    EXPECT_EQ(reply->task.shards, shards);
    return std::move(reply->carried);
  };
  const std::vector<CarriedShard> experts = carried(kMaxCarryBytes, 1);
  ASSERT_EQ(experts.size(), 2U);
  for (int i = 0; i < 2; ++i) {
    const CarriedShard& shard = experts[static_cast<std::size_t>(i)];
    EXPECT_EQ(shard.index, i + 1);
    EXPECT_EQ(Sha256Of(AsBytes(std::string_view(shard.bytes))),
              shards[static_cast<std::size_t>(i) + 1].digest);
  }
  EXPECT_EQ(carried(24, 1).size(), 2U);
  EXPECT_EQ(carried(12, 2).size(), 1U);
  // All that it lacks, or nothing.
  EXPECT_TRUE(carried(23, 1).empty());
  EXPECT_TRUE(carried(~std::uint64_t{0}, 0).empty()) << "the trunk is too long";
  EXPECT_TRUE(carried(0, 1).empty());
  EXPECT_TRUE(carried(kMaxCarryBytes, 3).empty());
}

TEST_F(LoopbackTest, ASinkMayStopTheTransfer) {
  const SessionId session = Session();
  const TaskAssignment task = FirstTask(session);
  EXPECT_EQ(transport_->FetchShards(
                session, task.shards,
                [](const ShardReference&, std::uint64_t, std::span<const std::byte>) {
                  return Internal("enough");
                },
                false, 0),
            Internal("enough"));
}

// Of a damaged shard as of a cut one DATA_LOSS is the word, but only a cut is for the transport to
// mend.
TEST_F(LoopbackTest, WhatASinkRefusesIsNotResumed) {
  const SessionId session = Session();
  const TaskAssignment task = FirstTask(session);
  int pieces = 0;
  EXPECT_EQ(transport_->FetchShards(
                session, task.shards,
                [&](const ShardReference&, std::uint64_t, std::span<const std::byte>) {
                  return ++pieces < 2 ? Status::Ok() : DataLoss("damaged");
                },
                false, 0),
            DataLoss("damaged"));
  EXPECT_EQ(pieces, 2);
}

TEST_F(LoopbackTest, AShardThatNoVersionHasIsNotFound) {
  const SessionId session = Session();
  const Status status = transport_->FetchShards(
      session, {{0, std::string(64, 'a'), 16}},
      [](const ShardReference&, std::uint64_t, std::span<const std::byte>) { return Status::Ok(); },
      false, 0);
  EXPECT_EQ(status.code(), StatusCode::kNotFound) << status.ToString();
}

TEST_F(LoopbackTest, AnUpdateIsJudgedOnce) {
  const SessionId session = Session();
  const TaskAssignment task = FirstTask(session);
  const OutgoingUpdate update(task);
  UpdateHeader header = update.header;
  const auto encode = [&](const auto& sink) { return update.Encode(sink); };
  const auto verdict = transport_->SubmitUpdate(session, header, encode);
  ASSERT_TRUE(verdict.ok()) << verdict.status().ToString();
  EXPECT_TRUE(verdict->accepted()) << verdict->detail;

  header.task = 999;
  const auto unknown = transport_->SubmitUpdate(session, header, encode);
  ASSERT_TRUE(unknown.ok()) << unknown.status().ToString();
  EXPECT_EQ(unknown->reason, RejectReason::kUnknownTask) << unknown->detail;
}

// Neither an update nor a shard that was under way gets through.
TEST_F(LoopbackTest, ARevocationReachesTransfersThatAreUnderWay) {
  const Status denied = {StatusCode::kPermissionDenied, "client 'alice' has been revoked"};
  const SessionId session = Session();
  const TaskAssignment task = FirstTask(session);
  const UpdateHeader header{.task = task.task,
                            .client = "alice",
                            .round = task.round,
                            .total_bytes = std::uint64_t{1} << 10,
                            .feedback = ResultOf(task).feedback};
  const auto admin = [&](const std::string& command) {
    return CallAdmin(
        {.address = server_->address(), .tls = {}, .command = command, .client = "alice"});
  };
  const auto verdict = transport_->SubmitUpdate(
      session, header, [&](const std::function<Status(std::span<const std::byte>)>& sink) {
        // The header is there by then, or will be refused itself.
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        EXPECT_TRUE(admin("revoke").ok());
        return sink(std::vector<std::byte>(1 << 10));
      });
  EXPECT_EQ(verdict.status(), denied);
  EXPECT_EQ(transport_->NextTask(session).status(), denied);
  EXPECT_EQ(Register().status(), denied);
  EXPECT_TRUE(admin("restore").ok());
  // The session went with the revocation.
  EXPECT_EQ(transport_->NextTask(session).status().code(), StatusCode::kAborted);
  EXPECT_TRUE(Register().ok());
}

TEST_F(LoopbackTest, AnUpdateOverItsSizeIsRejectedBeforeItIsRead) {
  const SessionId session = Session();
  const TaskAssignment task = FirstTask(session);
  const UpdateHeader header{.task = task.task,
                            .client = "alice",
                            .round = task.round,
                            .total_bytes = std::uint64_t{1} << 40,
                            .feedback = ResultOf(task).feedback};
  const auto verdict = transport_->SubmitUpdate(
      session, header, [](const std::function<Status(std::span<const std::byte>)>& sink) {
        const std::vector<std::byte> piece(1 << 20);
        while (true) FEDMOE_RETURN_IF_ERROR(sink(piece));
        return Status::Ok();
      });
  ASSERT_TRUE(verdict.ok()) << verdict.status().ToString();
  EXPECT_EQ(verdict->reason, RejectReason::kOverSize) << verdict->detail;
}

// Sends a header for `total_bytes` and then `chunks`; how the stream ended.
grpc::Status SendRaw(v1::Coordinator::Stub& stub, const v1::UpdateHeader& header,
                     const std::vector<v1::UpdateChunk>& chunks, v1::SubmitUpdateReply& reply) {
  grpc::ClientContext context;
  const auto writer = stub.SubmitUpdate(&context, &reply);
  v1::UpdateChunk first;
  *first.mutable_header() = header;
  bool open = writer->Write(first);
  for (const v1::UpdateChunk& chunk : chunks) open = open && writer->Write(chunk);
  writer->WritesDone();
  return writer->Finish();
}

TEST_F(LoopbackTest, BrokenStreamsAreRefusedAndTheTaskStaysOpen) {
  const SessionId session = Session();
  const TaskAssignment task = FirstTask(session);
  const auto stub = Stub();
  const v1::UpdateHeader header =
      ToProto(session, UpdateHeader{.task = task.task,
                                    .client = "alice",
                                    .round = 1,
                                    .total_bytes = 8,
                                    .feedback = ResultOf(task).feedback});
  v1::UpdateChunk chunk;
  chunk.mutable_data()->set_data("12345678");
  chunk.mutable_data()->set_crc32c(1);
  v1::SubmitUpdateReply reply;
  grpc::Status status = SendRaw(*stub, header, {chunk}, reply);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_THAT(status.error_message(), StartsWith("update chunk at byte 0 is damaged"));

  chunk.mutable_data()->set_crc32c(Crc32c(AsBytes(std::string_view("12345678"))));
  EXPECT_EQ(SendRaw(*stub, header, {}, reply).error_message(),
            "the update ended after 0 of its 8 bytes");
  v1::UpdateChunk second;
  *second.mutable_header() = header;
  EXPECT_EQ(SendRaw(*stub, header, {second}, reply).error_message(),
            "only the first message may be a header");

  const auto beat = transport_->Beat(session, task.task, 0.5);
  ASSERT_TRUE(beat.ok());
  EXPECT_FALSE(beat->cancel);
}

// A client that begins an upload and then says nothing, while others wait, is cut; they go on.
TEST_F(LoopbackTest, AStalledUploadKeepsItsPlaceOnlyForAWhile) {
  transport_.reset();
  server_ = GrpcServer::Start(*core_, *gate_, "127.0.0.1:0",
                              {.lanes = {.bytes = {1 << 17, 1 << 17}, .patience_ms = {200, 200}}})
                .value();
  transport_ = MakeGrpcTransport(server_->address()).value();
  const SessionId session = Session();
  const TaskAssignment task = FirstTask(session);
  const OutgoingUpdate update(task);
  // Its first chunk's place is all of the lane.
  const auto stub = Stub();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
  v1::SubmitUpdateReply reply;
  const auto writer = stub->SubmitUpdate(&context, &reply);
  v1::UpdateChunk first;
  *first.mutable_header() = ToProto(session, update.header);
  ASSERT_TRUE(writer->Write(first));
  std::this_thread::sleep_for(std::chrono::milliseconds(300));  // it has its place before others
  const auto verdict = transport_->SubmitUpdate(
      session, update.header, [&](const auto& sink) { return update.Encode(sink); });
  ASSERT_TRUE(verdict.ok()) << verdict.status().ToString();
  EXPECT_TRUE(verdict->accepted()) << verdict->detail;
  EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

// The update of a task as it travels, cut into chunks from `offset` on.
std::vector<v1::UpdateChunk> ChunksOf(const std::string& update, std::size_t offset,
                                      std::size_t end) {
  std::vector<v1::UpdateChunk> chunks;
  for (; offset < end; offset += kWireChunkBytes) {
    const std::string data = update.substr(offset, std::min(kWireChunkBytes, end - offset));
    v1::UpdateChunk& chunk = chunks.emplace_back();
    chunk.mutable_data()->set_data(data);
    chunk.mutable_data()->set_crc32c(Crc32c(AsBytes(std::string_view(data))));
  }
  return chunks;
}

TEST_F(LoopbackTest, AnUploadThatWasCutGoesOnAtTheLastGoodChunk) {
  const SessionId session = Session();
  const TaskAssignment task = FirstTask(session);
  const OutgoingUpdate outgoing(task);
  const UpdateHeader& header = outgoing.header;
  std::string update;
  const Status encoded = outgoing.Encode([&](std::span<const std::byte> bytes) {
    update.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return Status::Ok();
  });
  ASSERT_TRUE(encoded.ok());
  const auto stub = Stub();
  const auto received = [&](std::uint64_t total_bytes) {
    grpc::ClientContext context;
    v1::ResumeUpdateReply reply;
    const auto status =
        stub->ResumeUpdate(&context, ResumeToProto(session, task.task, total_bytes), &reply);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return reply.received_bytes();
  };
  EXPECT_EQ(received(update.size()), 0U);

  // One chunk, then the end; and one more, damaged.
  v1::SubmitUpdateReply reply;
  EXPECT_EQ(SendRaw(*stub, ToProto(session, header), ChunksOf(update, 0, kWireChunkBytes), reply)
                .error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(received(update.size()), kWireChunkBytes);
  EXPECT_EQ(received(update.size() + 1), 0U);  // of another update nothing is here
  auto damaged = ChunksOf(update, kWireChunkBytes, kWireChunkBytes + 100);
  damaged[0].mutable_data()->set_crc32c(1);
  EXPECT_EQ(SendRaw(*stub, ToProto(session, header, kWireChunkBytes), damaged, reply).error_code(),
            grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(received(update.size()), kWireChunkBytes);

  const grpc::Status elsewhere =
      SendRaw(*stub, ToProto(session, header, 77), ChunksOf(update, 77, update.size()), reply);
  EXPECT_EQ(elsewhere.error_message(),
            "of the update of task " + std::to_string(task.task) +
                " 1048576 bytes are here, so it cannot go on at byte 77");
  const grpc::Status whole = SendRaw(*stub, ToProto(session, header, kWireChunkBytes),
                                     ChunksOf(update, kWireChunkBytes, update.size()), reply);
  ASSERT_TRUE(whole.ok()) << whole.error_message();
  EXPECT_TRUE(reply.accepted()) << reply.detail();
  EXPECT_EQ(received(update.size()), 0U);
}

TEST_F(LoopbackTest, ARequestMayHaveSoManyBytes) {
  const SessionId session = Session();
  const TaskAssignment task = FirstTask(session);
  const OutgoingUpdate outgoing(task);
  v1::SubmitUpdateReply reply;
  for (const auto& [bytes, code] : std::map<std::size_t, grpc::StatusCode>{
           {kWireChunkBytes + 1, grpc::StatusCode::INVALID_ARGUMENT},
           {kMaxRequestBytes, grpc::StatusCode::RESOURCE_EXHAUSTED}}) {
    v1::UpdateChunk chunk;
    chunk.mutable_data()->set_data(std::string(bytes, 'x'));
    EXPECT_EQ(SendRaw(*Stub(), ToProto(session, outgoing.header), {chunk}, reply).error_code(),
              code)
        << bytes;
  }
}

TEST_F(LoopbackTest, AnUpdateThatIsSentAgainGoesOnInAnotherSession) {
  const SessionId session = Session();
  const TaskAssignment task = FirstTask(session);
  const OutgoingUpdate outgoing(task);
  std::string update;
  ASSERT_TRUE(outgoing
                  .Encode([&](std::span<const std::byte> bytes) {
                    update.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
                    return Status::Ok();
                  })
                  .ok());
  v1::SubmitUpdateReply reply;
  EXPECT_EQ(SendRaw(*Stub(), ToProto(session, outgoing.header),
                    ChunksOf(update, 0, kWireChunkBytes), reply)
                .error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  const SessionId next = Session();
  // What is there already is not sent: here it would not pass.
  std::string broken = update;
  broken[kWireChunkBytes - 1] ^= 1;
  const auto verdict = transport_->SubmitUpdate(
      next, outgoing.header,
      [&](const auto& sink) { return sink(AsBytes(std::string_view(broken))); }, /*again=*/true);
  ASSERT_TRUE(verdict.ok()) << verdict.status().ToString();
  EXPECT_TRUE(verdict->accepted()) << verdict->detail;
}

TEST_F(LoopbackTest, DownloadsUnderWayAreFewAndOfOnesOwnSession) {
  const SessionId session = Session();
  const TaskAssignment task = FirstTask(session);
  const auto sink = [](const ShardReference&, std::uint64_t, std::span<const std::byte>) {
    return Status::Ok();
  };
  EXPECT_EQ(transport_->FetchShards({"alice", session.session + 1}, task.shards, sink, false, 0),
            Aborted("session of client 'alice' is not current; register again"));
  // Far more than buffers hold, and nobody reads them.
  const std::vector<ShardReference> many(100, task.shards[0]);
  const auto stub = Stub();
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::ShardChunk>>> readers;
  for (std::size_t i = 0; i < CoordinatorCore::kMaxFetchesPerClient; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(stub->FetchShards(contexts.back().get(), FetchToProto(session, many)));
    readers.back()->WaitForInitialMetadata();
  }
  EXPECT_EQ(transport_->FetchShards(session, task.shards, sink, false, 0),
            ResourceExhausted("client 'alice' has 4 downloads under way already; ask again when "
                              "one has ended"));
  for (const auto& context : contexts) context->TryCancel();
  for (const auto& reader : readers) static_cast<void>(reader->Finish());
  Status status;
  do {
    status = transport_->FetchShards(session, task.shards, sink, false, 0);
  } while (status.code() == StatusCode::kResourceExhausted);
  EXPECT_TRUE(status.ok()) << status.ToString();
}

TEST_F(LoopbackTest, AFetchGoesOnWithinAShard) {
  const SessionId session = Session();
  const TaskAssignment task = FirstTask(session);
  grpc::ClientContext context;
  const auto reader = Stub()->FetchShards(&context, FetchToProto(session, task.shards, 1'000'000));
  v1::ShardChunk chunk;
  ASSERT_TRUE(reader->Read(&chunk));
  EXPECT_EQ(chunk.index(), 0);
  EXPECT_EQ(chunk.offset(), 1'000'000U);
  std::uint64_t bytes = 0;
  int together = 0;
  do {
    bytes += chunk.data().size();
    int index = chunk.index();
    for (const v1::ShardChunk& next : chunk.more()) {
      EXPECT_EQ(next.index(), ++index);
      EXPECT_EQ(next.offset(), 0U);
      EXPECT_EQ(next.crc32c(), Crc32c(AsBytes(std::string_view(next.data()))));
      EXPECT_EQ(next.data().size(),
                static_cast<std::uint64_t>(task.shards.at(static_cast<std::size_t>(index)).bytes));
      bytes += next.data().size();
      ++together;
    }
  } while (reader->Read(&chunk));
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_GT(together, 0) << "short shards travel with what is before them";
  std::uint64_t all = 0;
  for (const ShardReference& shard : task.shards) all += static_cast<std::uint64_t>(shard.bytes);
  EXPECT_EQ(bytes, all - 1'000'000U);
}

TEST_F(LoopbackTest, MoreBytesThanAnnouncedAreAMalformedUpdate) {
  const SessionId session = Session();
  const TaskAssignment task = FirstTask(session);
  const v1::UpdateHeader header =
      ToProto(session, UpdateHeader{.task = task.task,
                                    .client = "alice",
                                    .round = 1,
                                    .total_bytes = 8,
                                    .feedback = ResultOf(task).feedback});
  v1::UpdateChunk chunk;
  chunk.mutable_data()->set_data("1234567812345678");
  chunk.mutable_data()->set_crc32c(Crc32c(AsBytes(std::string_view("1234567812345678"))));
  v1::SubmitUpdateReply reply;
  const auto stub = Stub();
  const grpc::Status status = SendRaw(*stub, header, {chunk}, reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(reply.detail(), "the header announces 8 bytes, 16 came");
}

TEST_F(LoopbackTest, AMessageWithAFieldOutOfRangeIsRefusedByName) {
  EXPECT_EQ(transport_->Beat({"alice", 1}, 1, 2.0).status(),
            InvalidArgument("progress must be 0 to 1 (got 2)"));
  EXPECT_EQ(transport_->Leave({"a b", 1}),
            InvalidArgument("session.client must be 1 to 64 characters of [A-Za-z0-9._-]"));
}

TEST_F(LoopbackTest, AnOldSessionIsAbortedAndAnotherInstanceIsTurnedAway) {
  const SessionId old_session = Session();
  const SessionId session = Session();
  EXPECT_NE(old_session.session, session.session);
  EXPECT_EQ(transport_->Beat(old_session, 1, 0.0).status().code(), StatusCode::kAborted);
  EXPECT_EQ(transport_->NextTask(old_session).status().code(), StatusCode::kAborted);
  EXPECT_EQ(Register("another key").status().code(), StatusCode::kAlreadyExists);
}

TEST_F(LoopbackTest, AParkedPollEndsWhenTheClientStops) {
  const SessionId session = Session();
  const TaskAssignment task = FirstTask(session);
  std::thread stopper([&] { transport_->CancelWork(); });
  EXPECT_EQ(transport_->NextTask(session).status().code(), StatusCode::kCancelled);
  stopper.join();
  // What gives back still passes.
  EXPECT_TRUE(transport_->ReturnTask(session, task.task, "stopping").ok());
  EXPECT_TRUE(transport_->Leave(session).ok());
  transport_->CancelAll();
  EXPECT_EQ(transport_->Leave(session).code(), StatusCode::kCancelled);
}

TEST_F(LoopbackTest, AParkedPollEndsWhenTheServerDoes) {
  const SessionId session = Session();
  FirstTask(session);
  std::thread stopper([&] { server_->Shutdown(0); });
  const StatusCode code = transport_->NextTask(session).status().code();
  EXPECT_TRUE(code == StatusCode::kCancelled || code == StatusCode::kUnavailable);
  stopper.join();
}

TEST_F(LoopbackTest, APortThatIsTakenIsNamed) {
  EXPECT_EQ(
      GrpcServer::Start(*core_, *gate_, server_->address()).status(),
      FailedPrecondition("cannot listen on " + server_->address() + ": address already in use"));
}

TEST_F(LoopbackTest, AnAddressWithoutAPortIsRefused) {
  EXPECT_EQ(GrpcServer::Start(*core_, *gate_, "localhost").status(),
            InvalidArgument("cannot listen on localhost: it must be HOST:PORT"));
}

TEST_F(LoopbackTest, ACoordinatorThatIsNotThereIsUnavailable) {
  server_.reset();
  EXPECT_EQ(Register().status().code(), StatusCode::kUnavailable);
}

TEST_F(LoopbackTest, OperatorsSeeTheStatusAndStopTheRun) {
  const auto admin = v1::Admin::NewStub(
      grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext status_context, stop_context;
  v1::StatusReply status;
  ASSERT_TRUE(admin->Status(&status_context, {}, &status).ok());
  EXPECT_THAT(status.json(), StartsWith("{"));
  v1::Empty empty;
  ASSERT_TRUE(admin->Stop(&stop_context, {}, &empty).ok());
  EXPECT_EQ(core_->Wait().status, "stopped");
}

}  // namespace
}  // namespace fedmoe
