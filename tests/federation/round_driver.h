// Drives the round machine in tests: a tiny model, events by client name, the actions as text.
#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "federation/round_machine.h"
#include "tests/federation/round_text.h"

namespace fedmoe {

// A trunk of 16 values and `experts` experts of 8; dense without experts.
inline ModelSpec TinySpec(int experts = 4, int layers = 1) {
  ModelSpec spec;
  spec.preset = "tiny";
  spec.experts = experts;
  spec.layers = layers;
  spec.top_k = experts > 0 ? 1 : 0;
  spec.trunk_flops = 100.0;
  spec.expert_flops = 100.0;
  spec.trunk_activations = 1.0;
  spec.expert_activations = 1.0;
  spec.blocks.push_back(ParameterBlock{.name = "trunk.weight", .shape = {16}, .init_key = "t"});
  for (int e = 0; e < experts; ++e) {
    spec.blocks.push_back(ParameterBlock{.name = "experts." + std::to_string(e) + ".weight",
                                         .shape = {8},
                                         .owner = BlockOwner::kExpert,
                                         .expert = e,
                                         .merge = MergeRule::kByTokens,
                                         .init_key = "e" + std::to_string(e)});
  }
  return spec;
}

inline RunOptions TinyOptions(int experts = 4, int layers = 1) {
  RunOptions options;
  options.seed = 7;
  options.rounds = 2;
  options.spec = TinySpec(experts, layers);
  options.participation.min_clients = 2;
  options.participation.quorum = 0.5;
  options.participation.grace_ms = 5'000;
  options.participation.deadline_ms = 60'000;
  options.participation.heartbeat_timeout_ms = 24'000;
  options.evaluation.mode = EvaluationMode::kNone;
  return options;
}

inline std::vector<Digest> InitialShards(const ModelSpec& spec) {
  std::vector<Digest> shards;
  for (int shard = 0; shard < spec.ShardCount(); ++shard) {
    shards.push_back(Sha256Of("initial " + spec.ShardName(shard)));
  }
  return shards;
}

// Stands in for the arithmetic: a changed shard's new name is a function of the old one, the
// updates and their weights; others keep theirs.
inline std::vector<Digest> Merge(const std::vector<Digest>& base, const Aggregate& action) {
  std::vector<Digest> shards = base;
  for (const int shard : action.plan.changed_shards) {
    std::string content = shards[static_cast<std::size_t>(shard)] + ListText(action.plan.updates);
    for (const BlockPlan& block : action.plan.blocks) {
      if (block.changes()) content += std::to_string(block.parameter) + ListText(block.weights);
    }
    shards[static_cast<std::size_t>(shard)] = Sha256Of(content);
  }
  return shards;
}

// Honest feedback: 10 examples, 20 tokens for each expert held.
inline TrainingFeedback FeedbackFor(const TaskAssignment& task, const ModelSpec& spec) {
  TrainingFeedback feedback;
  feedback.examples = 10;
  feedback.steps = 5;
  feedback.train_loss = 1.5;
  feedback.train_accuracy = 0.5;
  feedback.train_s = 2.0;
  const auto size = static_cast<std::size_t>(spec.experts);
  feedback.tokens.assign(size, 0.0);
  feedback.expert_loss.assign(size, 0.0);
  feedback.expert_accuracy.assign(size, 0.0);
  feedback.affinity.assign(size, 1.0 / spec.ExpertsPerLayer());
  for (const ExpertIndex expert : task.experts) {
    feedback.tokens[static_cast<std::size_t>(expert)] = 20.0;
    feedback.expert_loss[static_cast<std::size_t>(expert)] = 1.5;
    feedback.expert_accuracy[static_cast<std::size_t>(expert)] = 0.5;
  }
  return feedback;
}

class RoundDriver {
 public:
  explicit RoundDriver(RunOptions run_options)
      : options(std::move(run_options)),
        state(InitialState(options, InitialShards(options.spec))) {}

  // Applies the event at the present time; returns the actions as text.
  std::string Apply(Event event) {
    StepResult result = Step(std::move(state), event, options);
    state = std::move(result.state);
    actions = std::move(result.actions);
    changed = result.changed;
    history.insert(history.end(), actions.begin(), actions.end());
    return ToText(actions);
  }

  std::string Join(const ClientId& client, int k = 2, const std::string& instance = "1") {
    return JoinWith(client, CapacityProfile{.examples = 10, .max_experts = k}, instance);
  }
  std::string JoinWith(const ClientId& client, const CapacityProfile& profile,
                       const std::string& instance = "1") {
    return Apply(
        ClientJoined{.at_ms = now_ms, .client = client, .instance = instance, .profile = profile});
  }
  std::string JoinEvaluator(const ClientId& client) {
    return Apply(ClientJoined{
        .at_ms = now_ms, .client = client, .role = ClientRole::kEvaluator, .instance = "1"});
  }
  std::string Beat(const ClientId& client) {
    return Apply(
        Heartbeat{.at_ms = now_ms, .client = client, .session = state.clients[client].session});
  }
  std::string Leave(const ClientId& client) {
    return Apply(
        ClientLeft{.at_ms = now_ms, .client = client, .session = state.clients[client].session});
  }
  // Time passes with every connected client but those named giving signs of life.
  std::string Tick(Milliseconds by_ms, const std::vector<ClientId>& silent = {}) {
    now_ms += by_ms;
    for (const auto& [id, client] : std::map<ClientId, ClientRecord>(state.clients)) {
      if (std::find(silent.begin(), silent.end(), id) == silent.end()) Beat(id);
    }
    return Apply(fedmoe::Tick{.at_ms = now_ms});
  }

  // The client's train task of the round in hand; of two the second.
  TaskAssignment TaskOf(const ClientId& client) const {
    TaskAssignment newest;
    for (const auto& [id, task] : state.tasks) {
      if (task.assignment.client == client) newest = task.assignment;
    }
    return newest;
  }
  UpdateReceived UpdateFor(const TaskAssignment& task, Verdict content = {}) const {
    UpdateReceived event;
    event.at_ms = now_ms;
    event.header.task = task.task;
    event.header.client = task.client;
    event.header.round = task.round;
    event.header.feedback = FeedbackFor(task, options.spec);
    event.content = std::move(content);
    return event;
  }
  std::string Update(const ClientId& client, Verdict content = {}) {
    return Apply(UpdateFor(TaskOf(client), std::move(content)));
  }
  std::string Return(const ClientId& client) {
    return Apply(TaskReturned{
        .at_ms = now_ms, .task = TaskOf(client).task, .client = client, .why = "shutting down"});
  }

  // The shell's part of a commit.
  std::string Aggregate() {
    const fedmoe::Aggregate action = AggregateOf(Outstanding(state, options));
    return Apply(
        Aggregated{.at_ms = now_ms, .round = state.round, .shards = Merge(state.shards, action)});
  }
  std::string Checkpoint() {
    return Apply(CheckpointWritten{.at_ms = now_ms, .round = state.round});
  }
  std::string FailCheckpoint(const std::string& error) {
    return Apply(CheckpointFailed{.at_ms = now_ms, .round = state.round, .error = error});
  }
  // Everyone in the cohort reports and the shell commits; returns the last step's actions.
  std::string CommitRound() {
    for (const ClientId& client : std::vector<ClientId>(state.cohort)) Update(client);
    Aggregate();
    return Checkpoint();
  }

  // The open evaluation task of the client for the newest version that has one.
  TaskAssignment EvaluationOf(const ClientId& client) const {
    TaskAssignment newest;
    for (const auto& [version, evaluation] : state.evaluations) {
      for (const auto& [id, task] : evaluation.tasks) {
        if (task.assignment.client == client && task.status == TaskStatus::kOpen) {
          newest = task.assignment;
        }
      }
    }
    return newest;
  }
  std::string Evaluate(const ClientId& client, double correct, double examples = 100.0) {
    return Apply(EvaluationReceived{.at_ms = now_ms,
                                    .task = EvaluationOf(client).task,
                                    .client = client,
                                    .correct = correct,
                                    .loss = 2.0 * examples,
                                    .examples = examples});
  }
  std::string Stop(bool drain = true) {
    return Apply(StopRequested{.at_ms = now_ms, .drain = drain});
  }
  std::string Resume() { return Apply(Resumed{.at_ms = now_ms}); }

  static fedmoe::Aggregate AggregateOf(const std::vector<Action>& list) {
    for (const Action& action : list) {
      if (const auto* found = std::get_if<fedmoe::Aggregate>(&action)) return *found;
    }
    return {};
  }
  // The last action of a kind so far; a default one if there was none.
  template <typename T>
  T Last() const {
    for (auto action = history.rbegin(); action != history.rend(); ++action) {
      if (const T* found = std::get_if<T>(&*action)) return *found;
    }
    return {};
  }

  RunOptions options;
  RoundState state;
  Milliseconds now_ms = 0;
  std::vector<Action> actions;  // of the last event
  std::vector<Action> history;
  bool changed = false;
};

}  // namespace fedmoe
