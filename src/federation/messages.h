// What clients and the coordinator say to each other, whatever carries it: gRPC, or a function call
// in tests.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "federation/capacity.h"
#include "federation/task.h"
#include "federation/update.h"

namespace fedmoe {

// Of shards that come with a task: so many bytes, and so many that need not come can be named.
inline constexpr std::uint64_t kMaxCarryBytes = 256 * 1024;
inline constexpr std::size_t kMaxHeld = 64;

struct RegisterRequest {
  ClientId client;
  std::string instance;  // a random key that the client persists: the same name and key supersedes
                         // the old session
  ClientRole role = ClientRole::kTrainer;
  std::uint32_t protocol_min = 0;
  std::uint32_t protocol_max = 0;
  CapacityProfile profile;
};

struct RegisterReply {
  std::string run_id;
  std::string run_name;
  std::uint32_t protocol = 0;
  std::uint64_t session = 0;
  std::string preset;  // the model: BuildModelSpec(ParseModelOptions(preset, options))
  std::map<std::string, std::string> options;
  Digest spec_digest;      // must equal the digest of the spec that the client builds
  std::uint64_t seed = 0;  // of the run: initialises client state such as a local gate
  Milliseconds heartbeat_interval_ms = 0;
  CapacityDecision capacity;
};

// Names the session that speaks. Every later message carries it; an old one is answered with
// ABORTED.
struct SessionId {
  ClientId client;
  std::uint64_t session = 0;
};

// Asks for work. Short shards that the client lacks may come with the task, so that they cost no
// call of their own.
struct PollRequest {
  PollRequest() = default;
  PollRequest(SessionId speaker) : session(std::move(speaker)) {}  // NOLINT: of a plain poll
  SessionId session;
  std::uint64_t carry_bytes = 0;    // at most so many; 0: none
  std::vector<std::uint64_t> held;  // DigestPrefix() of shards that need not come; at most kMaxHeld
};

// A shard that came with its task.
struct CarriedShard {
  int index = 0;  // into the task's `shards`
  std::string bytes;
};

struct NextTaskReply {
  enum class Kind {
    kTask,
    kNothingYet,  // the hold ended: ask again
    kRunOver,     // no more work will come; `detail` says how the run ended
  };
  Kind kind = Kind::kNothingYet;
  TaskAssignment task;
  std::string detail;
  int tasks = 0;  // with kTask: of the round, this one among them; so many may transfer at once
  std::vector<CarriedShard> carried = {};  // with kTask; their digests are the receiver's to check
};

struct HeartbeatReply {
  bool cancel = false;  // stop working on the task
  CancelReason reason = CancelReason::kRoundOver;
};

struct EvaluationResult {
  TaskId task = 0;
  double correct = 0.0;
  double loss = 0.0;  // sum, nats
  double examples = 0.0;
};

}  // namespace fedmoe
