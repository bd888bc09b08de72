// How the core carries out the round machine's actions.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <utility>

#include <spdlog/spdlog.h>

#include "common/thread_loop.h"
#include "coordinator/aggregator.h"
#include "coordinator/core.h"

namespace fedmoe {
namespace {

// VmHWM of this process, or 0 where /proc does not tell.
std::uint64_t PeakResidentBytes() {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    unsigned long long kib = 0;
    if (std::sscanf(line.c_str(), "VmHWM: %llu kB", &kib) == 1) return kib * 1024;
  }
  return 0;
}

}  // namespace

void CoordinatorCore::Execute(Action action) {
  std::visit([this](auto& request) { On(request); }, action);
}

// Clients that the state no longer knows are not known here, either.
void CoordinatorCore::ForgetStrangers() {
  if (sessions_.size() <= 2 * std::max(kMaxKnownClients, state_.clients.size())) return;
  const auto stranger = [this](const ClientId& id) { return !state_.clients.contains(id); };
  std::erase_if(sessions_, [&](const auto& entry) { return stranger(entry.first); });
  std::erase_if(touched_,
                [&](const auto& entry) { return !entry.second.posted && stranger(entry.first); });
  std::erase_if(told_, stranger);
}

void CoordinatorCore::On(AdmitClient& action) {
  const ClientRecord& client = state_.clients.at(action.client);
  {
    std::lock_guard lock(mutex_);
    sessions_[action.client] = action.session;
    ForgetStrangers();
  }
  told_.erase(action.client);
  pending_.erase(action.client);
  // Also one of a session that was lost: it would swallow a task of the new one.
  EndPoll(action.client, Aborted("the session was superseded by a newer one of the same client"));
  if (client.role == ClientRole::kTrainer) {
    spdlog::info("client {} joins: up to {} experts ({})", action.client, action.capacity.experts,
                 CapacityReasonName(action.capacity.reason));
  } else {
    spdlog::info("evaluator {} joins", action.client);
  }
  const auto waiting = registering_.find(action.client);
  if (waiting == registering_.end()) return;
  RegisterReply reply{.run_id = run_id_,
                      .run_name = options_.run_name,
                      .protocol = waiting->second.protocol,
                      .session = action.session,
                      .preset = options_.run.spec.preset,
                      .options = options_.run.spec.options,
                      .spec_digest = spec_digest_,
                      .seed = options_.run.seed,
                      .heartbeat_interval_ms = options_.heartbeat_interval_ms,
                      .capacity = action.capacity};
  DeferReply<RegisterReply>(waiting->second.done, std::move(reply));
}

void CoordinatorCore::On(TurnAwayClient& action) {
  spdlog::warn("client {} is turned away: {}", action.client, action.message);
  if (const auto waiting = registering_.find(action.client); waiting != registering_.end()) {
    Defer([done = waiting->second.done, status = fedmoe::Status(action.code, action.message)](
              const fedmoe::Status&) { done(status); });
  }
}

void CoordinatorCore::On(Dispatch& action) {
  bool training = false;
  dispatched_ = true;
  for (TaskAssignment& task : action.tasks) {
    training |= task.kind == TaskKind::kTrain;
    cancelled_.erase(task.task);
    const ClientId client = task.client;
    if (task.follows != 0) {
      spdlog::info("round {}: nobody is left to train {} of the experts, client {} takes over",
                   task.round, task.experts.size(), client);
    }
    std::vector<PendingTask>& waiting = pending_[client];
    std::erase_if(waiting,
                  [&task](const PendingTask& other) { return other.task.task == task.task; });
    waiting.push_back({.task = std::move(task), .commit = next_commit_});
    DeferDelivery(client);
  }
  if (training && observer_ != nullptr) observer_->OnDispatch(state_);
}

void CoordinatorCore::On(AcceptUpdate& action) {
  spdlog::debug("update of task {} from {} accepted{}", action.task, action.client,
                action.duplicate ? " (again)" : "");
  AnswerVerdicts(action.task, Verdict{});
}

void CoordinatorCore::On(RejectUpdate& action) {
  spdlog::warn("update of task {} from {} rejected: {} {}", action.task, action.client,
               RejectReasonName(action.verdict.reason), action.verdict.detail);
  AnswerVerdicts(action.task, action.verdict);
}

void CoordinatorCore::AnswerVerdicts(TaskId task, const Verdict& verdict) {
  const auto waiting = verdicts_.find(task);
  if (waiting == verdicts_.end()) return;
  for (Upload::VerdictDone& done : waiting->second) {
    DeferReply<Verdict>(std::move(done), verdict);
  }
  verdicts_.erase(waiting);
}

void CoordinatorCore::On(CancelTasks& action) {
  for (const TaskId task : action.tasks) {
    cancelled_[task] = action.reason;
    for (auto waiting = pending_.begin(); waiting != pending_.end();) {
      std::erase_if(waiting->second,
                    [task](const PendingTask& other) { return other.task.task == task; });
      waiting = waiting->second.empty() ? pending_.erase(waiting) : std::next(waiting);
    }
  }
  // Only recent reasons are worth telling: the oldest tasks go first.
  while (cancelled_.size() > 2 * static_cast<std::size_t>(options_.max_clients))
    cancelled_.erase(cancelled_.begin());
}

void CoordinatorCore::On(Aggregate& action) {
  pool_->Run([this, action] {
    const auto staged =
        std::make_shared<Result<StagedVersion>>(WithRoom([&] { return Stage(action); }));
    Post([this, round = action.round, staged] {
      if (!staged->ok()) {
        return Handle(
            AggregationFailed{.at_ms = Now(), .round = round, .error = staged->status().message()});
      }
      staged_ = std::move(*staged).value();
      Handle(Aggregated{.at_ms = Now(), .round = round, .shards = staged_->manifest.Digests()});
    });
  });
}

// On the pool. The bytes of a small version are kept with one sync, before anybody can know of it.
Result<CoordinatorCore::StagedVersion> CoordinatorCore::Stage(const Aggregate& action) {
  FEDMOE_ASSIGN_OR_RETURN(const Manifest base, store_->Get(action.base_version));
  const AggregationOptions& options = options_.run.aggregation;
  StagedVersion staged;
  const bool small = store_->StagedBytes(action.plan.changed_shards,
                                         MomentCount(options.optimizer)) <= options_.small_bytes;
  if (small) staged.syncing = Syncing::kLater;
  FEDMOE_ASSIGN_OR_RETURN(
      staged.manifest,
      AggregateRound(options_.run.spec, options, action.plan, action.round, base, *spool_, *store_,
                     LoopOnThreads(options_.worker_threads), staged.syncing));
  if (small) {
    FEDMOE_ASSIGN_OR_RETURN(const std::vector<KeptFile> files,
                            store_->StagedFiles(staged.manifest));
    FEDMOE_RETURN_IF_ERROR(kept_->Keep(files));
  }
  return staged;
}

void CoordinatorCore::CommitSmallVersion(RoundNumber round) {
  if (const fedmoe::Status written = store_->Commit(staged_->manifest, Syncing::kLater);
      !written.ok()) {
    store_->Discard(staged_->manifest);
    following_.push_back(
        CheckpointFailed{.at_ms = Now(), .round = round, .error = written.message()});
    return;
  }
  following_.push_back(CheckpointWritten{.at_ms = Now(), .round = round});
}

void CoordinatorCore::On(WriteCheckpoint& action) {
  if (staged_->syncing == Syncing::kLater) return CommitSmallVersion(action.round);
  pool_->Run([this, round = action.round, staged = staged_->manifest] {
    const fedmoe::Status written = WithRoom([&] { return store_->Commit(staged); });
    if (!written.ok()) store_->Discard(staged);
    Post([this, round, written] {
      if (!written.ok())
        return Handle(CheckpointFailed{.at_ms = Now(), .round = round, .error = written.message()});
      Handle(CheckpointWritten{.at_ms = Now(), .round = round});
    });
  });
}

void CoordinatorCore::On(PublishModel& action) {
  spdlog::debug("model version {} is published", action.version);
}

void CoordinatorCore::On(AbortRound& action) {
  spdlog::warn("round {} attempt {} aborted: {}: {}", action.round, action.attempt,
               AbortReasonName(action.reason), action.detail);
  if (observer_ != nullptr) observer_->OnAbort(action);
}

void CoordinatorCore::On(Report& action) {
  RoundReport& report = action.report;
  const std::uint64_t down = bytes_down_, up = bytes_up_;
  report.bytes_down = down - std::exchange(reported_down_, down);
  report.bytes_up = up - std::exchange(reported_up_, up);
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
  reports_.push_back(std::move(report));
}

void CoordinatorCore::On(Finish& action) {
  spdlog::info("run {}: {}", RunStatusName(action.status), action.detail);
  const bool completed = action.status == RunStatus::kCompleted;
  linger_until_ms_ = Now() + (completed ? options_.linger_ms
                                        : std::min(options_.linger_ms, options_.stop_linger_ms));
  clean_up_due_ = true;  // an earlier portion may not have known that no round follows
  Defer([this, status = action.status, detail = action.detail](const fedmoe::Status& durable) {
    if (!durable.ok()) return;
    Conclude(status, detail);
    for (auto& [client, poll] : std::exchange(polls_, {})) {
      poll.done(EndOfRun(client, *poll.poll));
    }
  });
}

void CoordinatorCore::Conclude(RunStatus status, const std::string& detail) {
  std::lock_guard lock(mutex_);
  summary_.status = RunStatusName(status);
  summary_.detail = detail;
  summary_.rounds = state_.version;
  summary_.wall_s = earlier_wall_s_ + static_cast<double>(clock_.NowMs() - origin_ms_) / 1000.0;
  summary_.coordinator_peak_rss_bytes = PeakResidentBytes();
  summary_.model_digest = ModelDigest(state_.shards);
  if (const fedmoe::Status written = directory_.WriteSummary(summary_); !written.ok()) {
    spdlog::error("summary.json could not be written: {}", written.message());
  }
}

}  // namespace fedmoe
