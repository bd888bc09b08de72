// Which message an input of the target protocol_messages holds: its first byte. Corpora depend on
// the numbers.
#pragma once

namespace fedmoe {

enum class MessageKind {
  kSession,
  kRegisterRequest,
  kHeartbeatRequest,
  kFetchShardsRequest,
  kUpdateChunk,
  kEvaluationResult,
  kReturnTaskRequest,
  kRegisterReply,
  kNextTaskReply,
  kHeartbeatReply,
  kSubmitUpdateReply,
  kShardChunk,
  kResumeUpdateRequest,
  kNextTaskRequest,
};
inline constexpr int kMessageKinds = 14;

}  // namespace fedmoe
