#include "coordinator/core.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <spdlog/spdlog.h>

namespace fedmoe {
namespace {

// A client's signs of life closer together than this are one.
constexpr Milliseconds kHeartbeatGrainMs = 1'000;
// Events that wait for no reply are written at the latest when there are so many.
constexpr int kMaxUnwrittenEvents = 1'024;
constexpr std::uint64_t kMaxReadBytes = std::uint64_t{1} << 20;

}  // namespace

CoordinatorCore::CoordinatorCore(CoreOptions options, FileSystem& files, RunDirectory& directory,
                                 const Clock& clock, CoreObserver* observer)
    : options_(std::move(options)),
      files_(files),
      directory_(directory),
      clock_(clock),
      observer_(observer),
      spec_digest_(SpecDigest(options_.run.spec)),
      queue_(options_.queue_limit) {}

CoordinatorCore::~CoordinatorCore() {
  queue_.Close();
  if (thread_.joinable()) thread_.join();
  // Before it is destroyed: its last jobs may still hand it new ones.
  if (pool_ != nullptr) pool_->Shutdown();
}

// ---- Calls from transports.

template <typename T>
void CoordinatorCore::Submit(Callback<T> done, std::function<void(Callback<T>)> command) {
  const bool queued = queue_.TryPush([this, done, command = std::move(command)] {
    if (!fatal_.ok()) return done(Unavailable("the coordinator has failed: " + fatal_.message()));
    if (queue_.closed()) return done(Cancelled("the coordinator is going down"));
    command(done);
  });
  if (queued) return;
  if (queue_.closed()) return done(Unavailable("the coordinator is going down"));
  done(ResourceExhausted("the coordinator's queue is full (" +
                         std::to_string(options_.queue_limit) + " waiting)"));
}

void CoordinatorCore::Post(std::function<void()> command) {
  PostOr(std::move(command), [] {});
}

void CoordinatorCore::PostOr(std::function<void()> command, std::function<void()> at_shutdown) {
  const bool queued = queue_.Push([this, command = std::move(command), at_shutdown] {
    if (!fatal_.ok() || queue_.closed()) return at_shutdown();
    command();
  });
  if (!queued) at_shutdown();
}

void CoordinatorCore::Register(RegisterRequest request, Callback<RegisterReply> done) {
  Submit<RegisterReply>(
      std::move(done), [this, request = std::move(request)](Callback<RegisterReply> reply) {
        if (Result<std::uint32_t> protocol = CheckRegistration(request); !protocol.ok())
          return reply(protocol.status());
        registering_[request.client] = std::move(reply);
        Handle(ClientJoined{.at_ms = Now(),
                            .client = request.client,
                            .role = request.role,
                            .instance = request.instance,
                            .profile = request.profile});
        registering_.erase(request.client);
      });
}

Result<std::uint32_t> CoordinatorCore::CheckRegistration(const RegisterRequest& request) const {
  if (!IsValidClientId(request.client)) {
    return InvalidArgument("client name must be 1 to 64 characters of [A-Za-z0-9._-] (got '" +
                           request.client.substr(0, 80) + "')");
  }
  if (request.instance.empty() || request.instance.size() > 64) {
    return InvalidArgument("instance key must be 1 to 64 characters (got " +
                           std::to_string(request.instance.size()) + ")");
  }
  const CapacityProfile& profile = request.profile;
  for (const double rate :
       {profile.compute_flops_per_s, profile.down_bytes_per_s, profile.up_bytes_per_s}) {
    if (!std::isfinite(rate) || rate < 0.0) {
      return InvalidArgument("the capacity profile of client '" + request.client +
                             "' has a rate that is no finite number of at least 0");
    }
  }
  const std::uint32_t low = std::max(request.protocol_min, kProtocolMin);
  const std::uint32_t high = std::min(request.protocol_max, kProtocolMax);
  if (low > high) {
    return FailedPrecondition("no common protocol version: client '" + request.client +
                              "' speaks " + std::to_string(request.protocol_min) + " to " +
                              std::to_string(request.protocol_max) + ", this coordinator " +
                              std::to_string(kProtocolMin) + " to " + std::to_string(kProtocolMax));
  }
  if (!state_.clients.contains(request.client) &&
      state_.clients.size() >= static_cast<std::size_t>(options_.max_clients)) {
    return ResourceExhausted("the coordinator has as many clients as it may (" +
                             std::to_string(options_.max_clients) + ", server.max_clients)");
  }
  return high;
}

void CoordinatorCore::NextTask(SessionId session, Callback<NextTaskReply> done) {
  Submit<NextTaskReply>(std::move(done), [this, session](Callback<NextTaskReply> reply) {
    if (fedmoe::Status known = CheckSession(session); !known.ok()) return reply(known);
    if (state_.phase == Phase::kFinished) {
      told_.insert(session.client);
      return reply(NextTaskReply{
          .kind = NextTaskReply::Kind::kRunOver, .task = {}, .detail = state_.status_detail});
    }
    EndPoll(session.client, NextTaskReply{});
    polls_[session.client] = {.session = session.session,
                              .until_ms = Now() + options_.poll_hold_ms,
                              .done = std::move(reply)};
    DeferDelivery(session.client);
  });
}

void CoordinatorCore::AbandonPoll(SessionId session) {
  Post([this, session] {
    const auto poll = polls_.find(session.client);
    if (poll != polls_.end() && poll->second.session == session.session)
      EndPoll(session.client, Cancelled("the caller has gone"));
  });
}

void CoordinatorCore::Beat(SessionId session, TaskId task, double, Callback<HeartbeatReply> done) {
  Submit<HeartbeatReply>(std::move(done), [this, session, task](Callback<HeartbeatReply> reply) {
    if (fedmoe::Status known = CheckSession(session); !known.ok()) return reply(known);
    HeartbeatReply answer;
    const TaskState* found = FindTask(task);
    if (found == nullptr || found->assignment.client != session.client ||
        found->status == TaskStatus::kExpired) {
      const auto why = cancelled_.find(task);
      answer.cancel = true;
      answer.reason = why == cancelled_.end() ? CancelReason::kRoundOver : why->second;
    }
    reply(answer);
  });
}

void CoordinatorCore::BeginUpdate(SessionId session, UpdateHeader header,
                                  Callback<UploadStart> done) {
  // The session says who speaks, whatever the header claims.
  header.client = session.client;
  Submit<UploadStart>(
      std::move(done), [this, session, header = std::move(header)](Callback<UploadStart> reply) {
        if (fedmoe::Status known = CheckSession(session); !known.ok()) return reply(known);
        const auto task = state_.tasks.find(header.task);
        Verdict content;
        const bool open =
            state_.phase == Phase::kReporting && task != state_.tasks.end() &&
            task->second.assignment.client == session.client &&
            (task->second.status == TaskStatus::kOpen || task->second.status == TaskStatus::kLost);
        if (open) {
          const std::uint64_t limit = MaxUpdateBytes(options_.run.spec, task->second.assignment) +
                                      options_.extra_update_bytes;
          if (header.total_bytes <= limit)
            return OpenUpload(task->second.assignment, header, session, reply);
          content = {RejectReason::kOverSize,
                     "the update has " + std::to_string(header.total_bytes) + " bytes, at most " +
                         std::to_string(limit) + " are due for this task"};
        }
        // Stale, duplicate, another's or too large: the machine has the word, and no byte is read.
        verdicts_[header.task].push_back([reply](Result<Verdict> verdict) {
          if (!verdict.ok()) return reply(verdict.status());
          reply(UploadStart{.verdict = *verdict, .upload = nullptr});
        });
        HandleUpdate(header, content);
      });
}

void CoordinatorCore::HandleUpdate(UpdateHeader header, const Verdict& content) {
  // Feedback counts only of an update that is accepted anew, and only then it was checked; others
  // must not bring numbers into the journal that it cannot hold.
  const auto task = state_.tasks.find(header.task);
  const bool open = task != state_.tasks.end() && (task->second.status == TaskStatus::kOpen ||
                                                   task->second.status == TaskStatus::kLost);
  if (!open || !content.accepted()) header.feedback = TrainingFeedback{};
  Handle(UpdateReceived{.at_ms = Now(), .header = std::move(header), .content = content});
}

void CoordinatorCore::OpenUpload(const TaskAssignment& task, const UpdateHeader& header,
                                 const SessionId& session, const Callback<UploadStart>& reply) {
  pool_->Run([this, task, header, session, reply] {
    Result<std::unique_ptr<IncomingUpdate>> file = spool_->Begin(header.task, header.total_bytes);
    if (!file.ok()) return reply(file.status());
    reply(UploadStart{
        .verdict = std::nullopt,
        .upload = std::make_shared<Upload>(*this, session, task, header, std::move(*file))});
  });
}

void CoordinatorCore::SubmitEvaluation(SessionId session, EvaluationResult result,
                                       Callback<bool> done) {
  Submit<bool>(std::move(done), [this, session, result](Callback<bool> reply) mutable {
    if (fedmoe::Status known = CheckSession(session); !known.ok()) return reply(known);
    // The journal holds finite numbers only; a result without examples is a bad one.
    const bool finite = std::isfinite(result.correct) && std::isfinite(result.loss) &&
                        std::isfinite(result.examples);
    if (!finite) result = EvaluationResult{.task = result.task};
    Handle(EvaluationReceived{.at_ms = Now(),
                              .task = result.task,
                              .client = session.client,
                              .correct = result.correct,
                              .loss = result.loss,
                              .examples = result.examples});
    DeferReply<bool>(reply, true);
  });
}

void CoordinatorCore::ReturnTask(SessionId session, TaskId task, std::string why,
                                 Callback<bool> done) {
  Submit<bool>(std::move(done), [this, session, task, why = std::move(why)](Callback<bool> reply) {
    if (fedmoe::Status known = CheckSession(session); !known.ok()) return reply(known);
    spdlog::warn("client {} returns task {}: {}", session.client, task, why);
    Handle(TaskReturned{.at_ms = Now(), .task = task, .client = session.client, .why = why});
    DeferReply<bool>(reply, true);
  });
}

void CoordinatorCore::Leave(SessionId session, Callback<bool> done) {
  Submit<bool>(std::move(done), [this, session](Callback<bool> reply) {
    if (fedmoe::Status known = CheckSession(session); !known.ok()) return reply(known);
    spdlog::info("client {} leaves", session.client);
    told_.insert(session.client);
    Handle(ClientLeft{.at_ms = Now(), .client = session.client, .session = session.session});
    DeferReply<bool>(reply, true);
  });
}

void CoordinatorCore::ReadShard(SessionId session, Digest digest, std::uint64_t offset,
                                std::uint64_t length, Callback<std::string> done) {
  bool current = false;
  {
    std::lock_guard lock(mutex_);
    const auto known = sessions_.find(session.client);
    current = known != sessions_.end() && known->second == session.session;
  }
  if (!current) {
    return done(
        Aborted("session of client '" + session.client + "' is not current; register again"));
  }
  if (length > kMaxReadBytes)
    return done(InvalidArgument("at most 1 MiB of a shard is read at once"));
  Touch(session);
  pool_->Run([this, digest = std::move(digest), offset, length, done = std::move(done)] {
    std::string bytes(static_cast<std::size_t>(length), '\0');
    const fedmoe::Status read = store_->ReadShardAt(
        digest, offset, std::as_writable_bytes(std::span(bytes.data(), bytes.size())));
    if (!read.ok()) return done(read);
    CountDown(length);
    done(std::move(bytes));
  });
}

Result<std::uint64_t> CoordinatorCore::ShardBytes(const Digest& digest) const {
  return store_->ShardBytes(digest);
}

void CoordinatorCore::Touch(const SessionId& session) {
  {
    std::lock_guard lock(mutex_);
    Milliseconds& last = touched_[session.client];
    const Milliseconds now = clock_.NowMs();
    if (last != 0 && now - last < kHeartbeatGrainMs) return;
    last = now;
  }
  Post([this, session] { (void)CheckSession(session); });
}

void CoordinatorCore::Status(Callback<std::string> done) {
  Submit<std::string>(std::move(done),
                      [this](Callback<std::string> reply) { reply(StatusJson()); });
}

void CoordinatorCore::RequestStop(bool drain) {
  Post([this, drain] { Handle(StopRequested{.at_ms = Now(), .drain = drain}); });
}

bool CoordinatorCore::WaitFor(Milliseconds timeout_ms) {
  std::unique_lock lock(mutex_);
  return finished_condition_.wait_for(lock, std::chrono::milliseconds(timeout_ms),
                                      [this] { return finished_; });
}

RunSummary CoordinatorCore::Wait() {
  std::unique_lock lock(mutex_);
  finished_condition_.wait(lock, [this] { return finished_; });
  return summary_;
}

// ---- The round thread.

Milliseconds CoordinatorCore::Now() const { return base_ms_ + clock_.NowMs() - origin_ms_; }

Milliseconds CoordinatorCore::NextWakeMs() const {
  Milliseconds wake = NextTickMs(state_, options_.run);
  const auto earlier = [&wake](Milliseconds at) {
    if (wake < 0 || at < wake) wake = at;
  };
  for (const auto& [client, poll] : polls_) earlier(poll.until_ms);
  if (state_.phase == Phase::kFinished && !Finished()) earlier(linger_until_ms_);
  return wake;
}

bool CoordinatorCore::Finished() const {
  std::lock_guard lock(mutex_);
  return finished_;
}

void CoordinatorCore::Loop() {
  while (!queue_.closed()) {
    const Milliseconds wake = NextWakeMs();
    const Milliseconds wait = wake < 0 ? -1 : std::max<Milliseconds>(0, wake - Now());
    for (CommandQueue::Command& command : queue_.PopAll(wait)) command();
    if (fatal_.ok()) Handle(Tick{.at_ms = Now()});
    EndHeldPolls();
    Flush();
    FinishIfToldAll();
  }
  // Whoever still waits is told; commands see the closed queue and do nothing else.
  for (CommandQueue::Command& command : queue_.PopAll(0)) command();
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
  for (auto poll = polls_.begin(); poll != polls_.end();) {
    if (poll->second.until_ms > now) {
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
  const bool quiet =
      std::holds_alternative<Tick>(event) || std::holds_alternative<Heartbeat>(event);
  if (!quiet || result.changed) {
    journal_->Append(event);
    if (++unwritten_events_ >= kMaxUnwrittenEvents) journal_dirty_ = true;
  }
  if (result.changed) journal_dirty_ = true;
  if (std::holds_alternative<CheckpointWritten>(event)) snapshot_due_ = true;
  for (Action& action : result.actions) Execute(std::move(action));
}

void CoordinatorCore::Flush() {
  if (fatal_.ok() && (snapshot_due_ || journal_dirty_)) {
    fedmoe::Status written = journal_->Commit();
    if (written.ok()) {
      // After the events that they tell of, and before a snapshot that forgets these.
      WriteReports();
      if (snapshot_due_ && reports_.empty()) written = journal_->Snapshot(state_);
    }
    if (!written.ok()) {
      OnFatal(written.WithContext("journal"));
    } else {
      journal_dirty_ = false;
      if (snapshot_due_ && reports_.empty()) {
        CleanUpAfterCommit();
        snapshot_due_ = false;
      }
      unwritten_events_ = 0;
    }
  }
  if (!fatal_.ok()) {
    // Nothing may be acknowledged that is not durable.
    for (auto& reply : std::exchange(deferred_, {}))
      reply(Unavailable("the coordinator has failed: " + fatal_.message()));
    return;
  }
  // A reply may defer another.
  while (!deferred_.empty()) {
    for (auto& reply : std::exchange(deferred_, {})) reply(fedmoe::Status::Ok());
  }
}

void CoordinatorCore::CleanUpAfterCommit() {
  std::set<TaskId> keep;
  for (const auto& [task, state] : state_.tasks) keep.insert(task);
  if (const fedmoe::Status cleaned = spool_->RemoveExcept(keep); !cleaned.ok())
    spdlog::warn("spool: {}", cleaned.message());
  std::set<ModelVersion> pinned{state_.version};
  for (const auto& [version, evaluation] : state_.evaluations) pinned.insert(version);
  const fedmoe::Status pruned = store_->Prune(options_.keep_versions, pinned);
  if (!pruned.ok()) spdlog::warn("checkpoints: {}", pruned.message());
}

void CoordinatorCore::OnFatal(const fedmoe::Status& status) {
  fatal_ = status;
  spdlog::error("the run stops: {}", status.ToString());
  state_.phase = Phase::kFinished;
  state_.status = RunStatus::kFailed;
  state_.status_detail = status.ToString();
  for (auto& [client, poll] : std::exchange(polls_, {}))
    poll.done(Unavailable("the coordinator has failed"));
  Conclude(RunStatus::kFailed, status.ToString());
  linger_until_ms_ = Now();
}

void CoordinatorCore::FinishIfToldAll() {
  if (state_.phase != Phase::kFinished || Finished()) return;
  bool waiting = false;
  for (const auto& [id, client] : state_.clients)
    waiting |= client.connected && !told_.contains(id);
  if (waiting && Now() < linger_until_ms_) return;
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
  if (Now() - client->second.last_heard_ms >= kHeartbeatGrainMs) {
    Handle(Heartbeat{.at_ms = Now(), .client = session.client, .session = session.session});
  }
  return fedmoe::Status::Ok();
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
  NextTaskReply reply{
      .kind = NextTaskReply::Kind::kTask, .task = std::move(pending->second.front()), .detail = ""};
  pending->second.erase(pending->second.begin());
  if (pending->second.empty()) pending_.erase(pending);
  EndPoll(client, std::move(reply));
}

void CoordinatorCore::EndPoll(const ClientId& client, Result<NextTaskReply> reply) {
  const auto poll = polls_.find(client);
  if (poll == polls_.end()) return;
  Callback<NextTaskReply> done = std::move(poll->second.done);
  polls_.erase(poll);
  done(std::move(reply));
}

}  // namespace fedmoe
