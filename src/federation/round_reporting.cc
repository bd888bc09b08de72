// Updates, returned tasks, cells and deadlines.
#include <algorithm>
#include <cmath>

#include "federation/round_internal.h"

namespace fedmoe {
namespace {

// Of a client's reason for returning a task, as kept in the run's status.
constexpr std::size_t kMaxWhyBytes = 256;

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
  const Status feedback = ValidateFeedback(event.header.feedback, spec, task.assignment.experts);
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

// By cell: the newest second task that took the expert over; 0 for none.
std::vector<TaskId> TakenOver(const RoundState& state) {
  std::vector<TaskId> taken(state.cells.size(), 0);
  for (const auto& [id, task] : state.tasks) {
    if (!IsSecond(task)) continue;
    for (const ExpertIndex expert : task.assignment.experts) {
      taken[static_cast<std::size_t>(ShardOfExpert(expert))] = id;
    }
  }
  return taken;
}

std::vector<CellCount> CountCells(const RoundState& state, bool deterministic) {
  std::vector<CellCount> counts(state.cells.size());
  const std::vector<TaskId> taken_over = TakenOver(state);
  for (const auto& [id, task] : state.tasks) {
    const bool gone = task.status == TaskStatus::kLost || task.status == TaskStatus::kExpired;
    for (const ShardReference& shard : task.assignment.shards) {
      const auto cell = static_cast<std::size_t>(shard.shard);
      // A client's trunk counts once a round.
      if (shard.shard == kTrunkShard && IsSecond(task)) continue;
      // Whoever has a successor is one of the expert's clients only if it comes back.
      if (gone && id < taken_over[cell]) continue;
      CellCount& count = counts[cell];
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

std::string MissingClients(const RoundState& state) {
  std::string names;
  for (const auto& [id, task] : state.tasks) {
    if (task.status == TaskStatus::kAccepted) continue;
    names += (names.empty() ? "" : ", ") + task.assignment.client;
  }
  return names;
}

}  // namespace

int Quorum(double share, int clients) {
  // A product that misses a whole number by rounding must not ask for one client more.
  return std::max(1, static_cast<int>(std::ceil(share * clients - 1e-9)));
}

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
  RoundState& state = step.state;
  const auto give_up = [&](std::map<TaskId, TaskState>& tasks) {
    const auto found = tasks.find(event.task);
    if (found == tasks.end()) return false;
    TaskState& task = found->second;
    if (task.assignment.client != event.client) return false;
    // That of a client that left may be given back for it.
    if (task.status != TaskStatus::kOpen && task.status != TaskStatus::kLost) return false;
    task.status = TaskStatus::kLost;
    step.changed = true;
    return true;
  };
  for (auto& [version, evaluation] : state.evaluations) give_up(evaluation.tasks);
  // A deterministic run waits for lost clients; this one is here, and will not do it.
  if (give_up(state.tasks) && step.options.deterministic) {
    AbortAttempt(step, AbortReason::kIncomplete,
                 "client '" + event.client + "' returned " + TaskName(event.task) + ": " +
                     event.why.substr(0, kMaxWhyBytes));
  }
}

bool CloseRound(Stepping& step) {
  RoundState& state = step.state;
  ReassignExperts(step);
  if (!UpdateCells(step)) return false;
  step.changed = true;
  const int accepted =
      static_cast<int>(std::count_if(state.tasks.begin(), state.tasks.end(), [](const auto& entry) {
        return entry.second.status == TaskStatus::kAccepted && !IsSecond(entry.second);
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

}  // namespace fedmoe
