// What goes over the wire comes out as it went in, field by field.
#include <gtest/gtest.h>

#include "common/checksum.h"
#include "common/file_system.h"
#include "tests/wire/wire_samples.h"
#include "wire/from_proto.h"
#include "wire/limits.h"
#include "wire/status.h"
#include "wire/to_proto.h"

namespace fedmoe {
namespace {

TEST(ConversionsTest, Registration) {
  const RegisterRequest sent = SampleRegistration();
  const auto got = FromProto(ToProto(sent));
  ASSERT_TRUE(got.ok()) << got.status().ToString();
  EXPECT_EQ(got->client, sent.client);
  EXPECT_EQ(got->instance, sent.instance);
  EXPECT_EQ(got->role, sent.role);
  EXPECT_EQ(got->protocol_min, 1U);
  EXPECT_EQ(got->protocol_max, 2U);
  EXPECT_EQ(got->profile.memory_bytes, 1U);
  EXPECT_EQ(got->profile.compute_flops_per_s, 2.5);
  EXPECT_EQ(got->profile.down_bytes_per_s, 3.5);
  EXPECT_EQ(got->profile.up_bytes_per_s, 4.5);
  EXPECT_EQ(got->profile.examples, 5);
  EXPECT_EQ(got->profile.max_experts, 6);
  EXPECT_EQ(got->profile.device, "cpu");
}

TEST(ConversionsTest, Welcome) {
  const RegisterReply sent = SampleWelcome();
  const auto got = FromProto(ToProto(sent));
  ASSERT_TRUE(got.ok()) << got.status().ToString();
  EXPECT_EQ(got->run_id, sent.run_id);
  EXPECT_EQ(got->run_name, sent.run_name);
  EXPECT_EQ(got->protocol, sent.protocol);
  EXPECT_EQ(got->session, sent.session);
  EXPECT_EQ(got->preset, sent.preset);
  EXPECT_EQ(got->options, sent.options);
  EXPECT_EQ(got->spec_digest, sent.spec_digest);
  EXPECT_EQ(got->seed, sent.seed);
  EXPECT_EQ(got->heartbeat_interval_ms, sent.heartbeat_interval_ms);
  EXPECT_EQ(got->capacity.experts, 2);
  EXPECT_TRUE(got->capacity.fits_trunk);
  EXPECT_EQ(got->capacity.reason, CapacityReason::kDeadline);
  EXPECT_EQ(got->capacity.memory_bytes, 1e6);
  EXPECT_EQ(got->capacity.round_s, 2.5);
}

TEST(ConversionsTest, EveryCapacityReasonPasses) {
  for (int reason = 0; reason <= static_cast<int>(CapacityReason::kTrunkDeadline); ++reason) {
    RegisterReply sent = SampleWelcome();
    sent.capacity.reason = static_cast<CapacityReason>(reason);
    const auto got = FromProto(ToProto(sent));
    ASSERT_TRUE(got.ok()) << got.status().ToString();
    EXPECT_EQ(got->capacity.reason, sent.capacity.reason);
  }
}

TEST(ConversionsTest, Task) {
  const TaskAssignment sent = SampleTask().task;
  const auto reply = FromProto(ToProto(SampleTask()), "alice");
  ASSERT_TRUE(reply.ok()) << reply.status().ToString();
  EXPECT_EQ(reply->kind, NextTaskReply::Kind::kTask);
  EXPECT_EQ(reply->tasks, 12);
  const TaskAssignment& got = reply->task;
  EXPECT_EQ(got.task, sent.task);
  EXPECT_EQ(got.kind, sent.kind);
  EXPECT_EQ(got.client, sent.client);
  EXPECT_EQ(got.round, sent.round);
  EXPECT_EQ(got.attempt, sent.attempt);
  EXPECT_EQ(got.version, sent.version);
  EXPECT_EQ(got.experts, sent.experts);
  EXPECT_EQ(got.shards, sent.shards);
  EXPECT_EQ(got.training.optimizer, LocalOptimizer::kAdamW);
  EXPECT_EQ(got.training.learning_rate, 0.5);
  EXPECT_EQ(got.training.momentum, 0.1);
  EXPECT_EQ(got.training.adam_beta1, 0.2);
  EXPECT_EQ(got.training.adam_beta2, 0.3);
  EXPECT_EQ(got.training.adam_epsilon, 1e-6);
  EXPECT_EQ(got.training.weight_decay, 0.01);
  EXPECT_EQ(got.training.clip_norm, 2.0);
  EXPECT_EQ(got.training.fedprox_mu, 0.4);
  EXPECT_EQ(got.training.gate_learning_rate, 30.0);
  EXPECT_EQ(got.training.held_mass_lambda, 0.6);
  EXPECT_EQ(got.training.balance_lambda, 0.01);
  EXPECT_EQ(got.training.router_z_lambda, 0.002);
  EXPECT_EQ(got.training.selection_bias_rate, 0.003);
  EXPECT_EQ(got.training.gate_noise, 0.7);
  EXPECT_TRUE(got.training.random_flip);
  EXPECT_EQ(got.training.random_crop, 4);
  EXPECT_TRUE(got.training.random_shift);
  EXPECT_EQ(got.training.trunk_lambda, 0.25);
  EXPECT_EQ(got.training.batch_size, 16);
  EXPECT_EQ(got.training.epochs, 5);
  EXPECT_EQ(got.training.max_batches, 40);
  EXPECT_EQ(got.training.upload.encoding, Encoding::kTopK);
  EXPECT_EQ(got.training.upload.top_k_fraction, 0.25);
  EXPECT_TRUE(got.training.upload.zstd);
  EXPECT_EQ(got.seed, sent.seed);
  EXPECT_EQ(got.timeout_ms, sent.timeout_ms);
  EXPECT_EQ(got.last_committed_task, sent.last_committed_task);
  EXPECT_EQ(got.follows, 6U);
}

// Its client state is laid out as uploads are.
TEST(ConversionsTest, AnEvaluationTellsHowUpdatesAreSent) {
  NextTaskReply reply = SampleTask();
  reply.task.kind = TaskKind::kEvaluate;
  const auto got = FromProto(ToProto(reply), "alice");
  ASSERT_TRUE(got.ok()) << got.status().ToString();
  EXPECT_EQ(got->task.training.upload.encoding, Encoding::kTopK);
  EXPECT_EQ(got->task.training.learning_rate, TrainingOptions{}.learning_rate);
}

TEST(ConversionsTest, APollAndWhatComesWithItsTask) {
  PollRequest poll({"alice", 9});
  poll.carry_bytes = 1'000;
  poll.held = {7, ~std::uint64_t{0}};
  const auto request = FromProto(ToProto(poll));
  ASSERT_TRUE(request.ok()) << request.status().ToString();
  EXPECT_EQ(request->session.client, "alice");
  EXPECT_EQ(request->session.session, 9U);
  EXPECT_EQ(request->carry_bytes, 1'000U);
  EXPECT_EQ(request->held, poll.held);

  NextTaskReply sent = SampleTask();
  sent.carried = {{.index = 0, .bytes = std::string(16, 'a')}, {.index = 2, .bytes = "12345678"}};
  v1::NextTaskReply message = ToProto(sent);
  auto got = FromProto(message, "alice");
  ASSERT_TRUE(got.ok()) << got.status().ToString();
  ASSERT_EQ(got->carried.size(), 2U);
  EXPECT_EQ(got->carried[0].index, 0);
  EXPECT_EQ(got->carried[1].index, 2);
  EXPECT_EQ(got->carried[1].bytes, "12345678");
  // Damaged on its way.
  message.mutable_carried(0)->mutable_data()->at(3) = 'b';
  got = FromProto(message, "alice");
  ASSERT_TRUE(got.ok()) << got.status().ToString();
  ASSERT_EQ(got->carried.size(), 1U);
  EXPECT_EQ(got->carried[0].index, 2);
}

TEST(ConversionsTest, PollsWithoutATask) {
  const auto nothing = FromProto(ToProto(NextTaskReply{}), "alice");
  ASSERT_TRUE(nothing.ok());
  EXPECT_EQ(nothing->kind, NextTaskReply::Kind::kNothingYet);
  const auto over =
      FromProto(ToProto(NextTaskReply{NextTaskReply::Kind::kRunOver, {}, "completed"}), "alice");
  ASSERT_TRUE(over.ok());
  EXPECT_EQ(over->kind, NextTaskReply::Kind::kRunOver);
  EXPECT_EQ(over->detail, "completed");
}

TEST(ConversionsTest, UpdateHeader) {
  const UpdateHeader sent = SampleHeader();
  const auto got = FromProto(ToProto(SampleSession(), sent));
  ASSERT_TRUE(got.ok()) << got.status().ToString();
  EXPECT_EQ(got->session.session, 3U);
  EXPECT_EQ(got->header.task, sent.task);
  EXPECT_EQ(got->header.client, "alice");
  EXPECT_EQ(got->header.round, sent.round);
  EXPECT_EQ(got->header.total_bytes, sent.total_bytes);
  const TrainingFeedback& feedback = got->header.feedback;
  EXPECT_EQ(feedback.examples, 10);
  EXPECT_EQ(feedback.steps, 20);
  EXPECT_EQ(feedback.train_loss, 0.5);
  EXPECT_EQ(feedback.train_accuracy, 0.75);
  EXPECT_EQ(feedback.tokens, sent.feedback.tokens);
  EXPECT_EQ(feedback.expert_loss, sent.feedback.expert_loss);
  EXPECT_EQ(feedback.expert_accuracy, sent.feedback.expert_accuracy);
  EXPECT_EQ(feedback.affinity, sent.feedback.affinity);
  EXPECT_EQ(feedback.train_s, 1.5);
  EXPECT_EQ(feedback.down_bytes_per_s, 2.5);
  EXPECT_EQ(feedback.up_bytes_per_s, 3.5);
}

TEST(ConversionsTest, SmallMessages) {
  const auto beat = FromProto(HeartbeatToProto(SampleSession(), 7, 0.5));
  ASSERT_TRUE(beat.ok());
  EXPECT_EQ(beat->session.client, "alice");
  EXPECT_EQ(beat->task, 7U);
  EXPECT_EQ(beat->progress, 0.5);

  const auto answer = FromProto(ToProto(HeartbeatReply{true, CancelReason::kTimedOut}));
  ASSERT_TRUE(answer.ok());
  EXPECT_TRUE(answer->cancel);
  EXPECT_EQ(answer->reason, CancelReason::kTimedOut);

  const auto fetch = FromProto(FetchToProto(SampleSession(), SampleTask().task.shards));
  ASSERT_TRUE(fetch.ok());
  EXPECT_EQ(fetch->shards, SampleTask().task.shards);
  EXPECT_FALSE(fetch->damaged);
  EXPECT_TRUE(FromProto(FetchToProto(SampleSession(), SampleTask().task.shards, 3, true))->damaged);

  const auto result = FromProto(ToProto(SampleSession(), EvaluationResult{7, 3, 1.5, 4}));
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->result.task, 7U);
  EXPECT_EQ(result->result.correct, 3.0);
  EXPECT_EQ(result->result.loss, 1.5);
  EXPECT_EQ(result->result.examples, 4.0);

  const auto returned = FromProto(ReturnToProto(SampleSession(), 7, "why"));
  ASSERT_TRUE(returned.ok());
  EXPECT_EQ(returned->task, 7U);
  EXPECT_EQ(returned->why, "why");

  for (int reason = 0; reason <= static_cast<int>(RejectReason::kBadFeedback); ++reason) {
    const auto verdict = FromProto(ToProto(Verdict{static_cast<RejectReason>(reason), "detail"}));
    ASSERT_TRUE(verdict.ok());
    EXPECT_EQ(static_cast<int>(verdict->reason), reason);
    EXPECT_EQ(verdict->detail, "detail");
  }
}

TEST(ConversionsTest, StatusesKeepCodeAndText) {
  for (int code = 1; code <= 16; ++code) {
    const Status status(static_cast<StatusCode>(code), "text");
    EXPECT_EQ(FromGrpc(ToGrpc(status)), status);
  }
  EXPECT_TRUE(ToGrpc(Status::Ok()).ok());
}

TEST(ConversionsTest, Chunks) {
  const std::string data = "bytes";
  const std::uint32_t crc = Crc32c(AsBytes(data));
  EXPECT_TRUE(CheckChunk("chunk", 0, data, crc).ok());
  EXPECT_EQ(
      CheckChunk("update chunk", 1048576, data, 0x12345678).message(),
      "update chunk at byte 1048576 is damaged: its bytes have crc32c " +
          [&] {
            char text[16];
            std::snprintf(text, sizeof(text), "%08x", crc);
            return std::string(text);
          }() +
          ", not 12345678");
  EXPECT_EQ(CheckChunk("chunk", 0, data, 0).code(), StatusCode::kDataLoss);
  EXPECT_EQ(CheckChunk("chunk", 0, "", 0),
            InvalidArgument("chunk at byte 0 must have 1 to 1048576 bytes (got 0)"));
  EXPECT_EQ(CheckChunk("chunk", 0, std::string(kWireChunkBytes + 1, 'x'), 0),
            InvalidArgument("chunk at byte 0 must have 1 to 1048576 bytes (got 1048577)"));
}

}  // namespace
}  // namespace fedmoe
