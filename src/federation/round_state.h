// The whole state of a run, as data: copied, journaled and replayed.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "federation/aggregation.h"
#include "federation/alignment.h"
#include "federation/capacity.h"
#include "federation/fitness.h"
#include "federation/messages.h"
#include "federation/participation.h"
#include "federation/round_report.h"
#include "federation/task.h"

namespace fedmoe {

enum class Phase {
  kSelection,      // waiting for enough clients
  kReporting,      // dispatched; updates come in
  kAggregating,    // commit, first half: the shell merges the spool
  kCheckpointing,  // commit, second half: the shell makes it durable
  kDraining,       // all rounds done; waiting for the last evaluation
  kFinished,
};
const char* PhaseName(Phase phase);

enum class RunStatus { kRunning, kCompleted, kStopped, kFailed };
const char* RunStatusName(RunStatus status);  // "running", "completed", "stopped", "failed"

struct ClientRecord {
  ClientId client;
  ClientRole role = ClientRole::kTrainer;
  std::string instance;  // the client's persisted instance key
  std::uint64_t session = 0;
  bool connected = false;
  Milliseconds last_heard_ms = 0;  // to an eighth of the heartbeat timeout
  CapacityProfile profile;
  CapacityDecision capacity;
  std::vector<ExpertIndex> experts;  // of its last committed round: what it is evaluated with
  TaskId last_committed_task = 0;    // 0 for none; none also for a new instance under an old name
  std::int64_t rounds_merged = 0;
};

enum class TaskStatus {
  kOpen,
  kAccepted,
  kRejected,
  kLost,     // its client went; open again if the same instance comes back in time
  kExpired,  // the round (or the evaluation) went on without it
};

struct TaskState {
  TaskAssignment assignment;
  std::string instance;  // of the client that it was given to
  TaskStatus status = TaskStatus::kOpen;
  RejectReason reject = RejectReason::kNone;
  TrainingFeedback feedback;  // of an accepted update
};

// The evaluation of one version; its round's report waits for it.
struct EvaluationState {
  RoundReport report;
  Milliseconds deadline_ms = -1;  // absolute; -1 for none
  std::map<TaskId, TaskState> tasks;
  TaskId evaluator_task = 0;  // the one for global_accuracy; 0 for none. The others are clients'
  // Of the accepted tasks. Summed up in task order when all are settled, so that the metrics do not
  // depend on the order of arrival.
  std::map<TaskId, EvaluationResult> results;
};

struct RoundState {
  Phase phase = Phase::kSelection;
  RunStatus status = RunStatus::kRunning;
  std::string status_detail;
  Milliseconds now_ms = 0;      // of the last event
  bool stop_requested = false;  // finish the round in hand, then stop

  std::map<ClientId, ClientRecord> clients;
  std::uint64_t next_session = 1;
  TaskId next_task = 1;

  ModelVersion version = 0;
  std::vector<Digest> shards;  // of `version`, by shard

  FitnessTable fitness;
  ExpertLoad load;
  ParticipationTable participation;  // fedau only
  AlignmentMemory alignment_memory;

  // The round in hand (version + 1) while reporting, aggregating or checkpointing.
  RoundNumber round = 0;
  int attempt = 1;  // of the round in hand, or of the next one
  Milliseconds started_ms = 0;
  Milliseconds first_started_ms = 0;   // of attempt 1
  std::vector<ClientId> cohort;        // sorted
  std::vector<ClientReport> selected;  // by cohort: what the plan was made with; no outcome yet
  int connected_trainers = 0;          // when the attempt began
  AlignmentPlan plan;
  AlignmentMemory next_alignment_memory;  // becomes alignment_memory at the commit
  std::map<TaskId, TaskState> tasks;
  std::vector<CellState> cells;              // trunk, then experts
  std::vector<Milliseconds> cell_quorum_ms;  // when the cell reached its quorum; -1 for not yet
  std::vector<Digest> new_shards;            // while checkpointing
  std::map<std::string, int> rejected;  // RejectReason name -> count, over the round's attempts
  // Their update was rejected in an attempt of this round that was aborted; sorted.
  std::vector<ClientId> sitting_out;

  std::map<ModelVersion, EvaluationState> evaluations;  // in flight
};

}  // namespace fedmoe
