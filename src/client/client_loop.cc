#include "client/client_loop.h"

#include <algorithm>
#include <chrono>
#include <string_view>
#include <thread>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "client/task_worker.h"
#include "common/version.h"

namespace fedmoe {
namespace {

constexpr int kLeaveTries = 5;
constexpr Milliseconds kLeaveWaitMs = 200;

bool IsWorthRetrying(StatusCode code) {
  return code == StatusCode::kUnavailable || code == StatusCode::kResourceExhausted ||
         code == StatusCode::kDeadlineExceeded || code == StatusCode::kAborted ||
         code == StatusCode::kCancelled;
}

// The coordinator's word that it ends before the run does: it can be resumed.
constexpr std::string_view kStopping = "the coordinator is stopping";

bool IsStopping(const Status& status) {
  return status.code() == StatusCode::kUnavailable && status.message().starts_with(kStopping);
}

std::string Seconds(Milliseconds ms) { return fmt::format("{:.2g} s", ms / 1000.0); }

std::string DescribeCapacity(const CapacityDecision& capacity) {
  const std::string reason = CapacityReasonName(capacity.reason);
  if (capacity.experts == 0) return "the trunk only (" + reason + ")";
  return fmt::format("up to {} expert{} ({})", capacity.experts, capacity.experts == 1 ? "" : "s",
                     reason);
}

}  // namespace

ClientLoop::ClientLoop(Transport& transport, Trainer& trainer, ClientState& state,
                       const Clock& clock, ClientLoopOptions options)
    : transport_(transport),
      trainer_(trainer),
      state_(state),
      clock_(clock),
      options_(std::move(options)),
      cache_(options_.cache_bytes),
      backoff_(state.instance(), options_.retry_initial_ms, options_.retry_max_ms) {}

ClientOutcome ClientLoop::Run() {
  while (!outcome_) {
    Status status = Connect();
    if (status.ok()) status = Serve();
    if (!outcome_) static_cast<void>(Recover(status));
  }
  if (outcome_->end != ClientEnd::kGaveUp && session_.session != 0) Leave();
  return *outcome_;
}

// The coordinator would notice the silence; saying so spares it the wait.
void ClientLoop::Leave() {
  if (outcome_->end == ClientEnd::kRunOver) {
    const Status kept = state_.SaveEnd(outcome_->detail);
    if (!kept.ok()) spdlog::warn("{}", kept.message());
  }
  // With a whole fleet that leaves at once its queue may be full.
  for (int tries = 0; tries < kLeaveTries; ++tries) {
    if (transport_.Leave(session_).code() != StatusCode::kResourceExhausted) return;
    // Short, for nothing wakes it.
    std::this_thread::sleep_for(std::chrono::milliseconds(std::min(backoff_.Next(), kLeaveWaitMs)));
  }
}

void ClientLoop::ForgetEnd() {
  const Status forgotten = state_.ForgetEnd();
  if (!forgotten.ok()) spdlog::warn("{}", forgotten.message());
}

void ClientLoop::Stop() {
  int stops = 0;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stops = ++stops_;
  }
  wake_.notify_all();
  if (stops == 1) {
    transport_.CancelWork();
  } else {
    transport_.CancelAll();
  }
}

bool ClientLoop::stopping() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return stops_ > 0;
}

Status ClientLoop::End(ClientEnd end, std::string detail) {
  if (detail.empty()) {
    detail = end == ClientEnd::kRunOver ? "the run is completed" : "the coordinator gave no reason";
  }
  outcome_ = ClientOutcome{end, std::move(detail)};
  return Cancelled(outcome_->detail);
}

void ClientLoop::EndWork() {
  if (worker_ == nullptr) return;
  worker_->Cancel();
  static_cast<void>(worker_->Join());
}

Status ClientLoop::Connect() {
  while (true) {
    const Status status = TryRegister();
    if (status.ok() || outcome_) return status;
    FEDMOE_RETURN_IF_ERROR(WaitBeforeRetry(status));
  }
}

Status ClientLoop::TryRegister() {
  if (stopping()) return End(ClientEnd::kStopped, "stopped");
  RegisterRequest request;
  request.client = options_.name;
  request.instance = state_.instance();
  request.role = options_.role;
  request.protocol_min = kProtocolMin;
  request.protocol_max = kProtocolMax;
  request.profile = options_.profile;
  if (request.profile.examples == 0) request.profile.examples = trainer_.examples();
  TrainingFeedback measured;
  FillBandwidth(measured);
  request.profile.down_bytes_per_s = measured.down_bytes_per_s;
  request.profile.up_bytes_per_s = measured.up_bytes_per_s;

  const Result<RegisterReply> reply = transport_.Register(request);
  if (reply.ok()) return Accept(*reply);
  if (IsWorthRetrying(reply.status().code())) return reply.status();
  return End(ClientEnd::kRefused, reply.status().message());
}

Status ClientLoop::Accept(const RegisterReply& reply) {
  const bool same_run = spec_ && reply.run_id == run_.run_id;
  session_ = SessionId{options_.name, reply.session};
  run_ = reply;
  polled_ = false;
  down_.ForgetLast();
  lost_since_ms_.reset();
  if (same_run) {
    spdlog::info("registered again with {}", options_.coordinator);
    return Status::Ok();
  }
  EndWork();
  saved_update_.reset();
  saved_evaluation_.reset();
  partial_.reset();
  state_.BeginRun(reply.run_id);
  if (state_.end() && state_.end()->run_id != reply.run_id) ForgetEnd();
  Result<ModelSpec> spec = options_.build_spec(reply.preset, reply.options);
  if (!spec.ok()) {
    return End(ClientEnd::kRefused,
               "this build cannot make the coordinator's model: " + spec.status().message() +
                   "; run the same version of fedmoe on both");
  }
  if (const Digest digest = SpecDigest(*spec); digest != reply.spec_digest) {
    return End(ClientEnd::kRefused, "model spec differs: the coordinator's digest is " +
                                        reply.spec_digest + ", this build makes " + digest +
                                        "; run the same version of fedmoe on both");
  }
  if (const Status ready = trainer_.Prepare(*spec, reply.seed); !ready.ok()) {
    return End(ClientEnd::kRefused, ready.message());
  }
  spec_ = std::move(spec).value();
  spdlog::info(
      "registered with {} for run {}: {}", options_.coordinator, reply.run_name,
      options_.role == ClientRole::kEvaluator ? "evaluator" : DescribeCapacity(reply.capacity));
  return Status::Ok();
}

Status ClientLoop::Serve() {
  while (true) {
    if (stopping()) return End(ClientEnd::kStopped, "stopped");
    NextTaskReply reply;
    FEDMOE_RETURN_IF_ERROR(WhileBusy([&] {
      FEDMOE_ASSIGN_OR_RETURN(reply, transport_.NextTask(AskForWork()));
      return Status::Ok();
    }));
    polled_ = true;
    told_of_stopping_ = false;
    lost_since_ms_.reset();
    backoff_.Reset();
    // It had been over, and goes on.
    if (reply.kind != NextTaskReply::Kind::kRunOver && state_.end()) ForgetEnd();
    switch (reply.kind) {
      case NextTaskReply::Kind::kNothingYet:
        break;
      case NextTaskReply::Kind::kRunOver:
        return End(ClientEnd::kRunOver, reply.detail);
      case NextTaskReply::Kind::kTask:
        FEDMOE_RETURN_IF_ERROR(RunTask(reply.task, reply.carried));
        break;
    }
  }
}

Status ClientLoop::Recover(const Status& status) {
  if (stopping()) return End(ClientEnd::kStopped, "stopped");
  // A session that never served a poll was ended at once: without a wait, two clients that
  // supersede each other would spin.
  if (status.code() == StatusCode::kAborted && polled_) {
    spdlog::info("the session has ended ({}); registering again", status.message());
    return Status::Ok();
  }
  return WaitBeforeRetry(status);
}

Status ClientLoop::WhileBusy(const std::function<Status()>& call,
                             std::optional<Milliseconds> until_ms) {
  while (true) {
    const Status status = call();
    // A coordinator that is stopping still knows the session: there is nothing to register for.
    if (status.code() != StatusCode::kResourceExhausted && !IsStopping(status)) return status;
    if (until_ms && clock_.NowMs() >= *until_ms) return status;
    FEDMOE_RETURN_IF_ERROR(WaitBeforeRetry(status, until_ms));
  }
}

Status ClientLoop::WaitBeforeRetry(const Status& why, std::optional<Milliseconds> until_ms) {
  const Milliseconds now_ms = clock_.NowMs();
  if (!lost_since_ms_) lost_since_ms_ = now_ms;
  const Milliseconds lost_ms = now_ms - *lost_since_ms_;
  // An earlier process heard the end and died before it could leave: the coordinator, which had
  // told everyone, may be gone for good.
  const bool nobody =
      (why.code() == StatusCode::kUnavailable || why.code() == StatusCode::kDeadlineExceeded) &&
      !IsStopping(why);
  if (state_.end() && nobody && lost_ms >= options_.end_patience_ms)
    return End(ClientEnd::kRunOver, state_.end()->detail);
  const Milliseconds limit_ms = options_.retry_limit_ms;
  if (limit_ms > 0 && lost_ms >= limit_ms) {
    return End(ClientEnd::kGaveUp,
               fmt::format("gave up after {} without coordinator {} ({})", Seconds(lost_ms),
                           options_.coordinator, why.message()));
  }
  Milliseconds delay_ms = backoff_.Next();
  if (limit_ms > 0) delay_ms = std::min(delay_ms, limit_ms - lost_ms);
  if (until_ms) delay_ms = std::min(delay_ms, std::max<Milliseconds>(*until_ms - now_ms, 0));
  TellWait(why, delay_ms);
  std::unique_lock<std::mutex> lock(mutex_);
  wake_.wait_for(lock, std::chrono::milliseconds(delay_ms), [this] { return stops_ > 0; });
  if (stops_ == 0) return Status::Ok();
  lock.unlock();
  return End(ClientEnd::kStopped, "stopped");
}

void ClientLoop::TellWait(const Status& why, Milliseconds delay_ms) {
  if (IsStopping(why)) {
    if (told_of_stopping_) return;
    told_of_stopping_ = true;
    spdlog::warn("coordinator {} is stopping{}; waiting for it to come back", options_.coordinator,
                 why.message().substr(kStopping.size()));
    return;
  }
  if (!backoff_.worth_telling()) return;
  const bool busy = why.code() == StatusCode::kResourceExhausted;
  spdlog::warn("coordinator {} {} ({}); trying again in {}", options_.coordinator,
               busy ? "is too busy" : "cannot be reached", why.message(), Seconds(delay_ms));
}

}  // namespace fedmoe
