// How a client reaches its coordinator. Every call is started by the client, so that it works
// behind NAT.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "common/result.h"
#include "federation/messages.h"

namespace fedmoe {

// Blocking calls; Beat may run beside any other call, the rest one at a time. Errors: UNAVAILABLE
// when the coordinator cannot be reached (retry), ABORTED when the session is superseded or unknown
// (register again), CANCELLED after CancelAll, others are final for the call.
class Transport {
 public:
  virtual ~Transport() = default;

  virtual Result<RegisterReply> Register(const RegisterRequest& request) = 0;
  virtual Result<NextTaskReply> NextTask(const PollRequest& request) = 0;
  virtual Result<HeartbeatReply> Beat(const SessionId& session, TaskId task, double progress) = 0;
  // Streams the shards in the order asked for, as they travel. `sink` gets consecutive pieces of
  // each, checked on the way (crc32c), and the shard with the bytes that it really has, which are
  // not more than were asked for; it may stop the transfer with an error. Digests and encoded
  // blocks are the caller's to check. `damaged`: they were when they came before. `first_offset`:
  // the caller has the bytes before it of the first shard, from a transfer that broke off.
  using ShardSink = std::function<Status(const ShardReference& shard, std::uint64_t offset,
                                         std::span<const std::byte> bytes)>;
  virtual Status FetchShards(const SessionId& session, const std::vector<ShardReference>& shards,
                             const ShardSink& sink, bool damaged, std::uint64_t first_offset) = 0;
  // `encode` writes header.total_bytes bytes into the sink that it is given. `again`: these bytes
  // were sent before, and what the coordinator has of them need not be sent twice. The
  // coordinator's verdict is the value.
  using UpdateSource =
      std::function<Status(const std::function<Status(std::span<const std::byte>)>& sink)>;
  virtual Result<Verdict> SubmitUpdate(const SessionId& session, const UpdateHeader& header,
                                       const UpdateSource& encode, bool again = false) = 0;
  virtual Status SubmitEvaluation(const SessionId& session, const EvaluationResult& result) = 0;
  // Gives a task back undone.
  virtual Status ReturnTask(const SessionId& session, TaskId task, const std::string& why) = 0;
  virtual Status Leave(const SessionId& session) = 0;

  // Ends Register, NextTask and FetchShards, now and later, with CANCELLED: a client that stops
  // takes no more work, but what it gives back (SubmitUpdate, ReturnTask, Leave) still passes.
  // Thread-safe.
  virtual void CancelWork() = 0;
  // Ends calls in flight, now and later, with CANCELLED. Thread-safe.
  virtual void CancelAll() = 0;
};

}  // namespace fedmoe
