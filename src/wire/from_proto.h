// Messages of the wire to plain structs, every field bounded and checked before use. Errors are
// INVALID_ARGUMENT and name the field as the .proto file does: "profile.examples must be at least 0
// (got -1)".
#pragma once

#include <span>
#include <string>
#include <vector>

#include "common/result.h"
#include "federation/messages.h"
#include "fedmoe/v1/coordinator.pb.h"

namespace fedmoe {

// ---- Requests, as the coordinator reads them.
Result<SessionId> FromProto(const v1::Session& session);
Result<RegisterRequest> FromProto(const v1::RegisterRequest& request);

Result<PollRequest> FromProto(const v1::NextTaskRequest& request);

struct HeartbeatFromClient {
  SessionId session;
  TaskId task = 0;
  double progress = 0.0;
};
Result<HeartbeatFromClient> FromProto(const v1::HeartbeatRequest& request);

struct FetchFromClient {
  SessionId session;
  std::vector<ShardReference> shards;
  std::uint64_t first_offset = 0;  // in the first of them
  bool damaged = false;            // so they came before
};
Result<FetchFromClient> FromProto(const v1::FetchShardsRequest& request);

// Sizes of the feedback are bounded; what it claims is for ValidateUpdate to judge, so that a bad
// claim is a rejection with its reason.
struct UpdateFromClient {
  SessionId session;
  UpdateHeader header;
  std::uint64_t offset = 0;  // at which it goes on
};
Result<UpdateFromClient> FromProto(const v1::UpdateHeader& header);

struct ResumeFromClient {
  SessionId session;
  TaskId task = 0;
  std::uint64_t total_bytes = 0;
};
Result<ResumeFromClient> FromProto(const v1::ResumeUpdateRequest& request);

struct EvaluationFromClient {
  SessionId session;
  EvaluationResult result;
};
Result<EvaluationFromClient> FromProto(const v1::EvaluationResult& result);

struct ReturnFromClient {
  SessionId session;
  TaskId task = 0;
  std::string why;
};
Result<ReturnFromClient> FromProto(const v1::ReturnTaskRequest& request);

// ---- Replies, as the client reads them.
Result<RegisterReply> FromProto(const v1::RegisterReply& reply);
// `client` is the one that asked: tasks do not repeat its name. A shard that was damaged on its way
// with the task is left out, and so will be fetched.
Result<NextTaskReply> FromProto(const v1::NextTaskReply& reply, const ClientId& client);
Result<HeartbeatReply> FromProto(const v1::HeartbeatReply& reply);
Result<Verdict> FromProto(const v1::SubmitUpdateReply& reply);
// The shard that a chunk is of, out of those asked for, its `bytes` as the chunk tells them: with
// zstd up to those of the reference, else the same.
Result<ShardReference> ShardOfChunk(const v1::ShardChunk& chunk,
                                    std::span<const ShardReference> shards);

// ---- Chunks, either way: not empty, at most kWireChunkBytes, and the checksum right. `what` names
// the transfer: "update chunk at byte 1048576: checksum is 0x..., its bytes have 0x...". DATA_LOSS.
Status CheckChunk(const std::string& what, std::uint64_t offset, const std::string& data,
                  std::uint32_t crc32c);

}  // namespace fedmoe
