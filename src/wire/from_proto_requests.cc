#include <span>

#include <fmt/format.h>

#include "common/checksum.h"
#include "common/file_system.h"
#include "wire/field_checks.h"
#include "wire/from_proto.h"
#include "wire/limits.h"

namespace fedmoe {
namespace {

Result<ClientRole> RoleFrom(int role) {
  switch (role) {
    case v1::ROLE_UNSPECIFIED:
    case v1::ROLE_TRAINER:
      return ClientRole::kTrainer;
    case v1::ROLE_EVALUATOR:
      return ClientRole::kEvaluator;
    default:
      return InvalidArgument(fmt::format("role must be 0 to 2 (got {})", role));
  }
}

Result<CapacityProfile> ProfileFrom(const v1::CapacityProfile& profile) {
  FEDMOE_RETURN_IF_ERROR(CheckNumber("profile.compute_flops_per_s", profile.compute_flops_per_s()));
  FEDMOE_RETURN_IF_ERROR(CheckNumber("profile.down_bytes_per_s", profile.down_bytes_per_s()));
  FEDMOE_RETURN_IF_ERROR(CheckNumber("profile.up_bytes_per_s", profile.up_bytes_per_s()));
  FEDMOE_RETURN_IF_ERROR(CheckAtLeast("profile.examples", profile.examples(), 0));
  FEDMOE_RETURN_IF_ERROR(CheckRange("profile.max_experts", profile.max_experts(), 0, kMaxExperts));
  FEDMOE_RETURN_IF_ERROR(CheckLength("profile.device", profile.device().size(), 0, kMaxNameLength));
  return CapacityProfile{.memory_bytes = profile.memory_bytes(),
                         .compute_flops_per_s = profile.compute_flops_per_s(),
                         .down_bytes_per_s = profile.down_bytes_per_s(),
                         .up_bytes_per_s = profile.up_bytes_per_s(),
                         .examples = profile.examples(),
                         .max_experts = profile.max_experts(),
                         .device = profile.device()};
}

Result<std::vector<double>> NumbersFrom(const char* field,
                                        const google::protobuf::RepeatedField<double>& numbers) {
  FEDMOE_RETURN_IF_ERROR(CheckCount(field, static_cast<std::size_t>(numbers.size()), kMaxExperts));
  return std::vector<double>(numbers.begin(), numbers.end());
}

Result<TrainingFeedback> FeedbackFrom(const v1::TrainingFeedback& from) {
  TrainingFeedback to;
  to.examples = from.examples();
  to.steps = from.steps();
  to.train_loss = from.train_loss();
  to.train_accuracy = from.train_accuracy();
  FEDMOE_ASSIGN_OR_RETURN(to.tokens, NumbersFrom("feedback.tokens", from.tokens()));
  FEDMOE_ASSIGN_OR_RETURN(to.expert_loss, NumbersFrom("feedback.expert_loss", from.expert_loss()));
  FEDMOE_ASSIGN_OR_RETURN(to.expert_accuracy,
                          NumbersFrom("feedback.expert_accuracy", from.expert_accuracy()));
  FEDMOE_ASSIGN_OR_RETURN(to.affinity, NumbersFrom("feedback.affinity", from.affinity()));
  to.train_s = from.train_s();
  to.down_bytes_per_s = from.down_bytes_per_s();
  to.up_bytes_per_s = from.up_bytes_per_s();
  return to;
}

}  // namespace

Result<SessionId> FromProto(const v1::Session& session) {
  FEDMOE_RETURN_IF_ERROR(CheckClientId("session.client", session.client()));
  FEDMOE_RETURN_IF_ERROR(CheckId("session.session", session.session()));
  return SessionId{session.client(), session.session()};
}

Result<RegisterRequest> FromProto(const v1::RegisterRequest& request) {
  FEDMOE_RETURN_IF_ERROR(CheckClientId("client", request.client()));
  FEDMOE_RETURN_IF_ERROR(CheckLength("instance", request.instance().size(), 1, kMaxInstanceLength));
  FEDMOE_ASSIGN_OR_RETURN(const ClientRole role, RoleFrom(request.role()));
  FEDMOE_RETURN_IF_ERROR(CheckId("protocol_min", request.protocol_min()));
  if (request.protocol_max() < request.protocol_min()) {
    return InvalidArgument(fmt::format("protocol_max must be at least protocol_min (got {} < {})",
                                       request.protocol_max(), request.protocol_min()));
  }
  FEDMOE_ASSIGN_OR_RETURN(CapacityProfile profile, ProfileFrom(request.profile()));
  return RegisterRequest{.client = request.client(),
                         .instance = request.instance(),
                         .role = role,
                         .protocol_min = request.protocol_min(),
                         .protocol_max = request.protocol_max(),
                         .profile = std::move(profile)};
}

Result<PollRequest> FromProto(const v1::NextTaskRequest& request) {
  FEDMOE_ASSIGN_OR_RETURN(SessionId session, FromProto(request.session()));
  FEDMOE_RETURN_IF_ERROR(
      CheckCount("held", static_cast<std::size_t>(request.held_size()), kMaxHeld));
  PollRequest to(std::move(session));
  to.carry_bytes = request.carry_bytes();
  to.held.assign(request.held().begin(), request.held().end());
  return to;
}

Result<HeartbeatFromClient> FromProto(const v1::HeartbeatRequest& request) {
  FEDMOE_ASSIGN_OR_RETURN(SessionId session, FromProto(request.session()));
  FEDMOE_RETURN_IF_ERROR(CheckId("task", request.task()));
  FEDMOE_RETURN_IF_ERROR(CheckShare("progress", request.progress()));
  return HeartbeatFromClient{std::move(session), request.task(), request.progress()};
}

Result<ShardReference> FromProto(const v1::ShardReference& shard) {
  FEDMOE_RETURN_IF_ERROR(CheckRange("shards.shard", shard.shard(), 0, kMaxExperts));
  if (!IsDigest(shard.digest())) {
    return InvalidArgument("shards.digest must be 64 lower-case hexadecimal characters");
  }
  FEDMOE_RETURN_IF_ERROR(CheckRange("shards.bytes", shard.bytes(), 1, kMaxShardBytes));
  FEDMOE_RETURN_IF_ERROR(CheckRange("shards.encoding", shard.encoding(), 0,
                                    static_cast<std::int64_t>(Encoding::kInt4)));
  return ShardReference{.shard = shard.shard(),
                        .digest = shard.digest(),
                        .bytes = shard.bytes(),
                        .encoding = static_cast<Encoding>(shard.encoding()),
                        .zstd = shard.zstd()};
}

Result<FetchFromClient> FromProto(const v1::FetchShardsRequest& request) {
  FetchFromClient fetch;
  FEDMOE_ASSIGN_OR_RETURN(fetch.session, FromProto(request.session()));
  const auto count = static_cast<std::size_t>(request.shards_size());
  FEDMOE_RETURN_IF_ERROR(CheckCount("shards", count, kMaxExperts + 1));
  fetch.shards.reserve(count);
  for (const v1::ShardReference& shard : request.shards()) {
    FEDMOE_ASSIGN_OR_RETURN(ShardReference reference, FromProto(shard));
    fetch.shards.push_back(std::move(reference));
  }
  fetch.damaged = request.damaged();
  fetch.first_offset = request.first_offset();
  const std::uint64_t first =
      fetch.shards.empty() ? 1 : static_cast<std::uint64_t>(fetch.shards.front().bytes);
  if (fetch.first_offset >= first) {
    return InvalidArgument(
        fmt::format("first_offset must be 0 to {} (got {})", first - 1, fetch.first_offset));
  }
  return fetch;
}

Status CheckTotalBytes(std::uint64_t bytes) {
  if (bytes >= 1 && bytes <= kMaxUpdateBytesOnWire) return Status::Ok();
  return InvalidArgument(
      fmt::format("total_bytes must be 1 to {} (got {})", kMaxUpdateBytesOnWire, bytes));
}

Result<UpdateFromClient> FromProto(const v1::UpdateHeader& header) {
  UpdateFromClient update;
  FEDMOE_ASSIGN_OR_RETURN(update.session, FromProto(header.session()));
  FEDMOE_RETURN_IF_ERROR(CheckId("task", header.task()));
  FEDMOE_RETURN_IF_ERROR(CheckAtLeast("round", header.round(), 1));
  FEDMOE_RETURN_IF_ERROR(CheckTotalBytes(header.total_bytes()));
  if (header.offset() > header.total_bytes()) {
    return InvalidArgument(fmt::format("offset must be at most total_bytes (got {} > {})",
                                       header.offset(), header.total_bytes()));
  }
  update.offset = header.offset();
  update.header.task = header.task();
  update.header.client = update.session.client;
  update.header.round = header.round();
  update.header.total_bytes = header.total_bytes();
  FEDMOE_ASSIGN_OR_RETURN(update.header.feedback, FeedbackFrom(header.feedback()));
  return update;
}

Result<ResumeFromClient> FromProto(const v1::ResumeUpdateRequest& request) {
  FEDMOE_ASSIGN_OR_RETURN(SessionId session, FromProto(request.session()));
  FEDMOE_RETURN_IF_ERROR(CheckId("task", request.task()));
  FEDMOE_RETURN_IF_ERROR(CheckTotalBytes(request.total_bytes()));
  return ResumeFromClient{std::move(session), request.task(), request.total_bytes()};
}

Result<EvaluationFromClient> FromProto(const v1::EvaluationResult& result) {
  FEDMOE_ASSIGN_OR_RETURN(SessionId session, FromProto(result.session()));
  FEDMOE_RETURN_IF_ERROR(CheckId("task", result.task()));
  FEDMOE_RETURN_IF_ERROR(CheckNumber("examples", result.examples()));
  FEDMOE_RETURN_IF_ERROR(CheckNumber("correct", result.correct()));
  FEDMOE_RETURN_IF_ERROR(CheckNumber("loss", result.loss()));
  if (result.correct() > result.examples()) {
    return InvalidArgument(fmt::format("correct must be at most examples (got {} > {})",
                                       result.correct(), result.examples()));
  }
  return EvaluationFromClient{std::move(session),
                              {.task = result.task(),
                               .correct = result.correct(),
                               .loss = result.loss(),
                               .examples = result.examples()}};
}

Result<ReturnFromClient> FromProto(const v1::ReturnTaskRequest& request) {
  FEDMOE_ASSIGN_OR_RETURN(SessionId session, FromProto(request.session()));
  FEDMOE_RETURN_IF_ERROR(CheckId("task", request.task()));
  FEDMOE_RETURN_IF_ERROR(CheckLength("why", request.why().size(), 0, kMaxTextLength));
  return ReturnFromClient{std::move(session), request.task(), request.why()};
}

Status CheckChunk(const std::string& what, std::uint64_t offset, const std::string& data,
                  std::uint32_t crc32c) {
  if (data.empty() || data.size() > kWireChunkBytes) {
    return InvalidArgument(fmt::format("{} at byte {} must have 1 to {} bytes (got {})", what,
                                       offset, kWireChunkBytes, data.size()));
  }
  const std::uint32_t actual = Crc32c(AsBytes(std::string_view(data)));
  if (actual == crc32c) return Status::Ok();
  return DataLoss(fmt::format("{} at byte {} is damaged: its bytes have crc32c {:08x}, not {:08x}",
                              what, offset, actual, crc32c));
}

}  // namespace fedmoe
