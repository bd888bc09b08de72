// Evaluation of the versions published: tasks, metrics, reports in round order.
#include <algorithm>

#include "federation/claims.h"
#include "federation/round_internal.h"

namespace fedmoe {
namespace {

struct Sums {
  double correct = 0.0;
  double loss = 0.0;
  double examples = 0.0;

  void Add(const EvaluationResult& result) {
    correct += result.correct;
    loss += result.loss;
    examples += result.examples;
  }
};

bool UsesEvaluator(EvaluationMode mode) {
  return mode == EvaluationMode::kEvaluator || mode == EvaluationMode::kBoth;
}

bool UsesClients(EvaluationMode mode) {
  return mode == EvaluationMode::kClients || mode == EvaluationMode::kBoth;
}

bool IsDue(const RoundState& state, const RunOptions& options) {
  const int every = std::max(1, options.evaluation.every_rounds);
  return state.version % every == 0 || state.version >= options.rounds || state.stop_requested;
}

void SetReason(Metric& accuracy, Metric& loss, const std::string& reason) {
  accuracy.reason = reason;
  loss.reason = reason;
}

void SetValues(Metric& accuracy, Metric& loss, const Sums& sums) {
  SetReason(accuracy, loss, "");
  accuracy.value = sums.correct / sums.examples;
  loss.value = sums.loss / sums.examples;
}

// An evaluator's figure speaks for the checkpoint, so it gets the exact weights; a trainer
// evaluates what it trains from, which it has already.
TaskAssignment EvaluationTask(RoundState& state, const ClientRecord& client,
                              std::vector<ExpertIndex> experts, const RunOptions& options) {
  TaskAssignment task;
  task.task = state.next_task++;
  task.kind = TaskKind::kEvaluate;
  task.client = client.client;
  task.round = state.version;
  task.version = state.version;
  task.experts = std::move(experts);
  const bool exact = client.role == ClientRole::kEvaluator;
  task.shards = HeldShards(state, options.spec, task.experts,
                           exact ? DownloadOptions{} : options.training.download);
  task.training = options.training;
  task.seed = options.seed;
  task.timeout_ms = options.evaluation.deadline_ms;
  task.last_committed_task = client.last_committed_task;
  return task;
}

// What the global model consists of beside the trunk: under strategy none no expert is ever
// trained, and none takes part.
std::vector<ExpertIndex> TrainedExperts(const RunOptions& options) {
  std::vector<ExpertIndex> experts;
  if (options.alignment.strategy == AlignmentStrategy::kNone) return experts;
  for (ExpertIndex expert = 0; expert < options.spec.experts; ++expert) experts.push_back(expert);
  return experts;
}

// The evaluator's task, or the reason why there is none.
void AddEvaluatorTask(RoundState& state, EvaluationState& evaluation, const RunOptions& options) {
  Metric& accuracy = evaluation.report.global_accuracy;
  Metric& loss = evaluation.report.global_loss;
  if (!UsesEvaluator(options.evaluation.mode)) return SetReason(accuracy, loss, "not_configured");
  if (options.spec.gate_mode == GateMode::kLocal) return SetReason(accuracy, loss, "local_gate");
  if (!IsDue(state, options)) return SetReason(accuracy, loss, "not_due");
  for (const auto& [id, client] : state.clients) {
    if (!client.connected || client.role != ClientRole::kEvaluator) continue;
    TaskState task;
    task.assignment = EvaluationTask(state, client, TrainedExperts(options), options);
    task.instance = client.instance;
    evaluation.evaluator_task = task.assignment.task;
    evaluation.tasks.emplace(task.assignment.task, std::move(task));
    return;
  }
  SetReason(accuracy, loss, "no_evaluator");
}

// A task for each connected trainer that has experts from a committed round, or the reason why
// there is none.
void AddClientTasks(RoundState& state, EvaluationState& evaluation, const RunOptions& options) {
  Metric& accuracy = evaluation.report.personalised_accuracy;
  Metric& loss = evaluation.report.personalised_loss;
  if (!UsesClients(options.evaluation.mode)) return SetReason(accuracy, loss, "not_configured");
  if (!IsDue(state, options)) return SetReason(accuracy, loss, "not_due");
  SetReason(accuracy, loss, "no_clients");
  for (const auto& [id, client] : state.clients) {
    if (!client.connected || client.role != ClientRole::kTrainer) continue;
    if (client.last_committed_task == 0) continue;
    SetReason(accuracy, loss, "");
    TaskState task;
    task.assignment = EvaluationTask(state, client, client.experts, options);
    task.instance = client.instance;
    evaluation.tasks.emplace(task.assignment.task, std::move(task));
  }
}

// Trainers evaluate the newest version only.
std::vector<TaskId> ExpireClientTasks(RoundState& state) {
  std::vector<TaskId> expired;
  for (auto& [version, evaluation] : state.evaluations) {
    for (auto& [id, task] : evaluation.tasks) {
      if (task.status != TaskStatus::kOpen || id == evaluation.evaluator_task) continue;
      task.status = TaskStatus::kExpired;
      expired.push_back(id);
    }
  }
  return expired;
}

std::vector<TaskId> ExpireTasks(EvaluationState& evaluation) {
  std::vector<TaskId> expired;
  for (auto& [id, task] : evaluation.tasks) {
    if (task.status != TaskStatus::kOpen) continue;
    task.status = TaskStatus::kExpired;
    expired.push_back(id);
  }
  return expired;
}

bool IsSettled(const EvaluationState& evaluation) {
  return std::none_of(evaluation.tasks.begin(), evaluation.tasks.end(),
                      [](const auto& entry) { return entry.second.status == TaskStatus::kOpen; });
}

// Why the task has no result.
std::string MissingReason(const TaskState& task, const char* lost, const char* expired) {
  if (task.status == TaskStatus::kRejected) return "bad_result";
  return task.status == TaskStatus::kLost ? lost : expired;
}

void FillGlobal(EvaluationState& evaluation, const char* expired_reason) {
  if (evaluation.evaluator_task == 0) return;
  Metric& accuracy = evaluation.report.global_accuracy;
  Metric& loss = evaluation.report.global_loss;
  const auto result = evaluation.results.find(evaluation.evaluator_task);
  if (result == evaluation.results.end()) {
    const TaskState& task = evaluation.tasks.at(evaluation.evaluator_task);
    return SetReason(accuracy, loss, MissingReason(task, "evaluator_lost", expired_reason));
  }
  Sums sums;
  sums.Add(result->second);
  SetValues(accuracy, loss, sums);
}

void FillPersonalised(EvaluationState& evaluation, const char* expired_reason) {
  Sums sums;
  std::string reason;  // of the last task, where no task has a result
  for (const auto& [id, task] : evaluation.tasks) {
    if (id == evaluation.evaluator_task) continue;
    const auto result = evaluation.results.find(id);
    if (result != evaluation.results.end()) {
      sums.Add(result->second);
    } else if (reason != expired_reason) {
      reason = MissingReason(task, "clients_lost", expired_reason);
    }
  }
  Metric& accuracy = evaluation.report.personalised_accuracy;
  Metric& loss = evaluation.report.personalised_loss;
  if (sums.examples > 0.0) return SetValues(accuracy, loss, sums);
  if (!reason.empty()) SetReason(accuracy, loss, reason);
}

void ReportFirst(Stepping& step, const char* expired_reason) {
  const auto first = step.state.evaluations.begin();
  FillGlobal(first->second, expired_reason);
  FillPersonalised(first->second, expired_reason);
  step.Emit(Report{.report = std::move(first->second.report)});
  step.state.evaluations.erase(first);
  step.changed = true;
}

// Claims of a client; NaN fails every comparison.
bool IsSane(const EvaluationReceived& event) {
  return event.examples > 0.0 && event.examples <= static_cast<double>(kMaxClaimedCount) &&
         event.correct >= 0.0 && event.correct <= event.examples && event.loss >= 0.0 &&
         event.loss <= kMaxClaimedLoss * event.examples;
}

}  // namespace

void StartEvaluation(Stepping& step, RoundReport report) {
  RoundState& state = step.state;
  step.Cancel(ExpireClientTasks(state), CancelReason::kRoundOver);
  EvaluationState& evaluation = state.evaluations[state.version];
  evaluation.report = std::move(report);
  const Milliseconds deadline_ms = step.options.evaluation.deadline_ms;
  evaluation.deadline_ms = deadline_ms > 0 ? state.now_ms + deadline_ms : -1;
  AddEvaluatorTask(state, evaluation, step.options);
  AddClientTasks(state, evaluation, step.options);
  if (evaluation.tasks.empty()) return;
  Dispatch dispatch;
  for (const auto& [id, task] : evaluation.tasks) dispatch.tasks.push_back(task.assignment);
  step.Emit(std::move(dispatch));
}

void OnEvaluation(Stepping& step, const EvaluationReceived& event) {
  for (auto& [version, evaluation] : step.state.evaluations) {
    const auto found = evaluation.tasks.find(event.task);
    if (found == evaluation.tasks.end()) continue;
    TaskState& task = found->second;
    if (task.assignment.client != event.client) return;
    if (task.status != TaskStatus::kOpen && task.status != TaskStatus::kLost) return;
    step.changed = true;
    if (!IsSane(event)) {
      task.status = TaskStatus::kRejected;
      task.reject = RejectReason::kBadFeedback;
      return;
    }
    task.status = TaskStatus::kAccepted;
    evaluation.results[event.task] = EvaluationResult{.task = event.task,
                                                      .correct = event.correct,
                                                      .loss = event.loss,
                                                      .examples = event.examples};
    return;
  }
}

void AdvanceEvaluations(Stepping& step) {
  RoundState& state = step.state;
  std::vector<TaskId> expired;
  for (auto& [version, evaluation] : state.evaluations) {
    if (evaluation.deadline_ms < 0 || state.now_ms < evaluation.deadline_ms) continue;
    const std::vector<TaskId> tasks = ExpireTasks(evaluation);
    expired.insert(expired.end(), tasks.begin(), tasks.end());
  }
  if (!expired.empty()) step.changed = true;
  step.Cancel(std::move(expired), CancelReason::kRoundOver);
  while (!state.evaluations.empty() && IsSettled(state.evaluations.begin()->second)) {
    ReportFirst(step, "timed_out");
  }
}

std::vector<TaskId> ExpireEvaluations(RoundState& state) {
  std::vector<TaskId> expired;
  for (auto& [version, evaluation] : state.evaluations) {
    const std::vector<TaskId> tasks = ExpireTasks(evaluation);
    expired.insert(expired.end(), tasks.begin(), tasks.end());
  }
  return expired;
}

void ReportEvaluations(Stepping& step, const char* expired_reason) {
  while (!step.state.evaluations.empty()) ReportFirst(step, expired_reason);
}

}  // namespace fedmoe
