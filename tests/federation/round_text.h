// Round states and actions as stable text: compared by replay tests, printed by scenarios.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include "federation/round_machine.h"

namespace fedmoe {

inline std::string Exact(double value) {
  char text[40];
  std::snprintf(text, sizeof(text), "%.17g", value);
  return text;
}

inline std::string Short(double value) {
  char text[40];
  std::snprintf(text, sizeof(text), "%.4g", value);
  return text;
}

inline std::string ItemText(const std::string& item) { return item; }
inline std::string ItemText(double item) { return Exact(item); }
template <typename T>
std::string ItemText(T item) {
  return std::to_string(item);
}

// "[1 2 3]"
template <typename Items>
std::string ListText(const Items& items) {
  std::string text = "[";
  for (const auto& item : items) text += (text.size() > 1 ? " " : "") + ItemText(item);
  return text + "]";
}

inline std::string CellsText(const std::vector<CellState>& cells) {
  std::vector<std::string> names;
  for (const CellState cell : cells) names.emplace_back(CellStateName(cell));
  return ListText(names);
}

inline const char* TaskStatusText(TaskStatus status) {
  switch (status) {
    case TaskStatus::kOpen:
      return "open";
    case TaskStatus::kAccepted:
      return "accepted";
    case TaskStatus::kRejected:
      return "rejected";
    case TaskStatus::kLost:
      return "lost";
    case TaskStatus::kExpired:
      return "expired";
  }
  return "unknown";
}

inline std::string MetricText(const Metric& metric) {
  return metric.value ? Short(*metric.value) : "null(" + metric.reason + ")";
}

// Nothing, or " reassigned=[3:c>a=accepted]".
inline std::string ReassignedText(const RoundReport& report) {
  std::vector<std::string> texts;
  for (const Reassignment& one : report.reassigned) {
    texts.push_back(std::to_string(one.expert) + ":" + one.from + ">" + one.to + "=" + one.outcome);
  }
  return texts.empty() ? "" : " reassigned=" + ListText(texts);
}

// ---- Actions, a line each; a Dispatch has a line a task.

inline std::string TaskText(const TaskAssignment& task) {
  const bool train = task.kind == TaskKind::kTrain;
  std::string text = "dispatch " + task.client + " task=" + std::to_string(task.task);
  text += train ? " train round=" + std::to_string(task.round) +
                      " attempt=" + std::to_string(task.attempt)
                : " evaluate version=" + std::to_string(task.version);
  text += " experts=" + ListText(task.experts);
  if (task.last_committed_task != 0) text += " after=" + std::to_string(task.last_committed_task);
  if (task.follows != 0) text += " follows=" + std::to_string(task.follows);
  return text;
}

struct ActionText {
  std::string operator()(const AdmitClient& a) const {
    return "admit " + a.client + " session=" + std::to_string(a.session) +
           " experts=" + std::to_string(a.capacity.experts) + (a.superseded ? " superseded" : "");
  }
  std::string operator()(const TurnAwayClient& a) const {
    return "turn-away " + a.client + " " + std::string(StatusCodeName(a.code)) + ": " + a.message;
  }
  std::string operator()(const Dispatch& a) const {
    std::string text;
    for (const TaskAssignment& task : a.tasks) text += (text.empty() ? "" : "\n") + TaskText(task);
    return text;
  }
  std::string operator()(const AcceptUpdate& a) const {
    return "accept " + a.client + " task=" + std::to_string(a.task) +
           (a.duplicate ? " duplicate" : "");
  }
  std::string operator()(const RejectUpdate& a) const {
    return "reject " + a.client + " task=" + std::to_string(a.task) + " " +
           RejectReasonName(a.verdict.reason) + ": " + a.verdict.detail;
  }
  std::string operator()(const CancelTasks& a) const {
    return "cancel tasks=" + ListText(a.tasks) + " " + CancelReasonName(a.reason);
  }
  std::string operator()(const Aggregate& a) const {
    return "aggregate round=" + std::to_string(a.round) +
           " base=" + std::to_string(a.base_version) + " updates=" + ListText(a.plan.updates) +
           " shards=" + ListText(a.plan.changed_shards);
  }
  std::string operator()(const WriteCheckpoint& a) const {
    return "write-checkpoint round=" + std::to_string(a.round);
  }
  std::string operator()(const PublishModel& a) const {
    return "publish version=" + std::to_string(a.version);
  }
  std::string operator()(const AbortRound& a) const {
    return "abort round=" + std::to_string(a.round) + " attempt=" + std::to_string(a.attempt) +
           " " + AbortReasonName(a.reason) + ": " + a.detail;
  }
  std::string operator()(const Report& a) const {
    const RoundReport& report = a.report;
    std::vector<std::string> clients;
    for (const ClientReport& client : report.clients) {
      clients.push_back(client.client + "=" + client.outcome);
    }
    return "report round=" + std::to_string(report.round) +
           " attempts=" + std::to_string(report.attempts) +
           " accepted=" + std::to_string(report.accepted) + " clients=" + ListText(clients) +
           " cells=" + CellsText(report.cells) + ReassignedText(report) +
           " global=" + MetricText(report.global_accuracy) +
           " personalised=" + MetricText(report.personalised_accuracy);
  }
  std::string operator()(const Finish& a) const {
    return std::string("finish ") + RunStatusName(a.status) +
           (a.detail.empty() ? "" : ": " + a.detail);
  }
};

inline std::string ToText(const Action& action) { return std::visit(ActionText{}, action); }

inline std::string ToText(const std::vector<Action>& actions) {
  std::string text;
  for (const Action& action : actions) text += ToText(action) + "\n";
  return text;
}

// ---- The whole state. Two states are equal if and only if their texts are.

inline std::string Dump(const TaskState& task) {
  const TrainingFeedback& f = task.feedback;
  std::string text = TaskText(task.assignment) + " of " + task.instance + " " +
                     TaskStatusText(task.status) + " reject=" + RejectReasonName(task.reject) +
                     " rate=" + Exact(task.assignment.training.learning_rate) +
                     " timeout=" + std::to_string(task.assignment.timeout_ms) + " shards=";
  for (const ShardReference& shard : task.assignment.shards) {
    text += std::to_string(shard.shard) + ":" + shard.digest + ":" + std::to_string(shard.bytes);
  }
  return text + " feedback=" + std::to_string(f.examples) + "," + std::to_string(f.steps) + "," +
         Exact(f.train_loss) + "," + ListText(f.tokens) + ListText(f.expert_loss) +
         ListText(f.expert_accuracy) + ListText(f.affinity) + Exact(f.down_bytes_per_s) + "," +
         Exact(f.up_bytes_per_s) + "\n";
}

inline std::string Dump(const AlignmentPlan& plan) {
  std::string text;
  for (const Assignment& a : plan.assignments) {
    text += std::to_string(a.client) + ">" + std::to_string(a.expert) + "(" + Exact(a.fitness) +
            AssignmentReasonName(a.reason) + ") ";
  }
  return text + ListText(plan.load) + Exact(plan.objective) + " " + Exact(plan.cv) + "\n";
}

inline std::string Dump(const AlignmentMemory& memory) {
  std::string text;
  for (const auto& [client, experts] : memory.pinned) text += client + ListText(experts);
  return text + "\n";
}

inline std::string Dump(const ExpertLoad& load) {
  return ListText(load.assignments) + ListText(load.round_assignments) + ListText(load.tokens) +
         ListText(load.round_tokens) + ListText(load.average_tokens) + ListText(load.deficit) +
         "\n";
}

inline std::string Dump(const std::vector<ClientReport>& clients) {
  std::string text;
  for (const ClientReport& client : clients) {
    text += client.client + " k=" + std::to_string(client.capacity.experts) + "," +
            std::to_string(client.profile.max_experts) +
            " down=" + Exact(client.profile.down_bytes_per_s) +
            " fitness=" + ListText(client.fitness) + " bonus=" + ListText(client.bonus) +
            " movement=" + ListText(client.movement) + " held=" + ListText(client.held) +
            " experts=" + ListText(client.experts) + " " + client.outcome + "," +
            std::to_string(client.examples) + "," + Exact(client.train_loss) + "\n";
  }
  return text;
}

inline std::string Dump(const RoundReport& report) {
  std::string text = ToText(Report{.report = report}) + " " + Exact(report.train_loss) + " " +
                     Exact(report.cumulative_load_cv) + " " +
                     Exact(report.client_expert_information) + " " +
                     std::to_string(report.started_ms) + " " + std::to_string(report.committed_ms) +
                     " " + Exact(report.seconds) + " " + report.model_digest + " ";
  for (const auto& [reason, count] : report.rejected) {
    text += reason + "=" + std::to_string(count) + " ";
  }
  for (const Metric* metric : {&report.global_accuracy, &report.global_loss,
                               &report.personalised_accuracy, &report.personalised_loss}) {
    text += (metric->value ? Exact(*metric->value) : metric->reason) + " ";
  }
  text += std::to_string(report.connected_trainers) + ListText(report.sat_out);
  return text + Dump(report.clients) + Dump(report.load) + Dump(report.plan);
}

inline std::string Dump(const ClientRecord& client) {
  return client.client + " role=" + std::to_string(static_cast<int>(client.role)) + " " +
         client.instance + " session=" + std::to_string(client.session) +
         " connected=" + std::to_string(client.connected) +
         " heard=" + std::to_string(client.last_heard_ms) +
         " k=" + std::to_string(client.capacity.experts) +
         " down=" + Exact(client.profile.down_bytes_per_s) +
         " up=" + Exact(client.profile.up_bytes_per_s) + " experts=" + ListText(client.experts) +
         " last=" + std::to_string(client.last_committed_task) +
         " merged=" + std::to_string(client.rounds_merged) + "\n";
}

inline std::string Dump(const FitnessTable& table) {
  std::string text;
  for (const auto& [client, row] : table.rows) {
    text += client + ListText(row.value) + ListText(row.second) + ListText(row.seen) +
            ListText(row.second_seen) + ListText(row.context) + ListText(row.tried) +
            ListText(row.trials) + "\n";
  }
  return text;
}

inline std::string Dump(const EvaluationState& evaluation) {
  std::string text = "evaluation until=" + std::to_string(evaluation.deadline_ms) +
                     " evaluator_task=" + std::to_string(evaluation.evaluator_task) + " ";
  text += Dump(evaluation.report);
  for (const auto& [id, task] : evaluation.tasks) text += Dump(task);
  for (const auto& [id, result] : evaluation.results) {
    text += std::to_string(id) + "=" + Exact(result.correct) + "/" + Exact(result.loss) + "/" +
            Exact(result.examples) + " ";
  }
  return text + "\n";
}

// What a commit changes, and an aborted round must not: version, shards, fitness, load, pins and
// the clients' training records.
inline std::string DumpModelSide(const RoundState& state) {
  std::string text = "version=" + std::to_string(state.version) + ListText(state.shards) + "\n" +
                     Dump(state.fitness) + Dump(state.load) + Dump(state.alignment_memory);
  for (const auto& [id, client] : state.clients) {
    text += id + ListText(client.experts) + std::to_string(client.last_committed_task) + "," +
            std::to_string(client.rounds_merged) + "," + std::to_string(client.capacity.experts) +
            "," + Exact(client.profile.down_bytes_per_s) + "\n";
  }
  return text;
}

// Everything but now_ms, which events of no consequence may move.
inline std::string DebugString(const RoundState& state) {
  std::string text =
      std::string(PhaseName(state.phase)) + " " + RunStatusName(state.status) + " " +
      state.status_detail + " stop=" + std::to_string(state.stop_requested) +
      " sessions=" + std::to_string(state.next_session) +
      " tasks=" + std::to_string(state.next_task) + " round=" + std::to_string(state.round) +
      " attempt=" + std::to_string(state.attempt) + " started=" + std::to_string(state.started_ms) +
      "," + std::to_string(state.first_started_ms) + " cohort=" + ListText(state.cohort) +
      " cells=" + CellsText(state.cells) + ListText(state.cell_quorum_ms) +
      " new=" + ListText(state.new_shards) +
      " connected=" + std::to_string(state.connected_trainers) +
      " sitting_out=" + ListText(state.sitting_out) + "\n" + Dump(state.selected);
  text += DumpModelSide(state) + Dump(state.plan) + Dump(state.next_alignment_memory);
  for (const auto& [id, client] : state.clients) text += Dump(client);
  for (const auto& [id, task] : state.tasks) text += Dump(task);
  for (const auto& [reason, count] : state.rejected) {
    text += reason + "=" + std::to_string(count) + "\n";
  }
  for (const auto& [version, evaluation] : state.evaluations) text += Dump(evaluation);
  return text;
}

}  // namespace fedmoe
