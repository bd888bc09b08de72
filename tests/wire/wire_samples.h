// One message of each kind, every field with a value of its own.
#pragma once

#include <string>

#include "federation/messages.h"

namespace fedmoe {

inline Digest SampleDigest() { return std::string(kDigestLength, 'a'); }
inline SessionId SampleSession() { return {"alice", 3}; }

inline RegisterRequest SampleRegistration() {
  return {.client = "alice",
          .instance = "key",
          .role = ClientRole::kEvaluator,
          .protocol_min = 1,
          .protocol_max = 2,
          .profile = {.memory_bytes = 1,
                      .compute_flops_per_s = 2.5,
                      .down_bytes_per_s = 3.5,
                      .up_bytes_per_s = 4.5,
                      .examples = 5,
                      .max_experts = 6,
                      .device = "cpu"}};
}

inline RegisterReply SampleWelcome() {
  return {.run_id = "id",
          .run_name = "name",
          .protocol = 1,
          .session = 9,
          .preset = "moe_mlp",
          .options = {{"width", "64"}, {"experts", "8"}},
          .spec_digest = SampleDigest(),
          .seed = 11,
          .heartbeat_interval_ms = 500,
          .capacity = {.experts = 2,
                       .fits_trunk = true,
                       .reason = CapacityReason::kDeadline,
                       .memory_bytes = 1e6,
                       .round_s = 2.5}};
}

inline NextTaskReply SampleTask() {
  NextTaskReply reply;
  reply.kind = NextTaskReply::Kind::kTask;
  reply.tasks = 12;
  reply.task.task = 7;
  reply.task.kind = TaskKind::kTrain;
  reply.task.client = "alice";
  reply.task.round = 3;
  reply.task.attempt = 2;
  reply.task.version = 2;
  reply.task.experts = {1, 4};
  reply.task.shards = {{0, SampleDigest(), 16}, {2, SampleDigest(), 8}, {5, SampleDigest(), 8}};
  reply.task.shards[1].encoding = Encoding::kInt8;
  reply.task.shards[1].zstd = true;
  reply.task.training = {.optimizer = LocalOptimizer::kAdamW,
                         .learning_rate = 0.5,
                         .momentum = 0.1,
                         .adam_beta1 = 0.2,
                         .adam_beta2 = 0.3,
                         .adam_epsilon = 1e-6,
                         .weight_decay = 0.01,
                         .clip_norm = 2.0,
                         .fedprox_mu = 0.4,
                         .gate_learning_rate = 30.0,
                         .held_mass_lambda = 0.6,
                         .balance_lambda = 0.01,
                         .router_z_lambda = 0.002,
                         .selection_bias_rate = 0.003,
                         .gate_noise = 0.7,
                         .random_flip = true,
                         .random_crop = 4,
                         .random_shift = true,
                         .trunk_lambda = 0.25,
                         .batch_size = 16,
                         .epochs = 5,
                         .max_batches = 40,
                         .upload = {Encoding::kTopK, 0.25, true}};
  reply.task.seed = 13;
  reply.task.timeout_ms = 60'000;
  reply.task.last_committed_task = 4;
  reply.task.follows = 6;
  return reply;
}

inline UpdateHeader SampleHeader() {
  return {.task = 7,
          .client = "alice",
          .round = 3,
          .total_bytes = 1'000,
          .feedback = {.examples = 10,
                       .steps = 20,
                       .train_loss = 0.5,
                       .train_accuracy = 0.75,
                       .tokens = {1, 2},
                       .expert_loss = {3, 4},
                       .expert_accuracy = {0.5, 0.6},
                       .affinity = {0.25, 0.75},
                       .train_s = 1.5,
                       .down_bytes_per_s = 2.5,
                       .up_bytes_per_s = 3.5}};
}

}  // namespace fedmoe
