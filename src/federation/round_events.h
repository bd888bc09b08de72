// What the round machine is told, and what it asks for.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "federation/round_report.h"
#include "federation/round_state.h"

namespace fedmoe {

// ---- Events. Each carries its time, milliseconds on the coordinator's clock, never falling.

struct ClientJoined {
  Milliseconds at_ms = 0;
  ClientId client;
  ClientRole role = ClientRole::kTrainer;
  std::string instance;
  CapacityProfile profile;
};
// Any sign of life of a session: a poll, a heartbeat while training, bytes of an update.
struct Heartbeat {
  Milliseconds at_ms = 0;
  ClientId client;
  std::uint64_t session = 0;
};
struct ClientLeft {  // said so itself
  Milliseconds at_ms = 0;
  ClientId client;
  std::uint64_t session = 0;
};
// An update whose bytes are complete, intact, finite and durable in the spool, and valid for its
// task; or one that failed one of these (content.reason), so that the machine can close the task.
struct UpdateReceived {
  Milliseconds at_ms = 0;
  UpdateHeader header;
  Verdict content;
};
struct EvaluationReceived {
  Milliseconds at_ms = 0;
  TaskId task = 0;
  ClientId client;
  double correct = 0.0;  // examples
  double loss = 0.0;     // sum over examples, nats
  double examples = 0.0;
};
// The client gives a task back: it is shutting down, or cannot do it.
struct TaskReturned {
  Milliseconds at_ms = 0;
  TaskId task = 0;
  ClientId client;
  std::string why;
};
struct Aggregated {
  Milliseconds at_ms = 0;
  RoundNumber round = 0;
  std::vector<Digest> shards;  // of the whole new model, by shard
};
struct AggregationFailed {
  Milliseconds at_ms = 0;
  RoundNumber round = 0;
  std::string error;
};
struct CheckpointWritten {
  Milliseconds at_ms = 0;
  RoundNumber round = 0;
};
struct CheckpointFailed {
  Milliseconds at_ms = 0;
  RoundNumber round = 0;
  std::string error;
};
// SIGTERM or the admin service: finish the round in hand (drain), or abort it (now).
struct StopRequested {
  Milliseconds at_ms = 0;
  bool drain = true;
};
// The coordinator came back: time since the last event did not pass for deadlines. Every client
// counts as heard now.
struct Resumed {
  Milliseconds at_ms = 0;
};
struct Tick {
  Milliseconds at_ms = 0;
};

using Event = std::variant<ClientJoined, Heartbeat, ClientLeft, UpdateReceived, EvaluationReceived,
                           TaskReturned, Aggregated, AggregationFailed, CheckpointWritten,
                           CheckpointFailed, StopRequested, Resumed, Tick>;

Milliseconds TimeOf(const Event& event);

// ---- Actions: requests to the shell, to be carried out in order.

struct AdmitClient {
  ClientId client;
  std::uint64_t session = 0;
  bool superseded = false;  // an older session of the same instance ends
  CapacityDecision capacity;
};
struct TurnAwayClient {
  ClientId client;
  std::string instance;
  StatusCode code = StatusCode::kOk;  // ALREADY_EXISTS: another instance has the name;
                                      // FAILED_PRECONDITION: too small
  std::string message;
};
struct Dispatch {  // a task sent again (after a rejoin) has the same id and content
  std::vector<TaskAssignment> tasks;
};
struct AcceptUpdate {  // also for a duplicate of an accepted update
  TaskId task = 0;
  ClientId client;
  bool duplicate = false;
};
struct RejectUpdate {
  TaskId task = 0;
  ClientId client;
  Verdict verdict;
};
struct CancelTasks {
  std::vector<TaskId> tasks;
  CancelReason reason = CancelReason::kRoundOver;
};
struct Aggregate {
  RoundNumber round = 0;
  ModelVersion base_version = 0;
  AggregationPlan plan;
};
struct WriteCheckpoint {
  RoundNumber round = 0;
  std::vector<Digest> shards;
};
struct PublishModel {
  ModelVersion version = 0;
  std::vector<Digest> shards;
};
struct AbortRound {
  RoundNumber round = 0;
  int attempt = 1;
  AbortReason reason = AbortReason::kTooFewUpdates;
  std::string detail;
};
struct Report {
  RoundReport report;
};
struct Finish {
  RunStatus status = RunStatus::kCompleted;
  std::string detail;
};

using Action =
    std::variant<AdmitClient, TurnAwayClient, Dispatch, AcceptUpdate, RejectUpdate, CancelTasks,
                 Aggregate, WriteCheckpoint, PublishModel, AbortRound, Report, Finish>;

}  // namespace fedmoe
