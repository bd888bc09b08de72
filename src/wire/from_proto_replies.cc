#include <array>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include "wire/field_checks.h"
#include "wire/from_proto.h"
#include "wire/limits.h"

namespace fedmoe {
namespace {

constexpr std::array kCapacityReasons = {
    CapacityReason::kAllExperts, CapacityReason::kDeclared,    CapacityReason::kMemory,
    CapacityReason::kDeadline,   CapacityReason::kTrunkMemory, CapacityReason::kTrunkDeadline};

Result<CapacityReason> CapacityReasonFrom(const std::string& name) {
  for (const CapacityReason reason : kCapacityReasons) {
    if (name == CapacityReasonName(reason)) return reason;
  }
  return InvalidArgument("capacity.reason is not known to this build");
}

Result<CapacityDecision> CapacityFrom(const v1::CapacityDecision& from) {
  FEDMOE_RETURN_IF_ERROR(CheckRange("capacity.experts", from.experts(), 0, kMaxExperts));
  FEDMOE_ASSIGN_OR_RETURN(const CapacityReason reason, CapacityReasonFrom(from.reason()));
  FEDMOE_RETURN_IF_ERROR(CheckNumber("capacity.memory_bytes", from.memory_bytes()));
  FEDMOE_RETURN_IF_ERROR(CheckNumber("capacity.round_s", from.round_s()));
  return CapacityDecision{.experts = from.experts(),
                          .fits_trunk = from.fits_trunk(),
                          .reason = reason,
                          .memory_bytes = from.memory_bytes(),
                          .round_s = from.round_s()};
}

Status CheckTraining(const v1::TrainingOptions& from) {
  const std::pair<const char*, double> numbers[] = {
      {"training.learning_rate", from.learning_rate()},
      {"training.adam_epsilon", from.adam_epsilon()},
      {"training.weight_decay", from.weight_decay()},
      {"training.clip_norm", from.clip_norm()},
      {"training.fedprox_mu", from.fedprox_mu()},
      {"training.held_mass_lambda", from.held_mass_lambda()},
      {"training.gate_learning_rate", from.gate_learning_rate()},
  };
  for (const auto& [field, value] : numbers) FEDMOE_RETURN_IF_ERROR(CheckNumber(field, value));
  const std::pair<const char*, double> router_numbers[] = {
      {"training.balance_lambda", from.balance_lambda()},
      {"training.router_z_lambda", from.router_z_lambda()},
      {"training.gate_noise", from.gate_noise()},
      {"training.trunk_lambda", from.trunk_lambda()},
  };
  for (const auto& [field, value] : router_numbers) {
    FEDMOE_RETURN_IF_ERROR(CheckNumberUpTo(field, value, kMaxRouterNumber));
  }
  FEDMOE_RETURN_IF_ERROR(CheckShare("training.selection_bias_rate", from.selection_bias_rate()));
  FEDMOE_RETURN_IF_ERROR(CheckRange("training.random_crop", from.random_crop(), 0, kMaxRandomCrop));
  FEDMOE_RETURN_IF_ERROR(CheckShare("training.momentum", from.momentum()));
  FEDMOE_RETURN_IF_ERROR(CheckShare("training.adam_beta1", from.adam_beta1()));
  FEDMOE_RETURN_IF_ERROR(CheckShare("training.adam_beta2", from.adam_beta2()));
  FEDMOE_RETURN_IF_ERROR(CheckRange("training.batch_size", from.batch_size(), 1, kMaxBatchSize));
  FEDMOE_RETURN_IF_ERROR(CheckRange("training.epochs", from.epochs(), 1, kMaxEpochs));
  FEDMOE_RETURN_IF_ERROR(CheckRange("training.max_batches", from.max_batches(), 0, kMaxBatches));
  return CheckRange("training.optimizer", from.optimizer(), 0, 1);
}

Result<UploadOptions> UploadFrom(const v1::TrainingOptions& from) {
  FEDMOE_RETURN_IF_ERROR(
      CheckRange("training.upload_encoding", from.upload_encoding(), 0, kEncodings - 1));
  FEDMOE_RETURN_IF_ERROR(
      CheckShare("training.upload_top_k_fraction", from.upload_top_k_fraction()));
  return UploadOptions{.encoding = static_cast<Encoding>(from.upload_encoding()),
                       .top_k_fraction = from.upload_top_k_fraction(),
                       .zstd = from.upload_zstd()};
}

Result<TrainingOptions> TrainingFrom(const v1::TrainingOptions& from) {
  FEDMOE_RETURN_IF_ERROR(CheckTraining(from));
  TrainingOptions to;
  to.optimizer = from.optimizer() == v1::TrainingOptions::ADAMW ? LocalOptimizer::kAdamW
                                                                : LocalOptimizer::kSgd;
  to.learning_rate = from.learning_rate();
  to.momentum = from.momentum();
  to.adam_beta1 = from.adam_beta1();
  to.adam_beta2 = from.adam_beta2();
  to.adam_epsilon = from.adam_epsilon();
  to.weight_decay = from.weight_decay();
  to.clip_norm = from.clip_norm();
  to.fedprox_mu = from.fedprox_mu();
  to.held_mass_lambda = from.held_mass_lambda();
  to.balance_lambda = from.balance_lambda();
  to.router_z_lambda = from.router_z_lambda();
  to.selection_bias_rate = from.selection_bias_rate();
  to.gate_noise = from.gate_noise();
  to.random_flip = from.random_flip();
  to.random_crop = from.random_crop();
  to.random_shift = from.random_shift();
  to.batch_size = from.batch_size();
  to.epochs = from.epochs();
  to.trunk_lambda = from.trunk_lambda();
  to.max_batches = from.max_batches();
  to.gate_learning_rate = from.gate_learning_rate();
  FEDMOE_ASSIGN_OR_RETURN(to.upload, UploadFrom(from));
  return to;
}

Status CheckTask(const v1::Task& task) {
  FEDMOE_RETURN_IF_ERROR(CheckId("task.task", task.task()));
  FEDMOE_RETURN_IF_ERROR(CheckRange("task.kind", task.kind(), 0, 1));
  FEDMOE_RETURN_IF_ERROR(CheckAtLeast("task.round", task.round(), 0));
  FEDMOE_RETURN_IF_ERROR(CheckAtLeast("task.attempt", task.attempt(), 1));
  FEDMOE_RETURN_IF_ERROR(CheckAtLeast("task.version", task.version(), 0));
  FEDMOE_RETURN_IF_ERROR(CheckRange("task.timeout_ms", task.timeout_ms(), 0, kMaxDurationMs));
  FEDMOE_RETURN_IF_ERROR(
      CheckCount("task.experts", static_cast<std::size_t>(task.experts_size()), kMaxExperts));
  return CheckCount("task.shards", static_cast<std::size_t>(task.shards_size()), kMaxExperts + 1);
}

Result<TaskAssignment> TaskFrom(const v1::Task& from, const ClientId& client) {
  FEDMOE_RETURN_IF_ERROR(CheckTask(from));
  TaskAssignment to;
  to.task = from.task();
  to.kind = from.kind() == v1::Task::EVALUATE ? TaskKind::kEvaluate : TaskKind::kTrain;
  to.client = client;
  to.round = from.round();
  to.attempt = from.attempt();
  to.version = from.version();
  for (const int expert : from.experts()) {
    FEDMOE_RETURN_IF_ERROR(CheckRange("task.experts", expert, 0, kMaxExperts - 1));
    to.experts.push_back(expert);
  }
  for (const v1::ShardReference& shard : from.shards()) {
    FEDMOE_ASSIGN_OR_RETURN(ShardReference reference, FromProto(shard));
    to.shards.push_back(std::move(reference));
  }
  // An evaluation trains nothing, but reads the client state that uploads have left.
  if (to.kind == TaskKind::kTrain) {
    FEDMOE_ASSIGN_OR_RETURN(to.training, TrainingFrom(from.training()));
  } else {
    FEDMOE_ASSIGN_OR_RETURN(to.training.upload, UploadFrom(from.training()));
  }
  to.seed = from.seed();
  to.timeout_ms = from.timeout_ms();
  to.last_committed_task = from.last_committed_task();
  to.follows = from.follows();
  return to;
}

Result<std::vector<CarriedShard>> CarriedFrom(const v1::NextTaskReply& reply,
                                              const std::vector<ShardReference>& shards) {
  FEDMOE_RETURN_IF_ERROR(
      CheckCount("carried", static_cast<std::size_t>(reply.carried_size()), shards.size()));
  std::vector<CarriedShard> carried;
  int least = 0;
  for (const v1::ShardChunk& chunk : reply.carried()) {
    const int last = static_cast<int>(shards.size()) - 1;
    FEDMOE_RETURN_IF_ERROR(CheckRange("carried.index", chunk.index(), least, last));
    const ShardReference& shard = shards[static_cast<std::size_t>(chunk.index())];
    const bool whole = chunk.offset() == 0 && chunk.total_bytes() == 0 && chunk.more().empty() &&
                       static_cast<std::int64_t>(chunk.data().size()) == shard.bytes;
    if (shard.encoded() || !whole)
      return InvalidArgument("carried must be float32 shards of the task, each whole");
    least = chunk.index() + 1;
    if (!CheckChunk("carried", 0, chunk.data(), chunk.crc32c()).ok()) continue;
    carried.push_back({.index = chunk.index(), .bytes = chunk.data()});
  }
  return carried;
}

}  // namespace

Result<RegisterReply> FromProto(const v1::RegisterReply& reply) {
  FEDMOE_RETURN_IF_ERROR(CheckLength("run_id", reply.run_id().size(), 1, kMaxNameLength));
  FEDMOE_RETURN_IF_ERROR(CheckLength("run_name", reply.run_name().size(), 0, kMaxNameLength));
  FEDMOE_RETURN_IF_ERROR(CheckId("protocol", reply.protocol()));
  FEDMOE_RETURN_IF_ERROR(CheckId("session", reply.session()));
  FEDMOE_RETURN_IF_ERROR(CheckLength("preset", reply.preset().size(), 1, kMaxNameLength));
  FEDMOE_RETURN_IF_ERROR(CheckCount("options", reply.options().size(), kMaxModelOptions));
  RegisterReply to;
  for (const auto& [key, value] : reply.options()) {
    FEDMOE_RETURN_IF_ERROR(CheckLength("options key", key.size(), 1, kMaxNameLength));
    FEDMOE_RETURN_IF_ERROR(CheckLength("options value", value.size(), 0, kMaxTextLength));
    to.options[key] = value;
  }
  if (!IsDigest(reply.spec_digest())) {
    return InvalidArgument("spec_digest must be 64 lower-case hexadecimal characters");
  }
  FEDMOE_RETURN_IF_ERROR(
      CheckRange("heartbeat_interval_ms", reply.heartbeat_interval_ms(), 1, kMaxDurationMs));
  FEDMOE_ASSIGN_OR_RETURN(to.capacity, CapacityFrom(reply.capacity()));
  to.run_id = reply.run_id();
  to.run_name = reply.run_name();
  to.protocol = reply.protocol();
  to.session = reply.session();
  to.preset = reply.preset();
  to.spec_digest = reply.spec_digest();
  to.seed = reply.seed();
  to.heartbeat_interval_ms = reply.heartbeat_interval_ms();
  return to;
}

Result<NextTaskReply> FromProto(const v1::NextTaskReply& reply, const ClientId& client) {
  FEDMOE_RETURN_IF_ERROR(CheckLength("detail", reply.detail().size(), 0, kMaxTextLength));
  FEDMOE_RETURN_IF_ERROR(CheckRange("tasks", reply.tasks(), 0, std::numeric_limits<int>::max()));
  NextTaskReply to;
  to.detail = reply.detail();
  to.tasks = reply.tasks();
  switch (reply.kind()) {
    case v1::NextTaskReply::NOTHING_YET:
      return to;
    case v1::NextTaskReply::RUN_OVER:
      to.kind = NextTaskReply::Kind::kRunOver;
      return to;
    case v1::NextTaskReply::TASK: {
      to.kind = NextTaskReply::Kind::kTask;
      FEDMOE_ASSIGN_OR_RETURN(to.task, TaskFrom(reply.task(), client));
      FEDMOE_ASSIGN_OR_RETURN(to.carried, CarriedFrom(reply, to.task.shards));
      return to;
    }
    default:
      return CheckRange("kind", reply.kind(), 0, 2);
  }
}

Result<HeartbeatReply> FromProto(const v1::HeartbeatReply& reply) {
  FEDMOE_RETURN_IF_ERROR(
      CheckRange("reason", reply.reason(), 0, static_cast<int>(CancelReason::kTimedOut)));
  return HeartbeatReply{reply.cancel(), static_cast<CancelReason>(reply.reason())};
}

Result<Verdict> FromProto(const v1::SubmitUpdateReply& reply) {
  FEDMOE_RETURN_IF_ERROR(
      CheckRange("reason", reply.reason(), 0, static_cast<int>(RejectReason::kBadFeedback)));
  FEDMOE_RETURN_IF_ERROR(CheckLength("detail", reply.detail().size(), 0, kMaxTextLength));
  Verdict verdict{static_cast<RejectReason>(reply.reason()), reply.detail()};
  if (verdict.accepted() != reply.accepted()) {
    return InvalidArgument(
        fmt::format("accepted must be {} with reason {}", verdict.accepted(), reply.reason()));
  }
  return verdict;
}

Result<ShardReference> ShardOfChunk(const v1::ShardChunk& chunk,
                                    std::span<const ShardReference> shards) {
  if (chunk.index() < 0 || chunk.index() >= static_cast<int>(shards.size())) {
    return InvalidArgument(
        fmt::format("index must be 0 to {} (got {})", shards.size() - 1, chunk.index()));
  }
  ShardReference shard = shards[static_cast<std::size_t>(chunk.index())];
  if (chunk.total_bytes() == 0) return shard;
  const auto most = static_cast<std::uint64_t>(shard.bytes);
  const std::uint64_t least = shard.zstd ? 1 : most;
  if (chunk.total_bytes() < least || chunk.total_bytes() > most) {
    return InvalidArgument(
        fmt::format("total_bytes must be {} to {} (got {})", least, most, chunk.total_bytes()));
  }
  shard.bytes = static_cast<std::int64_t>(chunk.total_bytes());
  return shard;
}

}  // namespace fedmoe
