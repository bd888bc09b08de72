// Calls from transports: each is checked, handed to the round thread and answered from there.
#include <algorithm>
#include <cmath>
#include <utility>

#include <spdlog/spdlog.h>

#include "coordinator/core.h"

namespace fedmoe {
namespace {

// A client's signs of life beside its calls, closer together than this, are one.
constexpr Milliseconds kTouchGrainMs = 1'000;

}  // namespace

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
        const Result<std::uint32_t> protocol = CheckRegistration(request);
        if (!protocol.ok()) return reply(protocol.status());
        registering_[request.client] = {.done = std::move(reply), .protocol = *protocol};
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
  FEDMOE_RETURN_IF_ERROR(ValidateProfile(request.profile));
  const std::uint32_t low = std::max(request.protocol_min, kProtocolMin);
  const std::uint32_t high = std::min(request.protocol_max, kProtocolMax);
  if (low > high) {
    return FailedPrecondition("no common protocol version: client '" + request.client +
                              "' speaks " + std::to_string(request.protocol_min) + " to " +
                              std::to_string(request.protocol_max) + ", this coordinator " +
                              std::to_string(kProtocolMin) + " to " + std::to_string(kProtocolMax));
  }
  const auto others = std::count_if(
      state_.clients.begin(), state_.clients.end(),
      [&](const auto& entry) { return entry.second.connected && entry.first != request.client; });
  if (others >= options_.max_clients) {
    return ResourceExhausted("the coordinator has as many clients as it may (" +
                             std::to_string(options_.max_clients) + ", server.max_clients)");
  }
  return high;
}

void CoordinatorCore::NextTask(SessionId session, std::shared_ptr<Poll> poll,
                               Callback<NextTaskReply> done) {
  Submit<NextTaskReply>(std::move(done), [this, session, poll](Callback<NextTaskReply> reply) {
    if (poll->abandoned) return reply(Cancelled("the caller has gone"));
    if (fedmoe::Status known = CheckSession(session); !known.ok()) return reply(known);
    if (state_.phase == Phase::kFinished) {
      return Defer([this, session, poll, reply](const fedmoe::Status& durable) {
        reply(durable.ok() ? EndOfRun(session.client, *poll) : Result<NextTaskReply>(durable));
      });
    }
    EndPoll(session.client, NextTaskReply{});
    const Milliseconds until_ms = Now() + options_.poll_hold_ms;
    next_poll_end_ms_ = polls_.empty() ? until_ms : std::min(next_poll_end_ms_, until_ms);
    polls_[session.client] = {
        .session = session.session, .poll = poll, .until_ms = until_ms, .done = std::move(reply)};
    DeferDelivery(session.client);
  });
}

// However many polls are abandoned at once, one command looks for them.
void CoordinatorCore::AbandonPoll(const std::shared_ptr<Poll>& poll) {
  poll->abandoned = true;
  if (sweep_posted_.exchange(true)) return;
  Post([this] {
    sweep_posted_ = false;
    std::vector<ClientId> gone;
    for (const auto& [client, parked] : polls_) {
      if (parked.poll->abandoned) gone.push_back(client);
    }
    for (const ClientId& client : gone) EndPoll(client, Cancelled("the caller has gone"));
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
                                  Callback<UploadStart> done, std::uint64_t offset) {
  // The session says who speaks, whatever the header claims.
  header.client = session.client;
  Submit<UploadStart>(std::move(done), [this, session, offset,
                                        header = std::move(header)](Callback<UploadStart> reply) {
    if (fedmoe::Status known = CheckSession(session); !known.ok()) return reply(known);
    const auto task = state_.tasks.find(header.task);
    Verdict content;
    const bool open =
        state_.phase == Phase::kReporting && task != state_.tasks.end() &&
        task->second.assignment.client == session.client &&
        (task->second.status == TaskStatus::kOpen || task->second.status == TaskStatus::kLost);
    if (open) {
      const std::uint64_t limit = MaxUpdateBytes(options_.run.spec, task->second.assignment);
      if (header.total_bytes <= limit)
        return OpenUpload(task->second.assignment, header, session, offset, reply);
      content = {RejectReason::kOverSize, "the update has " + std::to_string(header.total_bytes) +
                                              " bytes, at most " + std::to_string(limit) +
                                              " are due for this task"};
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
    told_.insert(session.client);
    if (state_.phase != Phase::kFinished) spdlog::info("client {} leaves", session.client);
    // After the end, too: who has said that it knows is not waited for by a restart.
    Handle(ClientLeft{.at_ms = Now(), .client = session.client, .session = session.session});
    DeferReply<bool>(reply, true);
  });
}

void CoordinatorCore::Evict(ClientId client, fedmoe::Status why, Callback<bool> done) {
  {
    std::lock_guard lock(mutex_);
    sessions_.erase(client);
  }
  Submit<bool>(std::move(done), [this, client = std::move(client),
                                 why = std::move(why)](Callback<bool> reply) {
    EndPoll(client, why);
    const auto known = state_.clients.find(client);
    if (known == state_.clients.end() || !known->second.connected) {
      return DeferReply<bool>(reply, true);
    }
    // Given back for it: even a round that waits for lost clients does not wait for these.
    std::vector<TaskId> open;
    const auto collect = [&](const std::map<TaskId, TaskState>& tasks) {
      for (const auto& [id, task] : tasks) {
        if (task.assignment.client == client && task.status == TaskStatus::kOpen)
          open.push_back(id);
      }
    };
    collect(state_.tasks);
    for (const auto& [version, evaluation] : state_.evaluations) collect(evaluation.tasks);
    told_.insert(client);
    // First, so that it is not drawn again.
    Handle(ClientLeft{.at_ms = Now(), .client = client, .session = known->second.session});
    for (const TaskId task : open) {
      Handle(TaskReturned{.at_ms = Now(), .task = task, .client = client, .why = why.message()});
    }
    DeferReply<bool>(reply, true);
  });
}

void CoordinatorCore::Touch(const SessionId& session) {
  {
    std::lock_guard lock(mutex_);
    Touched& touched = touched_[session.client];
    const Milliseconds now = clock_.NowMs();
    if (touched.posted || (touched.last_ms && now - *touched.last_ms < kTouchGrainMs)) return;
    touched = {.last_ms = now, .posted = true};
  }
  Post([this, session] {
    {
      std::lock_guard lock(mutex_);
      touched_[session.client].posted = false;
    }
    (void)CheckSession(session);
  });
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

}  // namespace fedmoe
