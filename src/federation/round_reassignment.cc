// An expert whose only holder vanished is given to another client in the same round.
#include <algorithm>
#include <map>
#include <set>

#include "federation/round_internal.h"

namespace fedmoe {
namespace {

// A client that has reported and may do more.
struct StandIn {
  std::size_t row = 0;  // in the cohort
  TaskId first = 0;     // its accepted task
  int room = 0;         // experts that it can hold, and train before the deadline
  bool busy = false;    // with a second task
  std::set<ExpertIndex> had;
  std::vector<ExpertIndex> given;
};

// Experts of open or abandoned cells that somebody was to train and nobody will.
std::vector<ExpertIndex> Orphans(const RoundState& state) {
  std::set<ExpertIndex> lost;
  std::set<ExpertIndex> alive;
  for (const auto& [id, task] : state.tasks) {
    if (task.status == TaskStatus::kRejected) continue;
    const bool gone = task.status == TaskStatus::kLost || task.status == TaskStatus::kExpired;
    std::set<ExpertIndex>& experts = gone ? lost : alive;
    experts.insert(task.assignment.experts.begin(), task.assignment.experts.end());
  }
  std::vector<ExpertIndex> orphans;
  for (const ExpertIndex expert : lost) {
    const CellState cell = state.cells[static_cast<std::size_t>(ShardOfExpert(expert))];
    const bool closed = cell != CellState::kOpen && cell != CellState::kAbandoned;
    if (!alive.contains(expert) && !closed) orphans.push_back(expert);
  }
  return orphans;
}

// Whether enough of the cohort have reported, or still may, for a commit.
bool MayCommit(const RoundState& state, const RunOptions& options) {
  const auto reporting =
      std::count_if(state.tasks.begin(), state.tasks.end(), [](const auto& entry) {
        const TaskStatus status = entry.second.status;
        return !IsSecond(entry.second) &&
               (status == TaskStatus::kAccepted || status == TaskStatus::kOpen);
      });
  return reporting >= Quorum(options.participation.quorum, static_cast<int>(state.cohort.size()));
}

// By client. `remaining_ms` until the deadline; 0 for none.
std::map<ClientId, StandIn> FindStandIns(const RoundState& state, const RunOptions& options,
                                         Milliseconds remaining_ms) {
  std::map<ClientId, StandIn> found;
  for (const auto& [id, task] : state.tasks) {
    const ClientId& name = task.assignment.client;
    if (!IsSecond(task)) {
      const ClientRecord& client = state.clients.at(name);
      const bool there = client.connected && client.role == ClientRole::kTrainer &&
                         client.instance == task.instance;
      if (task.status != TaskStatus::kAccepted || !there) continue;
      StandIn& stand_in = found[name];
      const auto at = std::lower_bound(state.cohort.begin(), state.cohort.end(), name);
      stand_in.row = static_cast<std::size_t>(at - state.cohort.begin());
      stand_in.first = id;
      stand_in.room =
          DeriveCapacity(client.profile, options.spec, options.training, remaining_ms).experts;
    }
    const auto known = found.find(name);
    if (known == found.end()) continue;
    if (task.status == TaskStatus::kOpen) known->second.busy = true;
    known->second.had.insert(task.assignment.experts.begin(), task.assignment.experts.end());
  }
  return found;
}

// The one that suits the expert best by the fitness that the plan used; of equals the first by
// name. A client never gets an expert twice in an attempt: so giving tasks back comes to an end.
StandIn* BestFor(ExpertIndex expert, const RoundState& state,
                 std::map<ClientId, StandIn>& stand_ins) {
  StandIn* best = nullptr;
  const auto fitness = [&](const StandIn& one) {
    return state.selected[one.row].fitness[static_cast<std::size_t>(expert)];
  };
  for (auto& [client, one] : stand_ins) {
    if (one.busy || one.had.contains(expert)) continue;
    if (static_cast<int>(one.given.size()) >= one.room) continue;
    if (best == nullptr || fitness(one) > fitness(*best)) best = &one;
  }
  return best;
}

}  // namespace

bool IsSecond(const TaskState& task) { return task.assignment.follows != 0; }

void ReassignExperts(Stepping& step) {
  RoundState& state = step.state;
  const ParticipationOptions& participation = step.options.participation;
  if (step.options.deterministic || !participation.reassign) return;
  Milliseconds remaining_ms = 0;
  if (participation.deadline_ms > 0) {
    remaining_ms = state.started_ms + participation.deadline_ms - state.now_ms;
    if (remaining_ms <= 0) return;
  }
  const std::vector<ExpertIndex> orphans = Orphans(state);
  if (orphans.empty() || !MayCommit(state, step.options)) return;
  std::map<ClientId, StandIn> stand_ins = FindStandIns(state, step.options, remaining_ms);
  for (const ExpertIndex expert : orphans) {
    StandIn* best = BestFor(expert, state, stand_ins);
    if (best != nullptr) best->given.push_back(expert);
  }
  Dispatch dispatch;
  for (auto& [client, one] : stand_ins) {
    if (one.given.empty()) continue;
    TaskAssignment task = MakeTrainTask(state, client, std::move(one.given), step.options);
    task.follows = one.first;
    task.timeout_ms = remaining_ms;
    TaskState& entry = state.tasks[task.task];
    entry.assignment = task;
    entry.instance = state.clients.at(client).instance;
    dispatch.tasks.push_back(std::move(task));
  }
  if (dispatch.tasks.empty()) return;
  step.changed = true;
  step.Emit(std::move(dispatch));
}

std::vector<Reassignment> TellReassigned(const RoundState& state) {
  std::vector<Reassignment> reassigned;
  std::map<ExpertIndex, ClientId> holder;  // the latest so far who did not report
  for (const auto& [id, task] : state.tasks) {
    for (const ExpertIndex expert : task.assignment.experts) {
      if (IsSecond(task)) {
        reassigned.push_back({.expert = expert,
                              .from = holder[expert],
                              .to = task.assignment.client,
                              .outcome = OutcomeOf(task)});
      }
      holder[expert] = task.assignment.client;
    }
  }
  return reassigned;
}

}  // namespace fedmoe
