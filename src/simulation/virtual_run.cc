// The course of a run: its start, its loop, and what becomes of the round machine's actions.
#include "simulation/virtual_run.h"

#include <algorithm>
#include <climits>
#include <fstream>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "client/local_trainer.h"
#include "common/thread_loop.h"
#include "coordinator/aggregator.h"

namespace fedmoe {
namespace {

// Examples that trainers keep in memory between their tasks.
constexpr std::uint64_t kMaxCachedBytes = std::uint64_t{256} << 20;
// Simulated time without a round after which none will come.
constexpr Milliseconds kMaxIdleMs = 100 * Milliseconds{86'400'000};

// VmHWM of this process, or 0 where /proc does not tell.
std::uint64_t PeakResidentBytes() {
  std::ifstream status("/proc/self/status");
  std::string word;
  std::uint64_t kib = 0;
  while (status >> word) {
    if (word == "VmHWM:" && status >> kib) return kib * 1024;
  }
  return 0;
}

double SecondsSince(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// No sign of life is needed of clients whose coming and going are events.
RunOptions OptionsOf(const CoordinatorConfig& config, ModelSpec spec) {
  RunOptions options = config.run;
  options.spec = std::move(spec);
  options.participation.heartbeat_timeout_ms = 0;
  return options;
}

}  // namespace

VirtualRun::VirtualRun(const CoordinatorConfig& config, ModelSpec spec,
                       const Population& population, FileSystem& files, RunDirectory& directory,
                       VirtualRunOptions options)
    : config_(config),
      options_(OptionsOf(config, std::move(spec))),
      population_(population),
      files_(files),
      directory_(directory),
      threads_(options.threads),
      compute_(std::move(options.compute)),
      observer_(options.observer) {
  options_.alignment.parallel = LoopOnThreads(threads_);
}

VirtualRun::~VirtualRun() = default;

Result<RunSummary> VirtualRun::Run() {
  began_ = std::chrono::steady_clock::now();
  FEDMOE_RETURN_IF_ERROR(Open());
  JoinAll();
  FEDMOE_RETURN_IF_ERROR(Loop());
  for (auto& [id, flight] : flights_) {
    if (flight.pending != nullptr) flight.pending->Cancel();
  }
  pool_.reset();
  times_ = {.clients = population_.trainers,
            .threads = threads_,
            .simulated_s = static_cast<double>(now_ms_) / 1000.0,
            .wall_s = SecondsSince(began_),
            .training_s = runner_->training_s(),
            .evaluation_s = runner_->evaluation_s()};
  FEDMOE_RETURN_IF_ERROR(WriteRunTimes(files_, directory_.path(), times_));
  RunSummary summary = Summarise();
  FEDMOE_RETURN_IF_ERROR(directory_.WriteSummary(summary));
  return summary;
}

// ---- Start.

Status VirtualRun::Open() {
  FEDMOE_RETURN_IF_ERROR(ValidateModelSpec(options_.spec));
  FEDMOE_ASSIGN_OR_RETURN(store_,
                          ShardStore::Open(files_, directory_.CheckpointsPath(), options_.spec));
  FEDMOE_ASSIGN_OR_RETURN(spool_, Spool::Open(memory_, "spool"));
  FEDMOE_ASSIGN_OR_RETURN(const Manifest initial, StageInitial());
  FEDMOE_RETURN_IF_ERROR(store_->Commit(initial));
  FEDMOE_ASSIGN_OR_RETURN(times_log_, RunTimesLog::Open(files_, directory_.path()));
  FEDMOE_RETURN_IF_ERROR(OpenClients());
  state_ = InitialState(options_, initial.Digests());
  const TrainerCacheOptions trainers = {
      .seed = options_.seed, .max_bytes = kMaxCachedBytes, .compute = compute_};
  runner_ = std::make_unique<TaskRunner>(population_, options_.spec, trainers, *spool_, ending_);
  pool_ = std::make_unique<TaskPool>(threads_, [] { SetTorchThreads(1); });
  return Status::Ok();
}

Result<Manifest> VirtualRun::StageInitial() {
  if (config_.upcycle.checkpoint.empty()) {
    return StageInitialModel(options_.spec, options_.seed, *store_);
  }
  FEDMOE_ASSIGN_OR_RETURN(Upcycling upcycling,
                          Upcycling::Open(files_, config_.upcycle, options_.spec));
  return StageInitialModel(options_.spec, options_.seed, *store_, &upcycling);
}

Status VirtualRun::OpenClients() {
  for (const VirtualClient& client : population_.clients) {
    ClientPart part;
    FEDMOE_ASSIGN_OR_RETURN(part.state, ClientState::Open(memory_, "clients/" + client.name));
    part.state->BeginRun("simulation");
    part.held.assign(static_cast<std::size_t>(options_.spec.ShardCount()), 0);
    index_[client.name] = clients_.size();
    clients_.push_back(std::move(part));
  }
  return Status::Ok();
}

// All who are there at the start are there for the first round, however few would do for it.
void VirtualRun::JoinAll() {
  RunOptions gathering = options_;
  gathering.participation.min_clients = INT_MAX;
  for (std::size_t i = clients_.size(); i-- > 0;) {  // the evaluators first
    const bool trainer = population_.clients[i].role == ClientRole::kTrainer;
    if (!trainer || population_.availability.OnlineAt(i, 0)) Join(i, gathering);
    if (!trainer) continue;
    const Milliseconds change_ms = population_.availability.NextChangeMs(i, 0);
    if (change_ms >= 0) Schedule(change_ms, {.kind = Due::Kind::kPresence, .client = i});
  }
  Handle(Tick{.at_ms = now_ms_});
}

// ---- The loop.

Status VirtualRun::Loop() {
  while (fatal_.ok() && state_.phase != Phase::kFinished) {
    TakeStops();
    if (!events_.empty()) {
      const Event event = std::move(events_.front());
      events_.pop_front();
      Handle(event);
    } else if (state_.phase != Phase::kFinished) {
      FEDMOE_RETURN_IF_ERROR(Advance());
    }
  }
  return fatal_;
}

Status VirtualRun::Advance() {
  const Milliseconds tick_ms = NextTickMs(state_, options_);
  const bool idle = state_.phase == Phase::kSelection && now_ms_ - dispatched_ms_ > kMaxIdleMs;
  if (idle || (due_.empty() && tick_ms < 0)) return FailStuck();
  if (due_.empty() || (tick_ms >= 0 && tick_ms < due_.begin()->first.first)) {
    now_ms_ = std::max(now_ms_, tick_ms);
    Handle(Tick{.at_ms = now_ms_});
    return Status::Ok();
  }
  const auto [key, due] = *due_.begin();
  due_.erase(due_.begin());
  now_ms_ = std::max(now_ms_, key.first);
  switch (due.kind) {
    case Due::Kind::kTaskEnd:
      EndTask(due.task);
      break;
    case Due::Kind::kTaskLost:
      LoseTask(due.task);
      break;
    case Due::Kind::kPresence:
      ChangePresence(due.client);
      break;
  }
  return Status::Ok();
}

// Nothing is due any more, or nothing but clients that come and go.
Status VirtualRun::FailStuck() {
  const auto trainers =
      std::count_if(state_.clients.begin(), state_.clients.end(), [](const auto& entry) {
        return entry.second.connected && entry.second.role == ClientRole::kTrainer;
      });
  state_.phase = Phase::kFinished;
  state_.status = RunStatus::kFailed;
  state_.status_detail = fmt::format(
      "round {} cannot begin: {} trainers are there, run.clients.min is {}, and more do not come",
      state_.version + 1, trainers, options_.participation.min_clients);
  spdlog::error("{}", state_.status_detail);
  return Status::Ok();
}

void VirtualRun::TakeStops() {
  while (stops_taken_ < std::min(stops_.load(), 2)) {
    ++stops_taken_;
    Handle(StopRequested{.at_ms = now_ms_, .drain = stops_taken_ == 1});
  }
}

// ---- What the round machine asks for.

void VirtualRun::Handle(const Event& event, const RunOptions& options) {
  StepResult result = Step(std::move(state_), event, options);
  state_ = std::move(result.state);
  for (Action& action : result.actions) {
    std::visit([this](auto& request) { On(request); }, action);
  }
}

void VirtualRun::On(const AdmitClient& action) {
  ClientPart& client = clients_[index_.at(action.client)];
  client.session = action.session;
  client.connected = true;
}

void VirtualRun::On(const TurnAwayClient& action) {
  spdlog::warn("client {} is turned away: {}", action.client, action.message);
}

void VirtualRun::On(const Dispatch& action) {
  const bool training =
      std::any_of(action.tasks.begin(), action.tasks.end(),
                  [](const TaskAssignment& task) { return task.kind == TaskKind::kTrain; });
  if (training) dispatched_ms_ = now_ms_;
  for (const TaskAssignment& task : action.tasks) StartTask(task);
  if (training && observer_ != nullptr) observer_->OnDispatch(state_);
}

void VirtualRun::On(const RejectUpdate& action) {
  spdlog::warn("update of task {} from {} rejected: {} {}", action.task, action.client,
               RejectReasonName(action.verdict.reason), action.verdict.detail);
}

void VirtualRun::On(const CancelTasks& action) {
  for (const TaskId task : action.tasks) DropFlight(task);
}

void VirtualRun::On(const Aggregate& action) {
  Result<Manifest> base = store_->Get(action.base_version);
  Result<Manifest> staged =
      base.ok() ? AggregateRound(options_.spec, options_.aggregation, action.plan, action.round,
                                 *base, *spool_, *store_, LoopOnThreads(threads_))
                : base;
  if (!staged.ok()) {
    events_.push_back(AggregationFailed{
        .at_ms = now_ms_, .round = action.round, .error = staged.status().message()});
    return;
  }
  staged_ = std::move(*staged);
  events_.push_back(
      Aggregated{.at_ms = now_ms_, .round = action.round, .shards = staged_->Digests()});
}

void VirtualRun::On(const WriteCheckpoint& action) {
  if (const Status written = store_->Commit(*staged_); !written.ok()) {
    store_->Discard(*staged_);
    events_.push_back(
        CheckpointFailed{.at_ms = now_ms_, .round = action.round, .error = written.message()});
    return;
  }
  events_.push_back(CheckpointWritten{.at_ms = now_ms_, .round = action.round});
}

void VirtualRun::On(const PublishModel& action) {
  std::erase_if(shards_, [&action](const auto& entry) {
    return std::find(action.shards.begin(), action.shards.end(), entry.second.digest) ==
           action.shards.end();
  });
  CleanUpAfterCommit();
}

void VirtualRun::CleanUpAfterCommit() {
  if (const Status cleaned = spool_->RemoveExcept({}); !cleaned.ok()) Fail(cleaned);
  const Status pruned = store_->Prune(config_.storage.keep_versions, {state_.version});
  if (!pruned.ok()) spdlog::warn("checkpoints: {}", pruned.message());
}

void VirtualRun::On(const AbortRound& action) {
  spdlog::warn("round {} attempt {} aborted: {}: {}", action.round, action.attempt,
               AbortReasonName(action.reason), action.detail);
  if (observer_ != nullptr) observer_->OnAbort(action);
}

void VirtualRun::On(Report& action) {
  RoundReport& report = action.report;
  report.bytes_down = std::exchange(bytes_down_, 0);
  report.bytes_up = std::exchange(bytes_up_, 0);
  summary_.final_accuracy = report.global_accuracy.value;
  if (report.global_accuracy.value && report.global_accuracy.value > summary_.best_accuracy) {
    summary_.best_accuracy = report.global_accuracy.value;
  }
  summary_.personalised_accuracy = report.personalised_accuracy.value;
  summary_.final_loss =
      report.global_loss.value ? report.global_loss.value : report.personalised_loss.value;
  summary_.load_cv = report.cumulative_load_cv;
  summary_.bytes_down += report.bytes_down;
  summary_.bytes_up += report.bytes_up;
  if (observer_ != nullptr) observer_->OnReport(report);
  if (const Status written = directory_.AppendReport(report); !written.ok()) Fail(written);
  if (const Status written = times_log_->Append(report, SecondsSince(began_)); !written.ok()) {
    Fail(written);
  }
}

void VirtualRun::On(const Finish& action) {
  spdlog::info("run {}: {}", RunStatusName(action.status), action.detail);
}

RunSummary VirtualRun::Summarise() {
  summary_.status = RunStatusName(state_.status);
  summary_.detail = state_.status_detail;
  summary_.rounds = state_.version;
  summary_.wall_s = times_.wall_s;
  summary_.coordinator_peak_rss_bytes = PeakResidentBytes();
  summary_.model_digest = ModelDigest(state_.shards);
  return summary_;
}

}  // namespace fedmoe
