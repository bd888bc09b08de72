// The round thread.
#include "coordinator/core.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <spdlog/spdlog.h>

namespace fedmoe {
namespace {

// A client's signs of life closer together than this are one.
constexpr Milliseconds kHeartbeatGrainMs = 1'000;

}  // namespace

// A commit waits for the disk, which nothing needs the round thread for.
struct CoordinatorCore::PendingCommit {
  std::uint64_t number = 0;
  std::vector<std::function<void(const fedmoe::Status&)>> replies;
  std::mutex mutex;
  std::condition_variable ended;
  std::optional<fedmoe::Status> status;

  void End(const fedmoe::Status& result) {
    const std::lock_guard lock(mutex);
    status = result;
    ended.notify_all();
  }
  fedmoe::Status Wait() {
    std::unique_lock lock(mutex);
    ended.wait(lock, [this] { return status.has_value(); });
    return *status;
  }
};

CoordinatorCore::CoordinatorCore(CoreOptions options, FileSystem& files, RunDirectory& directory,
                                 const Clock& clock, CoreObserver* observer)
    : options_(std::move(options)),
      files_(files),
      directory_(directory),
      clock_(clock),
      observer_(observer),
      spec_digest_(SpecDigest(options_.run.spec)),
      quick_owner_(std::make_shared<WriteBehindFileSystem>(
          files_, WriteBehindFileSystem::Limits{.max_file_bytes = options_.small_bytes})),
      quick_files_(*quick_owner_),
      queue_(options_.queue_limit),
      house_(std::make_shared<Housekeeping>()),
      arrivals_(std::chrono::milliseconds(options_.patience_ms)) {}

CoordinatorCore::~CoordinatorCore() {
  queue_.Close();
  if (thread_.joinable()) thread_.join();
  SyncArrived(arrivals_.Close());
  // Before it is destroyed: its last jobs may still hand it new ones.
  if (pool_ != nullptr) pool_->Shutdown();
  if (syncs_ != nullptr) syncs_->Shutdown();
  if (writer_ != nullptr) writer_->Shutdown();
}

// ---- The round thread.

Milliseconds CoordinatorCore::Now() const { return base_ms_ + clock_.NowMs() - origin_ms_; }

Milliseconds CoordinatorCore::NextWakeMs() const {
  Milliseconds wake = NextTickMs(state_, options_.run);
  const auto earlier = [&wake](Milliseconds at) {
    if (wake < 0 || at < wake) wake = at;
  };
  if (!polls_.empty()) earlier(next_poll_end_ms_);
  const bool committing = commit_ != nullptr;  // its end wakes the loop
  if (state_.phase == Phase::kFinished && !Finished() && !committing) earlier(linger_until_ms_);
  const bool can_keep_house = !committing && fatal_.ok();
  if (const auto portion = NextPortionMs(); portion && can_keep_house) earlier(*portion);
  return wake;
}

Milliseconds CoordinatorCore::NextWaitMs() const {
  const Milliseconds wake = NextWakeMs();
  const Milliseconds wait = wake < 0 ? -1 : std::max<Milliseconds>(0, wake - Now());
  // In real time, whatever the clock says: it is the disk that is waited for.
  const auto due = arrivals_.NextDue();
  if (!due) return wait;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(*due - SteadyClock::now());
  const Milliseconds left_ms = std::max<Milliseconds>(0, left.count());
  return wait < 0 ? left_ms : std::min(wait, left_ms);
}

bool CoordinatorCore::Finished() const {
  std::lock_guard lock(mutex_);
  return finished_;
}

void CoordinatorCore::Loop() {
  while (!queue_.closed()) {
    for (CommandQueue::Command& command : queue_.PopAll(NextWaitMs())) command();
    if (fatal_.ok()) {
      HearParkedPolls();
      Handle(Tick{.at_ms = Now()});
    }
    if (KeptUpdates due = arrivals_.TakeDue(SteadyClock::now()); !due.empty()) {
      syncs_->Run([this, due = std::move(due)] { SyncArrived(due); });
    }
    EndHeldPolls();
    Flush();
    FinishIfToldAll();
  }
  // Whoever still waits is told; commands see the closed queue and do nothing else.
  for (CommandQueue::Command& command : queue_.PopAll(0)) command();
  if (commit_ != nullptr) {
    static_cast<void>(commit_->Wait());
    for (auto& reply : commit_->replies) reply(Cancelled("the coordinator is going down"));
    commit_ = nullptr;
  }
  for (auto& reply : std::exchange(deferred_, {}))
    reply(Cancelled("the coordinator is going down"));
  for (auto& [client, poll] : std::exchange(polls_, {}))
    poll.done(Cancelled("the coordinator is going down"));
  for (auto& [task, waiting] : std::exchange(verdicts_, {})) {
    for (auto& done : waiting) done(Cancelled("the coordinator is going down"));
  }
}

void CoordinatorCore::EndHeldPolls() {
  const Milliseconds now = Now();
  // With thousands of polls, not at every step.
  if (now < next_poll_end_ms_) return;
  next_poll_end_ms_ = now + options_.poll_hold_ms;
  for (auto poll = polls_.begin(); poll != polls_.end();) {
    if (poll->second.until_ms > now) {
      next_poll_end_ms_ = std::min(next_poll_end_ms_, poll->second.until_ms);
      ++poll;
      continue;
    }
    ParkedPoll over = std::move(poll->second);
    poll = polls_.erase(poll);
    over.done(NextTaskReply{});
  }
}

void CoordinatorCore::Handle(const Event& event) {
  StepResult result = Step(std::move(state_), event, options_.run);
  state_ = std::move(result.state);
  if (result.changed) {
    journal_->Append(event);
    journal_dirty_ = true;
    ++events_;
    snapshot_due_ |= events_ >= options_.snapshot_events + 10 * state_.clients.size();
  }
  if (std::holds_alternative<CheckpointWritten>(event)) {
    snapshot_due_ = true;
    clean_up_due_ = true;
    ++commits_;
  }
  for (Action& action : result.actions) Execute(std::move(action));
  for (const Event& next : std::exchange(following_, {})) Handle(next);
}

fedmoe::Status CoordinatorCore::MakeDurable() {
  FinishCommit();
  FEDMOE_RETURN_IF_ERROR(fatal_);
  const std::uint64_t commit = next_commit_++;
  FEDMOE_RETURN_IF_ERROR(journal_->Commit().WithContext("journal"));
  durable_commit_ = commit;
  journal_dirty_ = false;
  if (state_.phase != Phase::kFinished) return fedmoe::Status::Ok();
  // No later time comes for what is otherwise done beside the next round.
  house_->Wait();
  static_cast<void>(TakeHousekeeping());  // it is tried again
  FEDMOE_RETURN_IF_ERROR(KeepHouseNow());
  return TakeSnapshot();
}

void CoordinatorCore::Flush() {
  if (commit_ != nullptr) return;
  const bool changed = snapshot_due_ || journal_dirty_;
  if (fatal_.ok() && changed) {
    // Housekeeping may rest on nothing that is not durable: for it the commit is waited for.
    const std::optional<Milliseconds> portion = NextPortionMs();
    // Tasks, which are all that clients wait for, have no time for two changes of thread.
    const bool here = std::exchange(dispatched_, false) || state_.phase == Phase::kFinished;
    const bool beside = options_.durability == Durability::kFull && journal_dirty_ && !here &&
                        !(portion && *portion <= Now());
    if (beside) return StartCommit();
    if (const fedmoe::Status durable = MakeDurable(); !durable.ok()) OnFatal(durable);
  }
  GiveReplies(std::exchange(deferred_, {}));
  if (fatal_.ok() && !journal_dirty_) KeepHouse();
}

void CoordinatorCore::StartCommit() {
  commit_ = std::make_shared<PendingCommit>();
  commit_->replies = std::exchange(deferred_, {});
  commit_->number = next_commit_++;
  journal_dirty_ = false;
  writer_->Run([this, commit = commit_, batch = journal_->Take()] {
    commit->End(journal_->Write(batch).WithContext("journal"));
    Post([this, commit] {
      if (commit == commit_) FinishCommit();
    });
  });
}

void CoordinatorCore::FinishCommit() {
  const std::shared_ptr<PendingCommit> commit = std::exchange(commit_, nullptr);
  if (commit == nullptr) return;
  const fedmoe::Status durable = commit->Wait();
  if (durable.ok()) {
    durable_commit_ = commit->number;
  } else {
    OnFatal(durable);
  }
  GiveReplies(std::move(commit->replies));
}

// What was deferred while they are given waits for the next commit if there is something to commit.
void CoordinatorCore::GiveReplies(std::vector<std::function<void(const fedmoe::Status&)>> replies) {
  while (!replies.empty()) {
    for (auto& reply : replies) {
      // Nothing may be acknowledged that is not durable.
      reply(fatal_.ok() ? fedmoe::Status::Ok()
                        : Unavailable("the coordinator has failed: " + fatal_.message()));
    }
    replies.clear();
    if (!journal_dirty_ || !fatal_.ok()) replies = std::exchange(deferred_, {});
  }
}

void CoordinatorCore::OnFatal(const fedmoe::Status& status) {
  FinishCommit();
  fatal_ = status;
  spdlog::error("the run stops: {}", status.ToString());
  state_.phase = Phase::kFinished;
  state_.status = RunStatus::kFailed;
  state_.status_detail = status.ToString();
  if (spool_ != nullptr) spool_->GiveBack();  // no housekeeping comes after this
  for (auto& [client, poll] : std::exchange(polls_, {}))
    poll.done(Unavailable("the coordinator has failed"));
  Conclude(RunStatus::kFailed, status.ToString());
  linger_until_ms_ = Now();
}

void CoordinatorCore::FinishIfToldAll() {
  if (state_.phase != Phase::kFinished || Finished()) return;
  const bool durable = commit_ == nullptr && !journal_dirty_ && deferred_.empty();
  if (fatal_.ok() && !durable) return;
  bool waiting = false;
  for (const auto& [id, client] : state_.clients)
    waiting |= client.connected && !told_.contains(id);
  if (waiting && Now() < linger_until_ms_) return;
  FinishCommit();
  if (state_.status == RunStatus::kCompleted) {
    const fedmoe::Status kept = journal_->SetFact(kToldFact, std::to_string(state_.version));
    // Then a restart does no more than to wait for the clients again.
    if (!kept.ok()) spdlog::warn("journal: {}", kept.message());
  }
  std::lock_guard lock(mutex_);
  finished_ = true;
  finished_condition_.notify_all();
}

fedmoe::Status CoordinatorCore::CheckSession(const SessionId& session) {
  const auto client = state_.clients.find(session.client);
  if (client == state_.clients.end() || client->second.session != session.session ||
      !client->second.connected) {
    return Aborted("session of client '" + session.client + "' is not current; register again");
  }
  Hear(session);
  return fedmoe::Status::Ok();
}

Milliseconds CoordinatorCore::HeartbeatGrainMs() const {
  const Milliseconds timeout_ms = options_.run.participation.heartbeat_timeout_ms;
  return timeout_ms > 0 ? std::min(kHeartbeatGrainMs, timeout_ms / 8) : kHeartbeatGrainMs;
}

// The machine counts only signs of life some way apart; others need not reach it.
void CoordinatorCore::Hear(const SessionId& session) {
  const Milliseconds grain_ms = HeartbeatGrainMs();
  const auto client = state_.clients.find(session.client);
  if (client == state_.clients.end() || Now() - client->second.last_heard_ms < grain_ms) return;
  Handle(Heartbeat{.at_ms = Now(), .client = session.client, .session = session.session});
}

void CoordinatorCore::HearParkedPolls() {
  // Often enough for what Hear() counts; with thousands of polls, not at every step.
  if (Now() - polls_heard_ms_ < HeartbeatGrainMs() / 2) return;
  polls_heard_ms_ = Now();
  for (const auto& [client, parked] : polls_) {
    if (!parked.poll->abandoned) Hear({.client = client, .session = parked.session});
  }
}

const TaskState* CoordinatorCore::FindTask(TaskId task) const {
  if (const auto found = state_.tasks.find(task); found != state_.tasks.end())
    return &found->second;
  for (const auto& [version, evaluation] : state_.evaluations) {
    if (const auto found = evaluation.tasks.find(task); found != evaluation.tasks.end())
      return &found->second;
  }
  return nullptr;
}

void CoordinatorCore::DeferDelivery(const ClientId& client) {
  Defer([this, client](const fedmoe::Status& status) {
    if (status.ok()) DeliverTasks(client);
  });
}

void CoordinatorCore::DeliverTasks(const ClientId& client) {
  const auto poll = polls_.find(client);
  const auto pending = pending_.find(client);
  if (poll == polls_.end() || pending == pending_.end()) return;
  if (poll->second.poll->abandoned) return EndPoll(client, Cancelled("the caller has gone"));
  std::vector<PendingTask>& waiting = pending->second;
  // What was settled meanwhile, by an update under an earlier session, is not given out again.
  std::erase_if(waiting, [this](const PendingTask& each) {
    const TaskState* known = FindTask(each.task.task);
    return known == nullptr || known->status != TaskStatus::kOpen;
  });
  std::optional<TaskAssignment> next;
  // One whose dispatch is not durable yet is delivered after the commit that makes it so.
  const bool all_durable = commit_ == nullptr && !journal_dirty_;
  if (!waiting.empty() && (all_durable || waiting.front().commit <= durable_commit_)) {
    next = std::move(waiting.front().task);
    waiting.erase(waiting.begin());
  }
  if (waiting.empty()) pending_.erase(pending);
  if (!next) return;
  EndPoll(client, NextTaskReply{.kind = NextTaskReply::Kind::kTask,
                                .task = std::move(*next),
                                .detail = "",
                                .tasks = static_cast<int>(state_.tasks.size())});
}

// What a client that asks for work is told once the run has ended.
Result<NextTaskReply> CoordinatorCore::EndOfRun(const ClientId& client, const Poll& poll) {
  if (poll.abandoned) return Cancelled("the caller has gone");
  if (state_.status != RunStatus::kCompleted) {
    // Restarted, the coordinator takes the run up again, and its clients must not have gone: one
    // that does not hear this looks for it as it would anyway.
    told_.insert(client);
    return Unavailable("the coordinator is stopping: " + state_.status_detail);
  }
  // That it has heard it, it says by leaving: a reply can be lost, or its reader killed.
  return NextTaskReply{.kind = NextTaskReply::Kind::kRunOver,
                       .task = {},
                       .detail = "all " + std::to_string(state_.version) + " rounds are done"};
}

void CoordinatorCore::EndPoll(const ClientId& client, Result<NextTaskReply> reply) {
  const auto poll = polls_.find(client);
  if (poll == polls_.end()) return;
  Callback<NextTaskReply> done = std::move(poll->second.done);
  polls_.erase(poll);
  done(std::move(reply));
}

}  // namespace fedmoe
