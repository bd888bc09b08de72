// Joins and admission; the cohort, its alignment and dispatch.
#include <algorithm>
#include <cstdio>
#include <iterator>
#include <utility>

#include "common/counter_rng.h"
#include "federation/round_internal.h"

namespace fedmoe {
namespace {

// Tasks of one attempt have their own stream; no run makes this many attempts of a round.
constexpr std::int64_t kAttemptsPerRound = 1'000;

std::string Megabytes(double bytes) {
  const double megabytes = bytes / 1e6;
  char text[64];
  std::snprintf(text, sizeof(text), megabytes >= 0.1 ? "%.1f MB" : "%.4f MB", megabytes);
  return text;
}

std::string Seconds(double seconds) {
  char text[64];
  std::snprintf(text, sizeof(text), seconds >= 0.1 ? "%.1f s" : "%.4f s", seconds);
  return text;
}

// Why a client that cannot hold `experts` (0: not even the trunk) is too small, in numbers.
std::string TooSmallReason(const CapacityProfile& profile, const RunOptions& options,
                           CapacityReason reason) {
  const bool trunk_only =
      reason == CapacityReason::kTrunkMemory || reason == CapacityReason::kTrunkDeadline;
  const int experts = trunk_only ? 0 : 1;
  if (reason == CapacityReason::kTrunkMemory || reason == CapacityReason::kMemory) {
    return std::string(trunk_only ? "the trunk" : "one expert") + " needs " +
           Megabytes(PredictMemoryBytes(options.spec, options.training, experts)) +
           " of memory, its budget is " + Megabytes(static_cast<double>(profile.memory_bytes));
  }
  return std::string("a round with ") + (trunk_only ? "the trunk alone" : "one expert") +
         " takes it " +
         Seconds(PredictRoundSeconds(profile, options.spec, options.training, experts)) +
         ", the deadline is " +
         Seconds(static_cast<double>(options.participation.deadline_ms) / 1000.0);
}

bool IsTooSmall(const CapacityDecision& capacity, const RunOptions& options) {
  if (!capacity.fits_trunk) return true;
  return capacity.experts == 0 && options.spec.experts > 0 &&
         options.participation.too_small == TooSmallPolicy::kReject &&
         options.alignment.strategy != AlignmentStrategy::kNone;
}

// The same instance is back (or took over from its older session): its tasks go out again.
void Redispatch(Stepping& step, const ClientId& client) {
  std::vector<TaskAssignment> tasks;
  const auto reopen = [&](std::map<TaskId, TaskState>& all) {
    for (auto& [id, task] : all) {
      if (task.assignment.client != client) continue;
      if (task.status == TaskStatus::kLost) task.status = TaskStatus::kOpen;
      if (task.status == TaskStatus::kOpen) tasks.push_back(task.assignment);
    }
  };
  for (auto& [version, evaluation] : step.state.evaluations) reopen(evaluation.tasks);
  if (step.state.phase == Phase::kReporting) reopen(step.state.tasks);
  if (tasks.empty()) return;
  std::sort(tasks.begin(), tasks.end(),
            [](const TaskAssignment& a, const TaskAssignment& b) { return a.task < b.task; });
  step.Emit(Dispatch{.tasks = std::move(tasks)});
}

// Nobody will do what was given to an instance that is gone for good, or to another role.
void ExpireTasksOf(RoundState& state, const ClientId& client) {
  const auto expire = [&](std::map<TaskId, TaskState>& all) {
    for (auto& [id, task] : all) {
      if (task.assignment.client == client && task.status == TaskStatus::kLost) {
        task.status = TaskStatus::kExpired;
      }
    }
  };
  for (auto& [version, evaluation] : state.evaluations) expire(evaluation.tasks);
  expire(state.tasks);
}

// All connected trainers that may take part, sorted.
std::vector<ClientId> ConnectedTrainers(const RoundState& state, const RunOptions& options) {
  std::vector<ClientId> trainers;
  for (const auto& [id, client] : state.clients) {
    if (!client.connected || client.role != ClientRole::kTrainer) continue;
    if (client.capacity.fits_trunk ||
        options.participation.too_small == TooSmallPolicy::kTrunkOnly) {
      trainers.push_back(id);
    }
  }
  return trainers;
}

// The attempt's draw of the trainers, sorted; none where they are too few. Those whose update an
// aborted attempt of this round rejected are left out while there are enough others; never in
// deterministic runs, where a fault must not change who takes part.
std::vector<ClientId> DrawCohort(const RoundState& state, std::vector<ClientId> trainers,
                                 const RunOptions& options) {
  const ParticipationOptions& participation = options.participation;
  const auto minimum = static_cast<std::size_t>(std::max(1, participation.min_clients));
  if (trainers.size() < minimum) return {};
  if (!options.deterministic) {
    std::vector<ClientId> others;
    std::set_difference(trainers.begin(), trainers.end(), state.sitting_out.begin(),
                        state.sitting_out.end(), std::back_inserter(others));
    if (others.size() >= minimum) trainers = std::move(others);
  }
  if (participation.per_round > 0 &&
      trainers.size() > static_cast<std::size_t>(participation.per_round)) {
    const RoundNumber round = state.version + 1;
    CounterRng rng =
        CounterRng::For(options.seed, "", round * kAttemptsPerRound + state.attempt, "cohort");
    rng.Shuffle(trainers);
    trainers.resize(static_cast<std::size_t>(participation.per_round));
    std::sort(trainers.begin(), trainers.end());
  }
  return trainers;
}

// What a plan for the cohort is scored by.
ScoreMatrix ScoreCohort(const RoundState& state, const std::vector<ClientId>& cohort,
                        const RunOptions& options) {
  ScoreProblem problem;
  problem.deadline_ms = options.participation.deadline_ms;
  problem.round = state.version + 1;
  for (ExpertIndex expert = 0; expert < options.spec.experts; ++expert) {
    problem.expert_bytes.push_back(static_cast<double>(
        DownloadBytes(options.spec, ShardOfExpert(expert), options.training.download)));
  }
  for (const ClientId& id : cohort) {
    const ClientRecord& client = state.clients.at(id);
    problem.clients.push_back(ScoreClient{.client = id,
                                          .held = client.experts,
                                          .down_bytes_per_s = client.profile.down_bytes_per_s,
                                          .round_s = client.capacity.round_s});
  }
  return BuildScore(state.fitness, problem, options.fitness, options.score);
}

std::vector<TokenClient> TokenClientsOf(const RoundState& state,
                                        const std::vector<ClientId>& cohort) {
  std::vector<TokenClient> clients;
  for (const ClientId& id : cohort) {
    const ClientRecord& client = state.clients.at(id);
    clients.push_back({.examples = client.profile.examples, .experts = client.capacity.experts});
  }
  return clients;
}

Result<AlignmentPlan> AlignCohort(const RoundState& state, const std::vector<ClientId>& cohort,
                                  const ScoreMatrix& score, const RunOptions& options,
                                  AlignmentMemory& memory) {
  AlignmentPlan dense;
  dense.strategy = options.alignment.strategy;
  if (options.spec.experts == 0) return dense;
  AlignmentProblem problem;
  problem.clients = cohort;
  for (const ClientId& client : cohort) {
    problem.capacity.push_back(state.clients.at(client).capacity.experts);
  }
  problem.fitness = score.Total();
  problem.load = state.load;
  problem.layers = options.spec.layers;
  problem.seed = options.seed;
  problem.round = state.version + 1;
  if (options.alignment.load.unit == LoadUnit::kTokens) {
    problem.weight = PredictTokens(TokenClientsOf(state, cohort), options.spec, options.training);
  }
  FEDMOE_ASSIGN_OR_RETURN(AlignmentPlan plan, Align(problem, options.alignment, memory));
  ExplainPlan(score, problem.layers, plan);
  return plan;
}

// What the plan was made with, by cohort, for the report.
std::vector<ClientReport> TellSelection(const RoundState& state, const ScoreMatrix& score) {
  const auto row_of = [](const Eigen::MatrixXd& part, std::size_t row) {
    if (part.size() == 0) return std::vector<double>{};
    const auto values = part.row(static_cast<Eigen::Index>(row));
    return std::vector<double>(values.begin(), values.end());
  };
  std::vector<ClientReport> selected;
  for (std::size_t i = 0; i < state.cohort.size(); ++i) {
    const ClientRecord& client = state.clients.at(state.cohort[i]);
    ClientReport& report = selected.emplace_back();
    report.client = client.client;
    report.profile = client.profile;
    report.capacity = client.capacity;
    report.fitness = row_of(score.fitness, i);
    report.bonus = row_of(score.bonus, i);
    report.movement = row_of(score.movement, i);
    report.held = client.experts;
    report.experts = state.plan.ExpertsOf(static_cast<int>(i));
  }
  return selected;
}

// Tasks in client order, ids rising.
std::vector<TaskAssignment> MakeTasks(RoundState& state, const RunOptions& options) {
  std::vector<TaskAssignment> tasks;
  for (std::size_t i = 0; i < state.cohort.size(); ++i) {
    tasks.push_back(
        MakeTrainTask(state, state.cohort[i], state.plan.ExpertsOf(static_cast<int>(i)), options));
  }
  return tasks;
}

// The cells that have a client are open.
void OpenCells(RoundState& state, int experts) {
  state.cells.assign(static_cast<std::size_t>(1 + experts), CellState::kUnassigned);
  state.cell_quorum_ms.assign(state.cells.size(), -1);
  for (const auto& [id, task] : state.tasks) {
    for (const ShardReference& shard : task.assignment.shards) {
      state.cells[static_cast<std::size_t>(shard.shard)] = CellState::kOpen;
    }
  }
}

bool HasTask(const RoundState& state, const ClientId& client) {
  const auto has = [&](const std::map<TaskId, TaskState>& tasks) {
    return std::any_of(tasks.begin(), tasks.end(),
                       [&](const auto& entry) { return entry.second.assignment.client == client; });
  };
  return has(state.tasks) ||
         std::any_of(state.evaluations.begin(), state.evaluations.end(),
                     [&](const auto& entry) { return has(entry.second.tasks); });
}

// Names that came and went without a trace in the model, the longest silent first, until no more
// than kMaxKnownClients are known.
void ForgetClients(RoundState& state) {
  if (state.clients.size() <= kMaxKnownClients) return;
  std::vector<std::pair<Milliseconds, ClientId>> idle;
  for (const auto& [id, client] : state.clients) {
    if (client.connected || client.rounds_merged > 0 || HasTask(state, id)) continue;
    idle.emplace_back(client.last_heard_ms, id);
  }
  std::sort(idle.begin(), idle.end());
  for (const auto& [heard_ms, id] : idle) {
    if (state.clients.size() <= kMaxKnownClients) return;
    state.clients.erase(id);
  }
}

}  // namespace

int ConnectedClients(const RoundState& state) {
  return static_cast<int>(std::count_if(state.clients.begin(), state.clients.end(),
                                        [](const auto& entry) { return entry.second.connected; }));
}

void OnJoined(Stepping& step, const ClientJoined& event) {
  RoundState& state = step.state;
  const auto turn_away = [&](StatusCode code, std::string message) {
    step.Emit(TurnAwayClient{.client = event.client,
                             .instance = event.instance,
                             .code = code,
                             .message = std::move(message)});
  };
  // Of a completed run a client is told when it asks for work; others may be taken up again.
  if (state.phase == Phase::kFinished && state.status != RunStatus::kCompleted) {
    return turn_away(StatusCode::kUnavailable, "the run is over");
  }
  const auto known = state.clients.find(event.client);
  const bool same = known != state.clients.end() && known->second.instance == event.instance;
  const bool connected = known != state.clients.end() && known->second.connected;
  if (connected && !same) {
    return turn_away(StatusCode::kAlreadyExists,
                     "client name '" + event.client +
                         "' is taken by another instance; choose another name or stop the other "
                         "client");
  }
  CapacityDecision capacity;
  capacity.experts = step.options.spec.experts;
  if (event.role == ClientRole::kTrainer) {
    capacity = DeriveCapacity(event.profile, step.options.spec, step.options.training,
                              step.options.participation.deadline_ms);
    if (IsTooSmall(capacity, step.options)) {
      return turn_away(StatusCode::kFailedPrecondition,
                       "client '" + event.client + "' is too small for this model: " +
                           TooSmallReason(event.profile, step.options, capacity.reason));
    }
  }

  step.changed = true;
  if (known != state.clients.end() && (!same || known->second.role != event.role)) {
    step.Cancel(LoseTasks(state, {event.client}), CancelReason::kSuperseded);
    ExpireTasksOf(state, event.client);
  }
  if (!same) {
    state.clients[event.client] = ClientRecord{};
    std::erase(state.sitting_out, event.client);
  }
  ClientRecord& client = state.clients[event.client];
  client.client = event.client;
  client.role = event.role;
  client.instance = event.instance;
  client.session = state.next_session++;
  client.connected = true;
  client.last_heard_ms = state.now_ms;
  client.profile = event.profile;
  client.capacity = capacity;
  step.Emit(AdmitClient{.client = event.client,
                        .session = client.session,
                        .superseded = same && connected,
                        .capacity = capacity});
  Redispatch(step, event.client);
  ForgetClients(state);
}

bool StartRound(Stepping& step) {
  RoundState& state = step.state;
  std::vector<ClientId> trainers = ConnectedTrainers(state, step.options);
  const int connected_trainers = static_cast<int>(trainers.size());
  std::vector<ClientId> cohort = DrawCohort(state, std::move(trainers), step.options);
  if (cohort.empty()) return false;
  step.changed = true;
  AlignmentMemory memory = state.alignment_memory;
  const ScoreMatrix score = ScoreCohort(state, cohort, step.options);
  Result<AlignmentPlan> plan = AlignCohort(state, cohort, score, step.options, memory);
  if (!plan.ok()) {
    FinishRun(step, RunStatus::kFailed,
              "alignment of round " + std::to_string(state.version + 1) +
                  " failed: " + plan.status().message());
    return true;
  }
  state.phase = Phase::kReporting;
  state.round = state.version + 1;
  state.started_ms = state.now_ms;
  if (state.attempt == 1) state.first_started_ms = state.now_ms;
  state.cohort = std::move(cohort);
  state.plan = std::move(plan).value();
  state.connected_trainers = connected_trainers;
  state.selected = TellSelection(state, score);
  state.next_alignment_memory = std::move(memory);
  std::vector<TaskAssignment> tasks = MakeTasks(state, step.options);
  for (const TaskAssignment& task : tasks) {
    TaskState& entry = state.tasks[task.task];
    entry.assignment = task;
    entry.instance = state.clients.at(task.client).instance;
  }
  OpenCells(state, step.options.spec.experts);
  step.Emit(Dispatch{.tasks = std::move(tasks)});
  return true;
}

TaskAssignment MakeTrainTask(RoundState& state, const ClientId& client,
                             std::vector<ExpertIndex> experts, const RunOptions& options) {
  TaskAssignment task;
  task.task = state.next_task++;
  task.kind = TaskKind::kTrain;
  task.client = client;
  task.round = state.round;
  task.attempt = state.attempt;
  task.version = state.version;
  task.experts = std::move(experts);
  task.shards = HeldShards(state, options.spec, task.experts, options.training.download);
  task.training = options.training;
  task.training.learning_rate = LearningRateAt(options.training, state.round, options.rounds);
  task.seed = options.seed;
  task.timeout_ms = options.participation.deadline_ms;
  task.last_committed_task = state.clients.at(client).last_committed_task;
  return task;
}

std::vector<ShardReference> HeldShards(const RoundState& state, const ModelSpec& spec,
                                       const std::vector<ExpertIndex>& experts,
                                       const DownloadOptions& download) {
  std::vector<ShardReference> held;
  const auto add = [&](int shard) {
    held.push_back({.shard = shard,
                    .digest = state.shards[static_cast<std::size_t>(shard)],
                    .bytes = DownloadBytes(spec, shard, download),
                    .encoding = download.encoding,
                    .zstd = download.zstd});
  };
  add(kTrunkShard);
  for (const ExpertIndex expert : experts) add(ShardOfExpert(expert));
  return held;
}

}  // namespace fedmoe
