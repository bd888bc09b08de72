// The clients' part of a run: who comes and goes, and what becomes of a task.
#include <algorithm>
#include <cmath>
#include <utility>

#include <spdlog/spdlog.h>

#include "common/counter_rng.h"
#include "common/version.h"
#include "simulation/virtual_run.h"

namespace fedmoe {
namespace {

// Draws of the attempts of one round have streams of their own.
constexpr std::int64_t kAttemptsPerRound = 1'000;

Milliseconds ToMilliseconds(double seconds) {
  return static_cast<Milliseconds>(std::llround(seconds * 1000.0));
}

// When in the course of its task the client is lost, as a share of it; nothing if it is not.
std::optional<double> DrawDropout(const TaskAssignment& task, double probability) {
  if (task.kind != TaskKind::kTrain || !(probability > 0.0)) return std::nullopt;
  CounterRng rng = CounterRng::For(task.seed, task.client,
                                   task.round * kAttemptsPerRound + task.attempt, "dropout");
  if (rng.NextUniform() >= probability) return std::nullopt;
  return rng.NextUniform();
}

}  // namespace

VirtualRun::DueKey VirtualRun::Schedule(Milliseconds at_ms, Due due) {
  const DueKey key{at_ms, next_order_++};
  due_.emplace(key, due);
  return key;
}

// ---- Presence.

void VirtualRun::Join(std::size_t client, const RunOptions& options) {
  const VirtualClient& joining = population_.clients[client];
  Handle(ClientJoined{.at_ms = now_ms_,
                      .client = joining.name,
                      .role = joining.role,
                      .instance = clients_[client].state->instance(),
                      .profile = joining.profile},
         options);
}

void VirtualRun::ChangePresence(std::size_t client) {
  const Milliseconds change_ms = population_.availability.NextChangeMs(client, now_ms_);
  if (change_ms >= 0) Schedule(change_ms, {.kind = Due::Kind::kPresence, .client = client});
  ClientPart& part = clients_[client];
  if (population_.availability.OnlineAt(client, now_ms_)) {
    if (!part.connected) Join(client, options_);
    return;
  }
  if (!part.connected) return;
  part.connected = false;
  DropFlightsOf(client);
  Handle(ClientLeft{
      .at_ms = now_ms_, .client = population_.clients[client].name, .session = part.session});
}

// ---- Tasks.

void VirtualRun::StartTask(const TaskAssignment& task) {
  DropFlight(task.task);  // given out again
  Flight flight{.task = task, .client = index_.at(task.client)};
  ClientPart& client = clients_[flight.client];
  if (const Status settled = SettleState(task, *client.state); !settled.ok()) {
    return Fail(settled);
  }
  double seconds = 0.0;  // an evaluation takes no simulated time
  if (task.kind == TaskKind::kTrain) {
    seconds = PredictRoundSeconds(population_.clients[flight.client].profile, options_.spec,
                                  task.training, static_cast<int>(task.experts.size()));
  }
  if (const auto share = DrawDropout(task, config_.simulation.dropout)) {
    // Noticed as a coordinator would: by its silence.
    const Milliseconds noticed_ms =
        now_ms_ + ToMilliseconds(*share * seconds) + config_.run.participation.heartbeat_timeout_ms;
    flight.due = Schedule(noticed_ms, {.kind = Due::Kind::kTaskLost, .task = task.task});
  } else {
    flight.due = Schedule(now_ms_ + ToMilliseconds(seconds),
                          {.kind = Due::Kind::kTaskEnd, .task = task.task});
    // What comes after the deadline is not waited for, so it need not be computed.
    const bool late = task.timeout_ms > 0 && flight.due.first - now_ms_ > task.timeout_ms;
    if (!late) Compute(flight);
  }
  flights_[task.task] = std::move(flight);
}

Status VirtualRun::SettleState(const TaskAssignment& task, ClientState& state) const {
  if (task.kind == TaskKind::kTrain) return state.Settle(task.last_committed_task, task.follows);
  state.Promote(task.last_committed_task);
  return Status::Ok();
}

// The version's shards, mapped or decoded once for all clients; counts those that this client lacks
// as downloads.
Result<TaskShards> VirtualRun::FetchShards(Flight& flight) {
  ClientPart& client = clients_[flight.client];
  TaskShards shards;
  for (const ShardReference& reference : flight.task.shards) {
    const std::string name = ShardKey(reference);
    TravelledShard& shared = shards_[name];
    if (shared.values == nullptr) {
      FEDMOE_ASSIGN_OR_RETURN(shared, Travel(reference, options_.spec, *store_));
    }
    shards[reference.shard] = shared.values;
    std::uint64_t& held = client.held[static_cast<std::size_t>(reference.shard)];
    const std::uint64_t key = KeyOf(name);
    if (held != key) flight.down_bytes += shared.bytes;
    held = key;
  }
  return shards;
}

void VirtualRun::Compute(Flight& flight) {
  Result<TaskShards> shards = FetchShards(flight);
  if (!shards.ok()) return Fail(shards.status());
  const std::span<const std::byte> state = clients_[flight.client].state->committed();
  flight.pending = std::make_shared<PendingTask>();
  pool_->Run(flight.due.first, flight.due.second,
             [runner = runner_.get(), pending = flight.pending, task = flight.task,
              client_index = flight.client, shards = std::move(*shards),
              state = std::vector<std::byte>(state.begin(), state.end())] {
               pending->Finish(runner->Run(task, client_index, shards, state, *pending));
             });
}

void VirtualRun::EndTask(TaskId task) {
  const auto found = flights_.find(task);
  if (found == flights_.end()) return;
  const Flight flight = std::move(found->second);
  flights_.erase(found);
  bytes_down_ += flight.down_bytes;
  if (flight.pending == nullptr) return;  // late: the deadline speaks
  TaskOutcome outcome = flight.pending->Wait();
  if (ending_) return;
  if (!outcome.status.ok()) return GiveBack(flight, outcome.status.ToString());
  if (const Status submitted = Submit(flight, std::move(outcome)); !submitted.ok()) {
    Fail(submitted);
  }
}

Status VirtualRun::Submit(const Flight& flight, TaskOutcome outcome) {
  const TaskAssignment& task = flight.task;
  if (task.kind == TaskKind::kEvaluate) {
    EvaluationResult result = outcome.evaluation;
    const bool finite = std::isfinite(result.correct) && std::isfinite(result.loss) &&
                        std::isfinite(result.examples);
    if (!finite) result = EvaluationResult{.task = task.task};
    Handle(EvaluationReceived{.at_ms = now_ms_,
                              .task = task.task,
                              .client = task.client,
                              .correct = result.correct,
                              .loss = result.loss,
                              .examples = result.examples});
    return Status::Ok();
  }
  FEDMOE_RETURN_IF_ERROR(clients_[flight.client].state->SaveTentative(task.task, outcome.state));
  bytes_up_ += outcome.header.total_bytes;
  if (outcome.verdict.accepted()) {
    FEDMOE_RETURN_IF_ERROR(outcome.update->Keep());
  } else {
    outcome.header.feedback = TrainingFeedback{};
  }
  outcome.update.reset();
  Handle(UpdateReceived{.at_ms = now_ms_,
                        .header = std::move(outcome.header),
                        .content = std::move(outcome.verdict)});
  return Status::Ok();
}

void VirtualRun::LoseTask(TaskId task) {
  const auto found = flights_.find(task);
  if (found == flights_.end()) return;
  const Flight flight = std::move(found->second);
  flights_.erase(found);
  Handle(TaskReturned{.at_ms = now_ms_,
                      .task = flight.task.task,
                      .client = flight.task.client,
                      .why = "dropped out (simulation.dropout)"});
}

void VirtualRun::GiveBack(const Flight& flight, const std::string& why) {
  spdlog::warn("client {} returns task {}: {}", flight.task.client, flight.task.task, why);
  Handle(TaskReturned{
      .at_ms = now_ms_, .task = flight.task.task, .client = flight.task.client, .why = why});
}

void VirtualRun::DropFlight(TaskId task) {
  const auto found = flights_.find(task);
  if (found == flights_.end()) return;
  bytes_down_ += found->second.down_bytes;
  if (found->second.pending != nullptr) found->second.pending->Cancel();
  due_.erase(found->second.due);
  flights_.erase(found);
}

void VirtualRun::DropFlightsOf(std::size_t client) {
  std::vector<TaskId> tasks;
  for (const auto& [task, flight] : flights_) {
    if (flight.client == client) tasks.push_back(task);
  }
  for (const TaskId task : tasks) DropFlight(task);
}

}  // namespace fedmoe
