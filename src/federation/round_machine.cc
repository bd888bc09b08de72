// Step: which event does what, and what then follows by itself.
#include "federation/round_machine.h"

#include <algorithm>

#include "federation/round_internal.h"

namespace fedmoe {
namespace {

// Signs of life move a client's time only in steps of this share of the timeout, so that few of
// them need to be journaled and a replay is exact all the same.
constexpr Milliseconds kHeartbeatSteps = 8;

ClientRecord* FindSession(RoundState& state, const ClientId& client, std::uint64_t session) {
  const auto found = state.clients.find(client);
  if (found == state.clients.end()) return nullptr;
  if (!found->second.connected || found->second.session != session) return nullptr;
  return &found->second;
}

void OnHeartbeat(Stepping& step, const Heartbeat& event) {
  ClientRecord* client = FindSession(step.state, event.client, event.session);
  if (client == nullptr) return;
  const Milliseconds grain_ms =
      std::max<Milliseconds>(1, step.options.participation.heartbeat_timeout_ms / kHeartbeatSteps);
  if (step.state.now_ms - client->last_heard_ms < grain_ms) return;
  client->last_heard_ms = step.state.now_ms;
  step.changed = true;
}

void OnLeft(Stepping& step, const ClientLeft& event) {
  ClientRecord* client = FindSession(step.state, event.client, event.session);
  if (client == nullptr) return;
  client->connected = false;
  LoseTasks(step.state, {event.client});
  step.changed = true;
}

// Clients without a sign of life are lost.
void OnTick(Stepping& step) {
  RoundState& state = step.state;
  const Milliseconds timeout_ms = step.options.participation.heartbeat_timeout_ms;
  if (timeout_ms <= 0 || state.phase == Phase::kFinished) return;
  std::set<ClientId> silent;
  for (auto& [id, client] : state.clients) {
    if (!client.connected || state.now_ms - client.last_heard_ms < timeout_ms) continue;
    client.connected = false;
    silent.insert(id);
  }
  if (silent.empty()) return;
  step.changed = true;
  step.Cancel(LoseTasks(state, silent), CancelReason::kTimedOut);
}

void OnStop(Stepping& step, const StopRequested& event) {
  RoundState& state = step.state;
  if (event.drain) {
    if (!state.stop_requested) step.changed = true;
    state.stop_requested = true;
    return;
  }
  if (state.round != 0) AbortInHand(step, AbortReason::kRunStopped, "the run was stopped");
  FinishRun(step, RunStatus::kStopped,
            "stopped after round " + std::to_string(state.version) + " as requested");
}

// A finished run that has rounds left goes on. Its clients know it as over; they must register
// again.
void Reopen(RoundState& state) {
  state.phase = Phase::kSelection;
  state.status = RunStatus::kRunning;
  state.status_detail.clear();
  state.attempt = 1;
  state.sitting_out.clear();
  for (auto& [id, client] : state.clients) client.connected = false;
}

void OnResumed(Stepping& step, Milliseconds passed_ms) {
  RoundState& state = step.state;
  step.changed = true;
  const bool rounds_left = state.version < step.options.rounds;
  state.stop_requested = false;
  if (state.phase == Phase::kFinished) {
    if (state.status != RunStatus::kCompleted || rounds_left) Reopen(state);
  } else if (state.phase == Phase::kDraining && rounds_left) {
    state.phase = Phase::kSelection;
  }
  state.started_ms += passed_ms;
  state.first_started_ms += passed_ms;
  for (Milliseconds& quorum_ms : state.cell_quorum_ms) {
    if (quorum_ms >= 0) quorum_ms += passed_ms;
  }
  for (auto& [version, evaluation] : state.evaluations) {
    if (evaluation.deadline_ms >= 0) evaluation.deadline_ms += passed_ms;
  }
  for (auto& [id, client] : state.clients) {
    if (client.connected) client.last_heard_ms = state.now_ms;
  }
}

bool LeaveSelection(Stepping& step) {
  if (step.state.version < step.options.rounds && !step.state.stop_requested) {
    return StartRound(step);
  }
  step.state.phase = Phase::kDraining;
  step.changed = true;
  return true;
}

bool FinishDrained(Stepping& step) {
  const RoundState& state = step.state;
  if (!state.evaluations.empty()) return false;
  if (state.version >= step.options.rounds) {
    FinishRun(step, RunStatus::kCompleted, "");
  } else {
    FinishRun(step, RunStatus::kStopped,
              "stopped after round " + std::to_string(state.version) + " as requested");
  }
  return true;
}

// What follows by itself, until nothing moves. Ends: every turn but a started round leaves a phase
// for a later one, and a fresh round has open tasks.
void Advance(Stepping& step) {
  for (bool moved = true; moved;) {
    AdvanceEvaluations(step);
    switch (step.state.phase) {
      case Phase::kSelection:
        moved = LeaveSelection(step);
        break;
      case Phase::kReporting:
        moved = CloseRound(step);
        break;
      case Phase::kDraining:
        moved = FinishDrained(step);
        break;
      case Phase::kAggregating:
      case Phase::kCheckpointing:
      case Phase::kFinished:
        moved = false;
        break;
    }
  }
}

// One overload an event; `passed_ms` since the event before.
struct Handler {
  Stepping& step;
  Milliseconds passed_ms = 0;

  void operator()(const ClientJoined& event) const { OnJoined(step, event); }
  void operator()(const Heartbeat& event) const { OnHeartbeat(step, event); }
  void operator()(const ClientLeft& event) const { OnLeft(step, event); }
  void operator()(const UpdateReceived& event) const { OnUpdate(step, event); }
  void operator()(const EvaluationReceived& event) const { OnEvaluation(step, event); }
  void operator()(const TaskReturned& event) const { OnTaskReturned(step, event); }
  void operator()(const Aggregated& event) const { OnAggregated(step, event); }
  void operator()(const AggregationFailed& event) const { OnAggregationFailed(step, event); }
  void operator()(const CheckpointWritten& event) const { OnCheckpointWritten(step, event); }
  void operator()(const CheckpointFailed& event) const { OnCheckpointFailed(step, event); }
  void operator()(const StopRequested& event) const {
    if (step.state.phase != Phase::kFinished) OnStop(step, event);
  }
  void operator()(const Resumed&) const { OnResumed(step, passed_ms); }
  void operator()(const Tick&) const { OnTick(step); }
};

void AddOpenTasks(const std::map<TaskId, TaskState>& tasks, Dispatch& dispatch) {
  for (const auto& [id, task] : tasks) {
    if (task.status == TaskStatus::kOpen) dispatch.tasks.push_back(task.assignment);
  }
}

// Keeps the earlier of the two; -1 is never.
void Earlier(Milliseconds& next_ms, Milliseconds candidate_ms) {
  if (next_ms < 0 || candidate_ms < next_ms) next_ms = candidate_ms;
}

}  // namespace

Milliseconds TimeOf(const Event& event) {
  return std::visit([](const auto& kind) { return kind.at_ms; }, event);
}

RoundState InitialState(const RunOptions& options, std::vector<Digest> shards) {
  RoundState state;
  state.shards = std::move(shards);
  state.fitness.experts = options.spec.experts;
  state.fitness.layers = options.spec.layers;
  state.load = ExpertLoad::Of(options.spec.experts);
  return state;
}

StepResult Step(RoundState state, const Event& event, const RunOptions& options) {
  Stepping step{.state = std::move(state), .options = options};
  const Milliseconds before_ms = step.state.now_ms;
  step.state.now_ms = std::max(before_ms, TimeOf(event));
  std::visit(Handler{.step = step, .passed_ms = step.state.now_ms - before_ms}, event);
  if (!std::holds_alternative<Heartbeat>(event)) Advance(step);
  return StepResult{
      .state = std::move(step.state), .actions = std::move(step.actions), .changed = step.changed};
}

std::vector<Action> Outstanding(const RoundState& state, const RunOptions& options) {
  std::vector<Action> actions;
  if (state.phase == Phase::kFinished) {
    if (state.status == RunStatus::kCompleted && state.version >= options.rounds) {
      actions.push_back(Finish{.status = state.status, .detail = state.status_detail});
    }
    return actions;
  }
  Dispatch dispatch;
  AddOpenTasks(state.tasks, dispatch);
  for (const auto& [version, evaluation] : state.evaluations) {
    AddOpenTasks(evaluation.tasks, dispatch);
  }
  std::sort(dispatch.tasks.begin(), dispatch.tasks.end(),
            [](const TaskAssignment& a, const TaskAssignment& b) { return a.task < b.task; });
  if (!dispatch.tasks.empty()) actions.push_back(std::move(dispatch));
  if (state.phase == Phase::kAggregating || state.phase == Phase::kCheckpointing) {
    actions.push_back(AggregateAction(state, options));
  }
  return actions;
}

Milliseconds NextTickMs(const RoundState& state, const RunOptions& options) {
  if (state.phase == Phase::kFinished) return -1;
  const ParticipationOptions& participation = options.participation;
  Milliseconds next_ms = -1;
  if (participation.heartbeat_timeout_ms > 0) {
    for (const auto& [id, client] : state.clients) {
      if (!client.connected) continue;
      Earlier(next_ms, client.last_heard_ms + participation.heartbeat_timeout_ms);
    }
  }
  if (state.phase == Phase::kReporting) {
    if (participation.deadline_ms > 0) {
      Earlier(next_ms, state.started_ms + participation.deadline_ms);
    }
    for (std::size_t i = 0; i < state.cells.size(); ++i) {
      if (state.cells[i] != CellState::kOpen || state.cell_quorum_ms[i] < 0) continue;
      if (options.deterministic) continue;
      Earlier(next_ms, state.cell_quorum_ms[i] + participation.grace_ms);
    }
  }
  for (const auto& [version, evaluation] : state.evaluations) {
    const bool open =
        std::any_of(evaluation.tasks.begin(), evaluation.tasks.end(),
                    [](const auto& entry) { return entry.second.status == TaskStatus::kOpen; });
    if (open && evaluation.deadline_ms >= 0) Earlier(next_ms, evaluation.deadline_ms);
  }
  return next_ms;
}

}  // namespace fedmoe
