// Plain structs to messages of the wire. What is sent is trusted to be within bounds: the other end
// checks.
#pragma once

#include <string>
#include <vector>

#include "federation/messages.h"
#include "fedmoe/v1/coordinator.pb.h"

namespace fedmoe {

// ---- Requests.
v1::Session ToProto(const SessionId& session);
v1::RegisterRequest ToProto(const RegisterRequest& request);
v1::NextTaskRequest ToProto(const PollRequest& request);
v1::HeartbeatRequest HeartbeatToProto(const SessionId& session, TaskId task, double progress);
v1::FetchShardsRequest FetchToProto(const SessionId& session,
                                    const std::vector<ShardReference>& shards,
                                    std::uint64_t first_offset = 0, bool damaged = false);
v1::UpdateHeader ToProto(const SessionId& session, const UpdateHeader& header,
                         std::uint64_t offset = 0);
v1::ResumeUpdateRequest ResumeToProto(const SessionId& session, TaskId task,
                                      std::uint64_t total_bytes);
v1::EvaluationResult ToProto(const SessionId& session, const EvaluationResult& result);
v1::ReturnTaskRequest ReturnToProto(const SessionId& session, TaskId task, const std::string& why);

// ---- Replies.
v1::RegisterReply ToProto(const RegisterReply& reply);
v1::NextTaskReply ToProto(const NextTaskReply& reply);
// Lets a shard of the task, whole, come with it. By rising index.
void Carry(v1::NextTaskReply& reply, int index, std::string bytes, std::uint32_t crc32c);
v1::HeartbeatReply ToProto(const HeartbeatReply& reply);
v1::SubmitUpdateReply ToProto(const Verdict& verdict);

}  // namespace fedmoe
