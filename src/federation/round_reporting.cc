// Updates, cells and deadlines; commit and abort.
#include <algorithm>
#include <cmath>

#include "federation/round_internal.h"

namespace fedmoe {
namespace {

// ---- Updates.

void Refuse(Stepping& step, const UpdateReceived& event, RejectReason reason, std::string detail) {
  step.Emit(RejectUpdate{.task = event.header.task,
                         .client = event.header.client,
                         .verdict = Verdict{.reason = reason, .detail = std::move(detail)}});
}

std::string TaskName(TaskId task) { return "task " + std::to_string(task); }

bool IsEvaluationTask(const RoundState& state, TaskId task) {
  return std::any_of(state.evaluations.begin(), state.evaluations.end(),
                     [&](const auto& entry) { return entry.second.tasks.contains(task); });
}

// An update of a task that is not of the round in hand.
void RefuseForeign(Stepping& step, const UpdateReceived& event) {
  const RoundState& state = step.state;
  const TaskId task = event.header.task;
  if (task == 0 || task >= state.next_task) {
    return Refuse(step, event, RejectReason::kUnknownTask,
                  TaskName(task) + " does not exist in this run");
  }
  if (IsEvaluationTask(state, task)) {
    return Refuse(step, event, RejectReason::kUnknownTask,
                  TaskName(task) + " is an evaluation, it takes no update");
  }
  const auto client = state.clients.find(event.header.client);
  if (client != state.clients.end() && client->second.last_committed_task == task) {
    step.Emit(AcceptUpdate{.task = task, .client = event.header.client, .duplicate = true});
    return;
  }
  Refuse(step, event, RejectReason::kStaleRound, TaskName(task) + " is of a round that is over");
}

// What stands against the update, whatever its content; kNone for an open task.
Verdict CheckOpen(const RoundState& state, const TaskState& task, const UpdateHeader& header) {
  const std::string name = TaskName(header.task);
  if (task.status == TaskStatus::kRejected) {
    return {RejectReason::kAlreadyRejected,
            "an earlier update of " + name + " was rejected: " + RejectReasonName(task.reject)};
  }
  if (state.phase != Phase::kReporting) {
    return {RejectReason::kStaleRound,
            "round " + std::to_string(state.round) + " went on without " + name};
  }
  if (task.status == TaskStatus::kExpired) {
    return {RejectReason::kTaskCancelled, name + " was cancelled"};
  }
  if (header.round != task.assignment.round) {
    return {RejectReason::kStaleRound, "the update is of round " + std::to_string(header.round) +
                                           ", " + name + " of round " +
                                           std::to_string(task.assignment.round)};
  }
  return {};
}

Verdict CheckContent(const UpdateReceived& event, const TaskState& task, const ModelSpec& spec) {
  if (!event.content.accepted()) return event.content;
  const Status feedback =
      ValidateFeedback(event.header.feedback, spec.experts, task.assignment.experts);
  if (feedback.ok()) return {};
  return {RejectReason::kBadFeedback, feedback.message()};
}

// ---- Cells.

struct CellCount {
  int clients = 0;
  int accepted = 0;
  int open = 0;  // waited for
  int lost = 0;  // will not come
};

std::vector<CellCount> CountCells(const RoundState& state, bool deterministic) {
  std::vector<CellCount> counts(state.cells.size());
  for (const auto& [id, task] : state.tasks) {
    for (const ShardReference& shard : task.assignment.shards) {
      CellCount& count = counts[static_cast<std::size_t>(shard.shard)];
      ++count.clients;
      switch (task.status) {
        case TaskStatus::kAccepted:
          ++count.accepted;
          break;
        case TaskStatus::kOpen:
          ++count.open;
          break;
        case TaskStatus::kLost:
          ++(deterministic ? count.open : count.lost);
          break;
        case TaskStatus::kExpired:
          ++count.lost;
          break;
        case TaskStatus::kRejected:
          break;
      }
    }
  }
  return counts;
}

int Quorum(double share, int clients) {
  // A product that misses a whole number by rounding must not ask for one client more.
  return std::max(1, static_cast<int>(std::ceil(share * clients - 1e-9)));
}

bool DeadlinePassed(const RoundState& state, const RunOptions& options) {
  const Milliseconds deadline_ms = options.participation.deadline_ms;
  return deadline_ms > 0 && state.now_ms >= state.started_ms + deadline_ms;
}

CellState NextCellState(const RoundState& state, const CellCount& count, Milliseconds quorum_ms,
                        const RunOptions& options) {
  if (count.open == 0) return count.lost == 0 ? CellState::kComplete : CellState::kAbandoned;
  if (DeadlinePassed(state, options)) return CellState::kDeadline;
  const bool grace_passed =
      quorum_ms >= 0 && state.now_ms >= quorum_ms + options.participation.grace_ms;
  if (grace_passed && !options.deterministic) return CellState::kGrace;
  return CellState::kOpen;
}

// True once no cell is open. An abandoned cell opens again when a client comes back; the other
// closed states are final.
bool UpdateCells(Stepping& step) {
  RoundState& state = step.state;
  const std::vector<CellCount> counts = CountCells(state, step.options.deterministic);
  bool all_closed = true;
  for (std::size_t i = 0; i < state.cells.size(); ++i) {
    CellState& cell = state.cells[i];
    if (cell != CellState::kOpen && cell != CellState::kAbandoned) continue;
    if (state.cell_quorum_ms[i] < 0 &&
        counts[i].accepted >= Quorum(step.options.participation.quorum, counts[i].clients)) {
      state.cell_quorum_ms[i] = state.now_ms;
      step.changed = true;
    }
    const CellState next = NextCellState(state, counts[i], state.cell_quorum_ms[i], step.options);
    if (next != cell) step.changed = true;
    cell = next;
    if (cell == CellState::kOpen) all_closed = false;
  }
  return all_closed;
}

// ---- Commit and abort.

std::vector<TaskId> OpenTasks(const RoundState& state) {
  std::vector<TaskId> open;
  for (const auto& [id, task] : state.tasks) {
    if (task.status == TaskStatus::kOpen) open.push_back(id);
  }
  return open;
}

// Nothing of the round in hand stays.
void ClearRound(RoundState& state) {
  state.phase = Phase::kSelection;
  state.round = 0;
  state.cohort.clear();
  state.plan = AlignmentPlan{};
  state.next_alignment_memory = AlignmentMemory{};
  state.tasks.clear();
  state.cells.clear();
  state.cell_quorum_ms.clear();
  state.new_shards.clear();
}

// An attempt that did not come off: the same round is tried again, up to the limit.
void AbortAttempt(Stepping& step, AbortReason reason, const std::string& detail) {
  RoundState& state = step.state;
  const RoundNumber round = state.round;
  const int attempt = state.attempt;
  AbortInHand(step, reason, detail);
  if (attempt < step.options.participation.max_aborts || state.stop_requested) return;
  FinishRun(step, RunStatus::kFailed,
            "round " + std::to_string(round) + " was aborted " + std::to_string(attempt) +
                (attempt == 1 ? " time" : " times") + ", at last: " + detail);
}

// The commit failed: the run stops with the error, and can be resumed once its cause is gone.
void FailCommit(Stepping& step, AbortReason reason, const std::string& what,
                const std::string& error) {
  const std::string detail =
      what + " of round " + std::to_string(step.state.round) + " failed: " + error;
  AbortInHand(step, reason, error);
  FinishRun(step, RunStatus::kFailed, detail);
}

std::string MissingClients(const RoundState& state) {
  std::string names;
  for (const auto& [id, task] : state.tasks) {
    if (task.status == TaskStatus::kAccepted) continue;
    names += (names.empty() ? "" : ", ") + task.assignment.client;
  }
  return names;
}

const char* OutcomeOf(const TaskState& task) {
  switch (task.status) {
    case TaskStatus::kAccepted:
      return "accepted";
    case TaskStatus::kRejected:
      return RejectReasonName(task.reject);
    case TaskStatus::kLost:
      return "lost";
    case TaskStatus::kOpen:
    case TaskStatus::kExpired:
      break;
  }
  return "expired";
}

// The accepted tasks enter fitness, load and the clients' records; tasks are in client order.
void MergeFeedback(RoundState& state, const RunOptions& options) {
  const auto experts = static_cast<std::size_t>(options.spec.experts);
  std::vector<std::int64_t> assignments(experts, 0);
  std::vector<double> tokens(experts, 0.0);
  for (const auto& [id, task] : state.tasks) {
    if (task.status != TaskStatus::kAccepted) continue;
    const TrainingFeedback& feedback = task.feedback;
    UpdateFitness(state.fitness, task.assignment.client, feedback, options.fitness);
    for (const ExpertIndex expert : task.assignment.experts) {
      const auto e = static_cast<std::size_t>(expert);
      if (feedback.tokens[e] <= 0.0) continue;
      ++assignments[e];
      tokens[e] += feedback.tokens[e];
    }
    ClientRecord& client = state.clients.at(task.assignment.client);
    client.experts = task.assignment.experts;
    client.last_committed_task = id;
    ++client.rounds_merged;
    if (options.deterministic || client.role != ClientRole::kTrainer) continue;
    if (feedback.down_bytes_per_s > 0.0)
      client.profile.down_bytes_per_s = feedback.down_bytes_per_s;
    if (feedback.up_bytes_per_s > 0.0) client.profile.up_bytes_per_s = feedback.up_bytes_per_s;
    client.capacity = DeriveCapacity(client.profile, options.spec, options.training,
                                     options.participation.deadline_ms);
  }
  RecordRound(state.load, assignments, tokens, options.alignment.load);
}

// Of the round that was just merged, before it is cleared.
RoundReport MakeReport(const RoundState& state) {
  RoundReport report;
  report.round = state.round;
  report.attempts = state.attempt;
  report.started_ms = state.first_started_ms;
  report.committed_ms = state.now_ms;
  report.seconds = static_cast<double>(state.now_ms - state.started_ms) / 1000.0;
  double loss = 0.0;
  double examples = 0.0;
  for (const auto& [id, task] : state.tasks) {
    ClientReport client;
    client.client = task.assignment.client;
    client.capacity = state.clients.at(client.client).capacity;
    client.experts = task.assignment.experts;
    client.outcome = OutcomeOf(task);
    client.examples = task.feedback.examples;
    client.train_loss = task.feedback.train_loss;
    client.train_s = task.feedback.train_s;
    if (task.status == TaskStatus::kAccepted) {
      ++report.accepted;
      loss += task.feedback.train_loss * static_cast<double>(task.feedback.examples);
      examples += static_cast<double>(task.feedback.examples);
    }
    report.clients.push_back(std::move(client));
  }
  report.rejected = state.rejected;
  report.cells = state.cells;
  report.train_loss = examples > 0.0 ? loss / examples : 0.0;
  report.load_cv = state.plan.cv;
  report.load_cv_floor = state.plan.floor_cv;
  report.cumulative_load_cv = CoefficientOfVariation(state.load.assignments);
  report.client_expert_information = ClientExpertInformation(state.fitness);
  report.plan = state.plan;
  report.cohort = state.cohort;
  report.model_digest = ModelDigest(state.shards);
  return report;
}

}  // namespace

void OnUpdate(Stepping& step, const UpdateReceived& event) {
  RoundState& state = step.state;
  const UpdateHeader& header = event.header;
  const auto found = state.tasks.find(header.task);
  if (found == state.tasks.end()) return RefuseForeign(step, event);
  TaskState& task = found->second;
  if (task.assignment.client != header.client) {
    return Refuse(step, event, RejectReason::kNotYourTask,
                  TaskName(header.task) + " is of client '" + task.assignment.client + "'");
  }
  if (task.status == TaskStatus::kAccepted) {
    step.Emit(AcceptUpdate{.task = header.task, .client = header.client, .duplicate = true});
    return;
  }
  if (Verdict closed = CheckOpen(state, task, header); !closed.accepted()) {
    return Refuse(step, event, closed.reason, std::move(closed.detail));
  }
  step.changed = true;
  ClientRecord& client = state.clients.at(header.client);
  if (client.connected) client.last_heard_ms = state.now_ms;
  Verdict content = CheckContent(event, task, step.options.spec);
  if (!content.accepted()) {
    task.status = TaskStatus::kRejected;
    task.reject = content.reason;
    ++state.rejected[RejectReasonName(content.reason)];
    return Refuse(step, event, content.reason, std::move(content.detail));
  }
  task.status = TaskStatus::kAccepted;
  task.feedback = header.feedback;
  step.Emit(AcceptUpdate{.task = header.task, .client = header.client});
}

void OnTaskReturned(Stepping& step, const TaskReturned& event) {
  const auto give_up = [&](std::map<TaskId, TaskState>& tasks) {
    const auto found = tasks.find(event.task);
    if (found == tasks.end()) return;
    TaskState& task = found->second;
    if (task.assignment.client != event.client || task.status != TaskStatus::kOpen) return;
    task.status = TaskStatus::kLost;
    step.changed = true;
  };
  give_up(step.state.tasks);
  for (auto& [version, evaluation] : step.state.evaluations) give_up(evaluation.tasks);
}

bool CloseRound(Stepping& step) {
  RoundState& state = step.state;
  if (!UpdateCells(step)) return false;
  step.changed = true;
  const int accepted =
      static_cast<int>(std::count_if(state.tasks.begin(), state.tasks.end(), [](const auto& entry) {
        return entry.second.status == TaskStatus::kAccepted;
      }));
  const int cohort = static_cast<int>(state.cohort.size());
  const int needed = Quorum(step.options.participation.quorum, cohort);
  const std::string of_cohort = std::to_string(accepted) + " of " + std::to_string(cohort);
  if (step.options.deterministic && accepted < cohort) {
    AbortAttempt(step, AbortReason::kIncomplete,
                 of_cohort + " assigned clients reported; missing: " + MissingClients(state));
    return true;
  }
  if (accepted < needed) {
    AbortAttempt(step, AbortReason::kTooFewUpdates,
                 of_cohort + " updates accepted, at least " + std::to_string(needed) + " needed");
    return true;
  }
  step.Cancel(OpenTasks(state), CancelReason::kRoundOver);
  for (auto& [id, task] : state.tasks) {
    if (task.status == TaskStatus::kOpen) task.status = TaskStatus::kExpired;
  }
  state.phase = Phase::kAggregating;
  step.Emit(AggregateAction(state, step.options));
  return true;
}

std::vector<TaskId> LoseTasks(RoundState& state, const std::set<ClientId>& clients) {
  std::vector<TaskId> ids;
  const auto lose = [&](std::map<TaskId, TaskState>& tasks) {
    for (auto& [id, task] : tasks) {
      if (task.status != TaskStatus::kOpen || !clients.contains(task.assignment.client)) continue;
      task.status = TaskStatus::kLost;
      ids.push_back(id);
    }
  };
  lose(state.tasks);
  for (auto& [version, evaluation] : state.evaluations) lose(evaluation.tasks);
  std::sort(ids.begin(), ids.end());
  return ids;
}

Aggregate AggregateAction(const RoundState& state, const RunOptions& options) {
  std::vector<AcceptedUpdate> accepted;
  for (const auto& [id, task] : state.tasks) {
    if (task.status != TaskStatus::kAccepted) continue;
    accepted.push_back(AcceptedUpdate{.task = id,
                                      .client = task.assignment.client,
                                      .experts = task.assignment.experts,
                                      .feedback = task.feedback});
  }
  return Aggregate{.round = state.round,
                   .base_version = state.version,
                   .plan = PlanAggregation(options.spec, std::move(accepted), options.aggregation)};
}

void AbortInHand(Stepping& step, AbortReason reason, const std::string& detail) {
  RoundState& state = step.state;
  step.changed = true;
  step.Emit(AbortRound{
      .round = state.round, .attempt = state.attempt, .reason = reason, .detail = detail});
  step.Cancel(OpenTasks(state), CancelReason::kRoundAborted);
  ClearRound(state);
  ++state.attempt;
}

void FinishRun(Stepping& step, RunStatus status, const std::string& detail) {
  RoundState& state = step.state;
  step.changed = true;
  step.Cancel(ExpireEvaluations(state), CancelReason::kRunOver);
  ReportEvaluations(step, "run_over");
  state.phase = Phase::kFinished;
  state.status = status;
  state.status_detail = detail;
  step.Emit(Finish{.status = status, .detail = detail});
}

void OnAggregated(Stepping& step, const Aggregated& event) {
  RoundState& state = step.state;
  const bool again = state.phase == Phase::kCheckpointing;
  if (event.round != state.round || (state.phase != Phase::kAggregating && !again)) return;
  if (event.shards.size() != static_cast<std::size_t>(step.options.spec.ShardCount())) {
    return FailCommit(step, AbortReason::kAggregationFailed, "aggregation",
                      "it gave " + std::to_string(event.shards.size()) + " shards, the model has " +
                          std::to_string(step.options.spec.ShardCount()));
  }
  if (again && event.shards != state.new_shards) {
    return FailCommit(step, AbortReason::kAggregationFailed, "aggregation",
                      "done again, it gave other shards than before");
  }
  if (!again) {
    step.changed = true;
    state.phase = Phase::kCheckpointing;
    state.new_shards = event.shards;
  }
  step.Emit(WriteCheckpoint{.round = state.round, .shards = state.new_shards});
}

void OnAggregationFailed(Stepping& step, const AggregationFailed& event) {
  const Phase phase = step.state.phase;
  if (event.round != step.state.round) return;
  if (phase != Phase::kAggregating && phase != Phase::kCheckpointing) return;
  FailCommit(step, AbortReason::kAggregationFailed, "aggregation", event.error);
}

void OnCheckpointWritten(Stepping& step, const CheckpointWritten& event) {
  RoundState& state = step.state;
  if (state.phase != Phase::kCheckpointing || event.round != state.round) return;
  step.changed = true;
  state.version = state.round;
  state.shards = std::move(state.new_shards);
  state.alignment_memory = std::move(state.next_alignment_memory);
  MergeFeedback(state, step.options);
  RoundReport report = MakeReport(state);
  ClearRound(state);
  state.attempt = 1;
  state.rejected.clear();
  step.Emit(PublishModel{.version = state.version, .shards = state.shards});
  StartEvaluation(step, std::move(report));
}

void OnCheckpointFailed(Stepping& step, const CheckpointFailed& event) {
  if (step.state.phase != Phase::kCheckpointing || event.round != step.state.round) return;
  FailCommit(step, AbortReason::kCheckpointFailed, "checkpoint", event.error);
}

}  // namespace fedmoe
