#include "wire/to_proto.h"

#include <string_view>
#include <utility>

#include "common/checksum.h"
#include "common/file_system.h"

namespace fedmoe {
namespace {

void Fill(const CapacityProfile& from, v1::CapacityProfile& to) {
  to.set_memory_bytes(from.memory_bytes);
  to.set_compute_flops_per_s(from.compute_flops_per_s);
  to.set_down_bytes_per_s(from.down_bytes_per_s);
  to.set_up_bytes_per_s(from.up_bytes_per_s);
  to.set_examples(from.examples);
  to.set_max_experts(from.max_experts);
  to.set_device(from.device);
}

void Fill(const ShardReference& from, v1::ShardReference& to) {
  to.set_shard(from.shard);
  to.set_digest(from.digest);
  to.set_bytes(from.bytes);
  to.set_encoding(static_cast<std::int32_t>(from.encoding));
  to.set_zstd(from.zstd);
}

void Fill(const TrainingOptions& from, v1::TrainingOptions& to) {
  to.set_optimizer(from.optimizer == LocalOptimizer::kAdamW ? v1::TrainingOptions::ADAMW
                                                            : v1::TrainingOptions::SGD);
  to.set_learning_rate(from.learning_rate);
  to.set_momentum(from.momentum);
  to.set_adam_beta1(from.adam_beta1);
  to.set_adam_beta2(from.adam_beta2);
  to.set_adam_epsilon(from.adam_epsilon);
  to.set_weight_decay(from.weight_decay);
  to.set_clip_norm(from.clip_norm);
  to.set_fedprox_mu(from.fedprox_mu);
  to.set_held_mass_lambda(from.held_mass_lambda);
  to.set_balance_lambda(from.balance_lambda);
  to.set_router_z_lambda(from.router_z_lambda);
  to.set_selection_bias_rate(from.selection_bias_rate);
  to.set_gate_noise(from.gate_noise);
  to.set_random_flip(from.random_flip);
  to.set_random_crop(from.random_crop);
  to.set_random_shift(from.random_shift);
  to.set_batch_size(from.batch_size);
  to.set_epochs(from.epochs);
  to.set_trunk_lambda(from.trunk_lambda);
  to.set_max_batches(from.max_batches);
  to.set_gate_learning_rate(from.gate_learning_rate);
  to.set_upload_encoding(static_cast<std::int32_t>(from.upload.encoding));
  to.set_upload_top_k_fraction(from.upload.top_k_fraction);
  to.set_upload_zstd(from.upload.zstd);
}

void Fill(const TaskAssignment& from, v1::Task& to) {
  to.set_task(from.task);
  to.set_kind(from.kind == TaskKind::kEvaluate ? v1::Task::EVALUATE : v1::Task::TRAIN);
  to.set_round(from.round);
  to.set_attempt(from.attempt);
  to.set_version(from.version);
  to.mutable_experts()->Assign(from.experts.begin(), from.experts.end());
  for (const ShardReference& shard : from.shards) Fill(shard, *to.add_shards());
  Fill(from.training, *to.mutable_training());
  to.set_seed(from.seed);
  to.set_timeout_ms(from.timeout_ms);
  to.set_last_committed_task(from.last_committed_task);
  to.set_follows(from.follows);
}

void Fill(const TrainingFeedback& from, v1::TrainingFeedback& to) {
  to.set_examples(from.examples);
  to.set_steps(from.steps);
  to.set_train_loss(from.train_loss);
  to.set_train_accuracy(from.train_accuracy);
  to.mutable_tokens()->Assign(from.tokens.begin(), from.tokens.end());
  to.mutable_expert_loss()->Assign(from.expert_loss.begin(), from.expert_loss.end());
  to.mutable_expert_accuracy()->Assign(from.expert_accuracy.begin(), from.expert_accuracy.end());
  to.mutable_affinity()->Assign(from.affinity.begin(), from.affinity.end());
  to.set_train_s(from.train_s);
  to.set_down_bytes_per_s(from.down_bytes_per_s);
  to.set_up_bytes_per_s(from.up_bytes_per_s);
}

}  // namespace

v1::Session ToProto(const SessionId& session) {
  v1::Session to;
  to.set_client(session.client);
  to.set_session(session.session);
  return to;
}

v1::RegisterRequest ToProto(const RegisterRequest& request) {
  v1::RegisterRequest to;
  to.set_client(request.client);
  to.set_instance(request.instance);
  to.set_role(request.role == ClientRole::kEvaluator ? v1::ROLE_EVALUATOR : v1::ROLE_TRAINER);
  to.set_protocol_min(request.protocol_min);
  to.set_protocol_max(request.protocol_max);
  Fill(request.profile, *to.mutable_profile());
  return to;
}

v1::NextTaskRequest ToProto(const PollRequest& request) {
  v1::NextTaskRequest to;
  *to.mutable_session() = ToProto(request.session);
  to.set_carry_bytes(request.carry_bytes);
  to.mutable_held()->Add(request.held.begin(), request.held.end());
  return to;
}

v1::HeartbeatRequest HeartbeatToProto(const SessionId& session, TaskId task, double progress) {
  v1::HeartbeatRequest to;
  *to.mutable_session() = ToProto(session);
  to.set_task(task);
  to.set_progress(progress);
  return to;
}

v1::FetchShardsRequest FetchToProto(const SessionId& session,
                                    const std::vector<ShardReference>& shards,
                                    std::uint64_t first_offset, bool damaged) {
  v1::FetchShardsRequest to;
  *to.mutable_session() = ToProto(session);
  for (const ShardReference& shard : shards) Fill(shard, *to.add_shards());
  to.set_first_offset(first_offset);
  to.set_damaged(damaged);
  return to;
}

v1::UpdateHeader ToProto(const SessionId& session, const UpdateHeader& header,
                         std::uint64_t offset) {
  v1::UpdateHeader to;
  *to.mutable_session() = ToProto(session);
  to.set_task(header.task);
  to.set_round(header.round);
  to.set_total_bytes(header.total_bytes);
  to.set_offset(offset);
  Fill(header.feedback, *to.mutable_feedback());
  return to;
}

v1::ResumeUpdateRequest ResumeToProto(const SessionId& session, TaskId task,
                                      std::uint64_t total_bytes) {
  v1::ResumeUpdateRequest to;
  *to.mutable_session() = ToProto(session);
  to.set_task(task);
  to.set_total_bytes(total_bytes);
  return to;
}

v1::EvaluationResult ToProto(const SessionId& session, const EvaluationResult& result) {
  v1::EvaluationResult to;
  *to.mutable_session() = ToProto(session);
  to.set_task(result.task);
  to.set_correct(result.correct);
  to.set_loss(result.loss);
  to.set_examples(result.examples);
  return to;
}

v1::ReturnTaskRequest ReturnToProto(const SessionId& session, TaskId task, const std::string& why) {
  v1::ReturnTaskRequest to;
  *to.mutable_session() = ToProto(session);
  to.set_task(task);
  to.set_why(why);
  return to;
}

v1::RegisterReply ToProto(const RegisterReply& reply) {
  v1::RegisterReply to;
  to.set_run_id(reply.run_id);
  to.set_run_name(reply.run_name);
  to.set_protocol(reply.protocol);
  to.set_session(reply.session);
  to.set_preset(reply.preset);
  to.mutable_options()->insert(reply.options.begin(), reply.options.end());
  to.set_spec_digest(reply.spec_digest);
  to.set_seed(reply.seed);
  to.set_heartbeat_interval_ms(reply.heartbeat_interval_ms);
  v1::CapacityDecision& capacity = *to.mutable_capacity();
  capacity.set_experts(reply.capacity.experts);
  capacity.set_reason(CapacityReasonName(reply.capacity.reason));
  capacity.set_memory_bytes(reply.capacity.memory_bytes);
  capacity.set_round_s(reply.capacity.round_s);
  capacity.set_fits_trunk(reply.capacity.fits_trunk);
  return to;
}

v1::NextTaskReply ToProto(const NextTaskReply& reply) {
  v1::NextTaskReply to;
  switch (reply.kind) {
    case NextTaskReply::Kind::kNothingYet:
      to.set_kind(v1::NextTaskReply::NOTHING_YET);
      break;
    case NextTaskReply::Kind::kRunOver:
      to.set_kind(v1::NextTaskReply::RUN_OVER);
      break;
    case NextTaskReply::Kind::kTask:
      to.set_kind(v1::NextTaskReply::TASK);
      Fill(reply.task, *to.mutable_task());
      break;
  }
  to.set_detail(reply.detail);
  to.set_tasks(reply.tasks);
  for (const CarriedShard& shard : reply.carried)
    Carry(to, shard.index, shard.bytes, Crc32c(AsBytes(std::string_view(shard.bytes))));
  return to;
}

void Carry(v1::NextTaskReply& reply, int index, std::string bytes, std::uint32_t crc32c) {
  v1::ShardChunk& chunk = *reply.add_carried();
  chunk.set_index(index);
  chunk.set_crc32c(crc32c);
  chunk.set_data(std::move(bytes));
}

v1::HeartbeatReply ToProto(const HeartbeatReply& reply) {
  v1::HeartbeatReply to;
  to.set_cancel(reply.cancel);
  to.set_reason(static_cast<int>(reply.reason));
  return to;
}

v1::SubmitUpdateReply ToProto(const Verdict& verdict) {
  v1::SubmitUpdateReply to;
  to.set_accepted(verdict.accepted());
  to.set_reason(static_cast<int>(verdict.reason));
  to.set_detail(verdict.detail);
  return to;
}

}  // namespace fedmoe
