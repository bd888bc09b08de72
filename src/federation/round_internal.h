// What the files of the round machine share. Not for others.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "federation/round_machine.h"

namespace fedmoe {

// A step in the making.
struct Stepping {
  RoundState state;
  const RunOptions& options;
  std::vector<Action> actions = {};
  bool changed = false;

  void Emit(Action action) { actions.push_back(std::move(action)); }
  // Nothing for no tasks.
  void Cancel(std::vector<TaskId> tasks, CancelReason reason) {
    if (!tasks.empty()) Emit(CancelTasks{.tasks = std::move(tasks), .reason = reason});
  }
};

// ---- round_selection.cc

void OnJoined(Stepping& step, const ClientJoined& event);
// Draws the cohort, aligns and dispatches if enough trainers are there; false if nothing moved.
bool StartRound(Stepping& step);
// References to the trunk of the state's version and to the experts held.
std::vector<ShardReference> HeldShards(const RoundState& state, const ModelSpec& spec,
                                       const std::vector<ExpertIndex>& experts,
                                       const DownloadOptions& download);

// A train task of the round in hand with a new id; the caller adds what is special about it.
TaskAssignment MakeTrainTask(RoundState& state, const ClientId& client,
                             std::vector<ExpertIndex> experts, const RunOptions& options);

// ---- round_reassignment.cc

// Gives experts that nobody is left to report to clients that have reported, as second tasks.
void ReassignExperts(Stepping& step);
bool IsSecond(const TaskState& task);
// What became of second tasks, for the report.
std::vector<Reassignment> TellReassigned(const RoundState& state);

// ---- round_reporting.cc

// Of `clients`, how many make the share; at least one.
int Quorum(double share, int clients);

void OnUpdate(Stepping& step, const UpdateReceived& event);
void OnTaskReturned(Stepping& step, const TaskReturned& event);
// Closes cells; once all are closed, begins the commit or aborts. False if the phase stayed.
bool CloseRound(Stepping& step);
// Open tasks of these clients, train and evaluate, become kLost. Returns their ids, ascending.
std::vector<TaskId> LoseTasks(RoundState& state, const std::set<ClientId>& clients);

// ---- round_commit.cc

void OnAggregated(Stepping& step, const Aggregated& event);
void OnAggregationFailed(Stepping& step, const AggregationFailed& event);
void OnCheckpointWritten(Stepping& step, const CheckpointWritten& event);
void OnCheckpointFailed(Stepping& step, const CheckpointFailed& event);
Aggregate AggregateAction(const RoundState& state, const RunOptions& options);
// "accepted", "lost", "expired", or a RejectReason's name.
const char* OutcomeOf(const TaskState& task);
// The open train tasks, ascending.
std::vector<TaskId> OpenTasks(const RoundState& state);
// An attempt that did not come off: the same round is tried again, up to the limit.
void AbortAttempt(Stepping& step, AbortReason reason, const std::string& detail);
// The round in hand ends without a trace but its attempt count and
// who sits out.
void AbortInHand(Stepping& step, AbortReason reason, const std::string& detail);
// Cancels what is open, reports what is due, ends the run.
void FinishRun(Stepping& step, RunStatus status, const std::string& detail);

// ---- round_evaluation.cc

// Begins the evaluation of the version just published, whose round `report` tells of.
void StartEvaluation(Stepping& step, RoundReport report);
void OnEvaluation(Stepping& step, const EvaluationReceived& event);
// Expires what passed its deadline, then reports, in round order, what is settled.
void AdvanceEvaluations(Stepping& step);
// The run is over: open evaluation tasks expire without further ado. Returns their ids.
std::vector<TaskId> ExpireEvaluations(RoundState& state);
// Reports every evaluation as it stands; all tasks must be settled.
void ReportEvaluations(Stepping& step, const char* expired_reason);

}  // namespace fedmoe
