// A coordinator over loopback with one model of three chunks, and a client that trains ones.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "client/client_loop.h"
#include "client/grpc_transport.h"
#include "common/version.h"
#include "coordinator/grpc_server.h"
#include "fedmoe/v1/coordinator.grpc.pb.h"
#include "storage/update_format.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {

inline constexpr std::int64_t kTrunkElements = 600'000;  // three chunks

inline ModelSpec Spec() {
  ModelSpec spec;
  spec.preset = "loopback";
  spec.experts = 2;
  spec.top_k = 1;
  spec.trunk_flops = 1.0;
  spec.expert_flops = 1.0;
  spec.blocks.push_back({.name = "trunk",
                         .shape = {kTrunkElements},
                         .initializer = Initializer::kUniform,
                         .scale = 1.0,
                         .init_key = "trunk"});
  for (int e = 0; e < 2; ++e) {
    spec.blocks.push_back({.name = "experts." + std::to_string(e),
                           .shape = {3},
                           .owner = BlockOwner::kExpert,
                           .expert = e,
                           .merge = MergeRule::kByTokens,
                           .initializer = Initializer::kUniform,
                           .scale = 1.0,
                           .init_key = "experts." + std::to_string(e)});
  }
  return spec;
}

// A delta of ones for all that the task holds.
inline TrainResult ResultOf(const TaskAssignment& task) {
  TrainResult result;
  result.feedback = {.examples = 8,
                     .steps = 1,
                     .train_loss = 1.0,
                     .tokens = {0, 0},
                     .expert_loss = {0, 0},
                     .expert_accuracy = {0, 0},
                     .affinity = {0.5, 0.5}};
  for (const ExpertIndex expert : task.experts) {
    result.feedback.tokens[static_cast<std::size_t>(expert)] = 8;
  }
  for (const ShardReference& shard : task.shards) {
    const auto elements = static_cast<std::size_t>(Spec().ShardElements(shard.shard));
    result.blocks.push_back({shard.shard, std::vector<float>(elements, 1.0F)});
  }
  return result;
}

// The whole of it, as "alice" sends it.
struct OutgoingUpdate {
  explicit OutgoingUpdate(const TaskAssignment& task) : task(task.task), result(ResultOf(task)) {
    for (const BlockDelta& block : result.blocks) blocks.push_back({block.parameter, block.delta});
    header = {.task = task.task,
              .client = "alice",
              .round = task.round,
              .total_bytes = EncodedUpdateBytes(blocks),
              .feedback = result.feedback};
  }
  OutgoingUpdate(const OutgoingUpdate&) = delete;
  OutgoingUpdate& operator=(const OutgoingUpdate&) = delete;
  Status Encode(const std::function<Status(std::span<const std::byte>)>& sink) const {
    return EncodeUpdate(task, blocks, sink);
  }

  const TaskId task;
  const TrainResult result;
  std::vector<OutgoingBlock> blocks;  // of the result
  UpdateHeader header;
};

class OnesTrainer final : public Trainer {
 public:
  Status Prepare(const ModelSpec&, std::uint64_t) override { return Status::Ok(); }
  Result<TrainResult> Train(const TaskAssignment& task, const ShardValues&,
                            std::span<const std::byte>, const TrainContext&) override {
    return ResultOf(task);
  }
  Result<EvaluationResult> Evaluate(const TaskAssignment&, const ShardValues&,
                                    std::span<const std::byte>, const TrainContext&) override {
    return EvaluationResult{.task = 0, .correct = 1, .loss = 1, .examples = 2};
  }
  std::int64_t examples() const override { return 8; }
};

class LoopbackTest : public ::testing::Test {
 protected:
  explicit LoopbackTest(const DownloadOptions& download = {}) {
    CoreOptions options;
    options.run.training.download = download;
    options.run.spec = Spec();
    options.run.rounds = 2;
    options.run.evaluation.mode = EvaluationMode::kNone;
    run_directory_ = RunDirectory::Open(PosixFileSystem(), directory_.File("run")).value();
    core_ = CoordinatorCore::Start(options, PosixFileSystem(), *run_directory_, clock_, nullptr)
                .value();
    gate_ = Gatekeeper::Open(PosixFileSystem(), run_directory_->path(), {}).value();
    server_ = GrpcServer::Start(*core_, *gate_, "127.0.0.1:0").value();
    transport_ = MakeGrpcTransport(server_->address()).value();
  }

  Result<RegisterReply> Register(const std::string& instance = "key") {
    return transport_->Register({.client = "alice",
                                 .instance = instance,
                                 .protocol_min = kProtocolMin,
                                 .protocol_max = kProtocolMax,
                                 .profile = {.examples = 8}});
  }
  SessionId Session() {
    const auto reply = Register();
    EXPECT_TRUE(reply.ok()) << reply.status().ToString();
    return {"alice", reply->session};
  }
  TaskAssignment FirstTask(const SessionId& session) {
    const auto reply = transport_->NextTask(session);
    EXPECT_TRUE(reply.ok()) << reply.status().ToString();
    EXPECT_EQ(reply->kind, NextTaskReply::Kind::kTask);
    return reply->task;
  }
  std::unique_ptr<v1::Coordinator::Stub> Stub() {
    return v1::Coordinator::NewStub(
        grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials()));
  }

  TempDir directory_;
  SteadyClock clock_;
  std::unique_ptr<RunDirectory> run_directory_;
  std::unique_ptr<Gatekeeper> gate_;
  std::unique_ptr<CoordinatorCore> core_;
  std::unique_ptr<GrpcServer> server_;
  std::unique_ptr<Transport> transport_;
};

}  // namespace fedmoe
