// The end of an attempt: the commit with its report, or the abort; and the end of the run.
#include <algorithm>
#include <iterator>
#include <set>

#include "federation/round_internal.h"

namespace fedmoe {
namespace {

// Clients whose update was rejected sit out the round's later attempts.
void RememberRejected(RoundState& state) {
  std::set<ClientId> clients(state.sitting_out.begin(), state.sitting_out.end());
  for (const auto& [id, task] : state.tasks) {
    if (task.status == TaskStatus::kRejected) clients.insert(task.assignment.client);
  }
  state.sitting_out.assign(clients.begin(), clients.end());
}

// Nothing of the round in hand stays.
void ClearRound(RoundState& state) {
  state.phase = Phase::kSelection;
  state.round = 0;
  state.cohort.clear();
  state.selected.clear();
  state.connected_trainers = 0;
  state.plan = AlignmentPlan{};
  state.next_alignment_memory = AlignmentMemory{};
  state.tasks.clear();
  state.cells.clear();
  state.cell_quorum_ms.clear();
  state.new_shards.clear();
}

// The commit failed: the run stops with the error, and can be resumed once its cause is gone.
void FailCommit(Stepping& step, AbortReason reason, const std::string& what,
                const std::string& error) {
  const std::string detail =
      what + " of round " + std::to_string(step.state.round) + " failed: " + error;
  AbortInHand(step, reason, error);
  FinishRun(step, RunStatus::kFailed, detail);
}

// What the fitness is to learn from a task: the gate's affinities once a round.
TrainingFeedback FeedbackOnFitness(const TaskState& task) {
  TrainingFeedback feedback = task.feedback;
  if (IsSecond(task)) feedback.affinity.clear();
  return feedback;
}

// The accepted tasks enter fitness, load and the clients' records; tasks are in client order,
// second ones after all first ones.
void MergeFeedback(RoundState& state, const RunOptions& options) {
  const auto experts = static_cast<std::size_t>(options.spec.experts);
  std::vector<std::int64_t> assignments(experts, 0);
  std::vector<double> tokens(experts, 0.0);
  std::map<ClientId, std::vector<ExpertIndex>> trained;
  for (const auto& [id, task] : state.tasks) {
    if (task.status != TaskStatus::kAccepted) continue;
    const TrainingFeedback& feedback = task.feedback;
    UpdateFitness(state.fitness, task.assignment.client,
                  {.feedback = FeedbackOnFitness(task),
                   .experts = task.assignment.experts,
                   .round = task.assignment.round},
                  options.fitness);
    std::vector<ExpertIndex>& trained_here = trained[task.assignment.client];
    for (const ExpertIndex expert : task.assignment.experts) {
      const auto e = static_cast<std::size_t>(expert);
      if (feedback.tokens[e] <= 0.0) continue;
      trained_here.push_back(expert);
      ++assignments[e];
      tokens[e] += feedback.tokens[e];
    }
    ClientRecord& client = state.clients.at(task.assignment.client);
    // A new instance under the name has none of the old one's state.
    if (client.instance != task.instance || IsSecond(task)) continue;
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
  RecordRound(state.load, assignments, tokens, options.alignment.load, options.spec.layers);
  if (options.aggregation.participation == ParticipationWeighting::kPlain) return;
  std::vector<ClientId> trainers;
  for (const auto& [id, client] : state.clients) {
    if (client.role == ClientRole::kTrainer) trainers.push_back(id);
  }
  RecordParticipation(state.participation, trainers, trained, options.spec.experts,
                      options.aggregation.gap_cutoff);
}

// The client's part of the report, after its task.
void TellOutcome(const TaskState& task, ClientReport& client) {
  client.outcome = OutcomeOf(task);
  client.examples = task.feedback.examples;
  client.train_loss = task.feedback.train_loss;
  client.train_s = task.feedback.train_s;
}

// Of the round that was just merged, before it is cleared.
RoundReport MakeReport(const RoundState& state, const RunOptions& options) {
  RoundReport report;
  report.round = state.round;
  report.attempts = state.attempt;
  report.started_ms = state.first_started_ms;
  report.committed_ms = state.now_ms;
  report.seconds = static_cast<double>(state.now_ms - state.started_ms) / 1000.0;
  report.connected_trainers = state.connected_trainers;
  report.clients_per_round = options.participation.per_round;
  report.min_clients = options.participation.min_clients;
  report.quorum = options.participation.quorum;
  std::set_difference(state.sitting_out.begin(), state.sitting_out.end(), state.cohort.begin(),
                      state.cohort.end(), std::back_inserter(report.sat_out));
  report.clients = state.selected;
  double loss = 0.0;
  double examples = 0.0;
  auto client = report.clients.begin();
  for (const auto& [id, task] : state.tasks) {
    if (IsSecond(task)) continue;
    TellOutcome(task, *client++);
    if (task.status != TaskStatus::kAccepted) continue;
    ++report.accepted;
    loss += task.feedback.train_loss * static_cast<double>(task.feedback.examples);
    examples += static_cast<double>(task.feedback.examples);
  }
  report.rejected = state.rejected;
  report.cells = state.cells;
  report.reassigned = TellReassigned(state);
  report.train_loss = examples > 0.0 ? loss / examples : 0.0;
  report.load = state.load;
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

std::vector<TaskId> OpenTasks(const RoundState& state) {
  std::vector<TaskId> open;
  for (const auto& [id, task] : state.tasks) {
    if (task.status == TaskStatus::kOpen) open.push_back(id);
  }
  return open;
}

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

Aggregate AggregateAction(const RoundState& state, const RunOptions& options) {
  std::vector<AcceptedUpdate> accepted;
  for (const auto& [id, task] : state.tasks) {
    if (task.status != TaskStatus::kAccepted) continue;
    AcceptedUpdate& update = accepted.emplace_back();
    update.task = id;
    update.client = task.assignment.client;
    update.experts = task.assignment.experts;
    update.feedback = task.feedback;
    if (IsSecond(task)) update.trunk_factor = 0.0;  // a client's trunk counts once a round
    if (options.aggregation.participation == ParticipationWeighting::kPlain) continue;
    update.trunk_factor *= state.participation.Trunk(update.client);
    for (ExpertIndex e = 0; e < options.spec.experts; ++e) {
      update.expert_factors.push_back(state.participation.Expert(update.client, e));
    }
  }
  return Aggregate{.round = state.round,
                   .base_version = state.version,
                   .plan = PlanAggregation(options.spec, std::move(accepted), options.aggregation,
                                           ClientExpertInformation(state.fitness))};
}

void AbortInHand(Stepping& step, AbortReason reason, const std::string& detail) {
  RoundState& state = step.state;
  step.changed = true;
  step.Emit(AbortRound{
      .round = state.round, .attempt = state.attempt, .reason = reason, .detail = detail});
  step.Cancel(OpenTasks(state), CancelReason::kRoundAborted);
  RememberRejected(state);
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
  // As AggregateAction had it.
  const double consensus =
      ConsensusShare(step.options.aggregation, ClientExpertInformation(state.fitness));
  MergeFeedback(state, step.options);
  RoundReport report = MakeReport(state, step.options);
  report.consensus = consensus;
  ClearRound(state);
  state.attempt = 1;
  state.rejected.clear();
  state.sitting_out.clear();
  step.Emit(PublishModel{.version = state.version, .shards = state.shards});
  StartEvaluation(step, std::move(report));
}

void OnCheckpointFailed(Stepping& step, const CheckpointFailed& event) {
  if (step.state.phase != Phase::kCheckpointing || event.round != step.state.round) return;
  FailCommit(step, AbortReason::kCheckpointFailed, "checkpoint", event.error);
}

}  // namespace fedmoe
