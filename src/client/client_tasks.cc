// ClientLoop's work on one task.
#include <algorithm>
#include <chrono>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include "client/client_loop.h"
#include "client/pulse.h"
#include "client/shard_fetch.h"
#include "client/task_worker.h"
#include "common/text.h"
#include "storage/update_format.h"

namespace fedmoe {
namespace {

// The most of a reason that travels.
constexpr std::size_t kMaxWhy = 1000;

// How long the result of a task without a timeout is offered to a coordinator that is too busy.
constexpr Milliseconds kSubmitLimitMs = 600'000;

// Shards come with a task if they pass within this time at the pace of the session's last fetch. On
// a slow link they come by a call of their own, with signs of life beside it.
constexpr double kCarryMs = 2'000.0;

// Errors that the connection must recover from; any other is the task's own.
bool IsConnectionError(const Status& status) {
  switch (status.code()) {
    case StatusCode::kAborted:
    case StatusCode::kUnavailable:
    case StatusCode::kDeadlineExceeded:
    case StatusCode::kResourceExhausted:
    case StatusCode::kCancelled:
      return true;
    default:
      return false;
  }
}

std::string Experts(const std::vector<ExpertIndex>& experts) {
  if (experts.empty()) return "the trunk only";
  return fmt::format("{} expert{} ({})", experts.size(), experts.size() == 1 ? "" : "s",
                     fmt::join(experts, ", "));
}

const char* InWords(CancelReason reason) {
  switch (reason) {
    case CancelReason::kRoundOver:
      return "the round is over without it";
    case CancelReason::kRoundAborted:
      return "the round was aborted";
    case CancelReason::kSuperseded:
      return "another session of this client took over";
    case CancelReason::kRunOver:
      return "the run is over";
    case CancelReason::kTimedOut:
      return "the coordinator heard nothing from this client for too long";
  }
  return "for a reason that is not known";
}

std::string Named(const TaskAssignment& task) {
  return task.kind == TaskKind::kTrain ? fmt::format("round {}", task.round)
                                       : fmt::format("version {}", task.version);
}

}  // namespace

PollRequest ClientLoop::AskForWork() const {
  PollRequest request(session_);
  const double bytes = down_.last_bytes_per_s() * kCarryMs / 1000.0;
  // A cache that keeps nothing would have them come in vain.
  const bool keeps = options_.cache_bytes >= kMaxCarryBytes;
  if (!keeps || held_.size() > kMaxHeld || bytes < 1.0) return request;
  request.carry_bytes =
      static_cast<std::uint64_t>(std::min(bytes, static_cast<double>(kMaxCarryBytes)));
  request.held = held_;
  return request;
}

void ClientLoop::Unload(const TaskAssignment& task, const std::vector<CarriedShard>& carried) {
  for (const CarriedShard& shard : carried) {
    const ShardReference& reference = task.shards[static_cast<std::size_t>(shard.index)];
    const std::span<const std::byte> bytes = AsBytes(std::string_view(shard.bytes));
    // One that is damaged is fetched, and checked again.
    if (Sha256Of(bytes) != reference.digest) continue;
    cache_.Put(ShardKey(reference),
               std::make_shared<const std::vector<std::byte>>(bytes.begin(), bytes.end()));
  }
}

Status ClientLoop::RunTask(const TaskAssignment& task, const std::vector<CarriedShard>& carried) {
  TaskInHand hand{.task = task, .received_ms = clock_.NowMs()};
  hand.next_beat_ms = hand.received_ms + run_.heartbeat_interval_ms;
  if (const Status fit = CheckTask(task); !fit.ok()) return GiveBack(task, fit.message());
  Unload(task, carried);

  if (task.kind == TaskKind::kEvaluate) {
    state_.Promote(task.last_committed_task);
    if (saved_evaluation_ && saved_evaluation_->task == task.task) return SubmitEvaluation(hand);
    saved_evaluation_.reset();
    return Work(hand);
  }

  const bool saved =
      saved_update_ && saved_update_->task == task.task && saved_update_->attempt == task.attempt;
  // The state that waits for the round's commit: of this task if it was trained already, of the
  // first if this is a second one.
  const TaskId keep = task.follows != 0 ? task.follows : saved ? task.task : 0;
  if (const Status settled = state_.Settle(task.last_committed_task, keep); !settled.ok()) {
    return GiveBack(task, settled.message());
  }
  if (saved) {
    spdlog::info("{}: sending the finished update again", Named(task));
    return SubmitUpdate(hand);
  }
  saved_update_.reset();
  return Work(hand);
}

Status ClientLoop::CheckTask(const TaskAssignment& task) const {
  int last = -1;
  for (const ExpertIndex expert : task.experts) {
    if (expert <= last || expert >= spec_->experts) {
      return InvalidArgument(fmt::format("the task's experts ({}) must rise and be below {}",
                                         fmt::join(task.experts, ", "), spec_->experts));
    }
    last = expert;
  }
  if (task.shards.size() != task.experts.size() + 1) {
    return InvalidArgument(fmt::format("the task names {} shards, its experts need {}",
                                       task.shards.size(), task.experts.size() + 1));
  }
  for (std::size_t i = 0; i < task.shards.size(); ++i) {
    const ShardReference& shard = task.shards[i];
    const int expected = i == 0 ? kTrunkShard : ShardOfExpert(task.experts[i - 1]);
    const std::int64_t bytes = DownloadBytes(*spec_, expected, shard.download());
    if (shard.shard != expected || shard.bytes != bytes) {
      return InvalidArgument(fmt::format(
          "the task's shard {} is shard {} of {} bytes, the model has shard {} of {} bytes there",
          i, shard.shard, shard.bytes, expected, bytes));
    }
  }
  return Status::Ok();
}

Status ClientLoop::Work(TaskInHand& hand) {
  std::map<int, HeldShard> shards;
  FEDMOE_RETURN_IF_ERROR(Fetch(hand, shards));
  if (hand.ended()) return Drop(hand);
  const ShardValues values = [&shards](int shard) {
    const auto found = shards.find(shard);
    return found == shards.end() ? std::span<const float>() : found->second.values;
  };
  return hand.task.kind == TaskKind::kTrain ? Train(hand, values) : Evaluate(hand, values);
}

Status ClientLoop::Fetch(TaskInHand& hand, std::map<int, HeldShard>& shards) {
  const std::unique_ptr<Pulse> pulse = StartPulse(hand);
  const ShardFetchContext context{
      .spec = *spec_,
      .transport = transport_,
      .cache = cache_,
      .partial = partial_,
      .down = down_,
      .clock = clock_,
      .interrupted = [this, &hand, &pulse]() -> Status {
        FEDMOE_RETURN_IF_ERROR(Heed(hand, *pulse));
        EndWhereDue(hand);
        return hand.ended() ? Cancelled("the task has ended") : Status::Ok();
      },
  };
  const Status fetched = WhileBusy(
      [&] {
        FEDMOE_RETURN_IF_ERROR(context.interrupted());
        FEDMOE_ASSIGN_OR_RETURN(shards, FetchTaskShards(context, session_, hand.task.shards));
        return Status::Ok();
      },
      SubmitUntil(hand));
  if (fetched.ok()) {
    held_.clear();
    for (const ShardReference& shard : hand.task.shards)
      held_.push_back(DigestPrefix(shard.digest));
    return Status::Ok();
  }
  if (hand.ended()) return Status::Ok();
  if (stopping()) {
    hand.give_back = "the client is stopping";
    return Status::Ok();
  }
  if (IsConnectionError(fetched)) return fetched;
  hand.give_back = "shards could not be fetched: " + fetched.message();
  return Status::Ok();
}

Status ClientLoop::Train(TaskInHand& hand, const ShardValues& shards) {
  const TaskAssignment& task = hand.task;
  spdlog::info("{}: training {} on {} examples", Named(task), Experts(task.experts),
               trainer_.examples());
  PreparedUpdate update;
  FEDMOE_RETURN_IF_ERROR(Attend(hand, [&](const TrainContext& context) -> Status {
    const std::span<const std::byte> state = state_.committed();
    FEDMOE_ASSIGN_OR_RETURN(const auto trainer_state, TrainerState(task, state));
    FEDMOE_ASSIGN_OR_RETURN(TrainResult result,
                            trainer_.Train(task, shards, trainer_state, context));
    FEDMOE_ASSIGN_OR_RETURN(update, PrepareUpdate(task, *spec_, state, std::move(result)));
    return Status::Ok();
  }));
  if (hand.ended()) return Drop(hand);
  if (const Status kept = state_.SaveTentative(task.task, update.state); !kept.ok()) {
    return GiveBack(task, kept.message());
  }
  saved_update_ = SavedUpdate{task.task, task.attempt, std::move(update)};
  return SubmitUpdate(hand);
}

Status ClientLoop::Evaluate(TaskInHand& hand, const ShardValues& shards) {
  const TaskAssignment& task = hand.task;
  spdlog::info("{}: evaluating with {}", Named(task), Experts(task.experts));
  EvaluationResult result;
  FEDMOE_RETURN_IF_ERROR(Attend(hand, [&](const TrainContext& context) -> Status {
    FEDMOE_ASSIGN_OR_RETURN(const auto state, TrainerState(task, state_.committed()));
    FEDMOE_ASSIGN_OR_RETURN(result, trainer_.Evaluate(task, shards, state, context));
    return Status::Ok();
  }));
  if (hand.ended()) return Drop(hand);
  result.task = task.task;
  saved_evaluation_ = result;
  return SubmitEvaluation(hand);
}

Status ClientLoop::Attend(TaskInHand& hand,
                          const std::function<Status(const TrainContext&)>& work) {
  TaskWorker worker(work, [this] {
    // Under the lock, or the loop could miss it between its check and its wait.
    const std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  });
  worker_ = &worker;
  const std::unique_ptr<TaskWorker*, void (*)(TaskWorker**)> forget(
      &worker_, [](TaskWorker** held) { *held = nullptr; });
  while (!worker.done()) {
    Milliseconds until_ms = hand.next_beat_ms;
    if (hand.task.timeout_ms > 0) {
      until_ms = std::min(until_ms, hand.received_ms + hand.task.timeout_ms);
    }
    const auto wait =
        std::chrono::milliseconds(std::max<Milliseconds>(until_ms - clock_.NowMs(), 0));
    std::unique_lock<std::mutex> lock(mutex_);
    wake_.wait_for(lock, wait, [&] { return worker.done() || stops_ > 0; });
    lock.unlock();
    if (worker.done()) break;
    Status status = KeepInTouch(hand, worker.progress());
    if (status.code() == StatusCode::kAborted) status = ConnectAgain(hand);
    FEDMOE_RETURN_IF_ERROR(status);
    if (hand.ended()) {
      worker.Cancel();
      static_cast<void>(worker.Join());
      return Status::Ok();
    }
  }
  if (const Status status = worker.Join(); !status.ok()) hand.give_back = status.ToString();
  return Status::Ok();
}

std::unique_ptr<Pulse> ClientLoop::StartPulse(const TaskInHand& hand) {
  return std::make_unique<Pulse>(run_.heartbeat_interval_ms,
                                 [this, session = session_, task = hand.task.task] {
                                   return transport_.Beat(session, task, 0.0);
                                 });
}

Status ClientLoop::Heed(TaskInHand& hand, const Pulse& pulse) const {
  Status word = pulse.word();
  if (word.code() == StatusCode::kCancelled && !hand.cancelled) {
    hand.cancelled = true;
    spdlog::info("{}: task cancelled: {}", Named(hand.task), InWords(pulse.reason()));
  }
  return word;
}

void ClientLoop::EndWhereDue(TaskInHand& hand) const {
  const Milliseconds timeout_ms = hand.task.timeout_ms;
  if (stopping()) {
    hand.give_back = "the client is stopping";
  } else if (timeout_ms > 0 && clock_.NowMs() - hand.received_ms >= timeout_ms) {
    hand.give_back = fmt::format("not done within the task's {} ms", timeout_ms);
  }
}

Status ClientLoop::KeepInTouch(TaskInHand& hand, double progress) {
  const TaskAssignment& task = hand.task;
  EndWhereDue(hand);
  const Milliseconds now_ms = clock_.NowMs();
  if (hand.ended() || now_ms < hand.next_beat_ms) return Status::Ok();
  hand.next_beat_ms = now_ms + run_.heartbeat_interval_ms;
  const Result<HeartbeatReply> reply = transport_.Beat(session_, task.task, progress);
  if (!reply.ok()) {
    // Work goes on while the coordinator is away; the result is handed in when it is back.
    spdlog::debug("{}: heartbeat failed: {}", Named(task), reply.status().ToString());
    return reply.status().code() == StatusCode::kAborted ? reply.status() : Status::Ok();
  }
  if (reply->cancel) {
    hand.cancelled = true;
    spdlog::info("{}: task cancelled: {}", Named(task), InWords(reply->reason));
  }
  return Status::Ok();
}

Status ClientLoop::ConnectAgain(TaskInHand& hand) {
  const std::string run_id = run_.run_id;
  const Status status = Connect();
  if (!status.ok() && stopping()) {
    // Nothing can be given back without a session.
    hand.cancelled = true;
    return status;
  }
  FEDMOE_RETURN_IF_ERROR(status);
  hand.next_beat_ms = clock_.NowMs() + run_.heartbeat_interval_ms;
  if (run_.run_id != run_id) hand.cancelled = true;
  return Status::Ok();
}

Status ClientLoop::Drop(const TaskInHand& hand) {
  if (hand.cancelled) return Status::Ok();
  if (stopping()) {
    // Leaving tells the coordinator, which keeps the task for this client's return where its run
    // waits for that; a task given back would end a deterministic round at once.
    spdlog::warn("{}: task {} is abandoned: {}", Named(hand.task), hand.task.task, hand.give_back);
    return Status::Ok();
  }
  return GiveBack(hand.task, hand.give_back);
}

Milliseconds ClientLoop::SubmitUntil(const TaskInHand& hand) const {
  return hand.task.timeout_ms > 0 ? hand.received_ms + hand.task.timeout_ms
                                  : clock_.NowMs() + kSubmitLimitMs;
}

Status ClientLoop::SubmitUpdate(TaskInHand& hand) {
  const TaskAssignment& task = hand.task;
  PreparedUpdate& update = saved_update_->update;
  FillBandwidth(update.feedback);
  const std::vector<OutgoingBlock> blocks = update.Outgoing();
  const UpdateHeader header{.task = task.task,
                            .client = options_.name,
                            .round = task.round,
                            .total_bytes = EncodedUpdateBytes(blocks),
                            .feedback = update.feedback};
  const std::unique_ptr<Pulse> pulse = StartPulse(hand);
  const Transport::UpdateSource encode =
      [&](const std::function<Status(std::span<const std::byte>)>& sink) {
        return EncodeUpdate(task.task, blocks, [&](std::span<const std::byte> bytes) -> Status {
          FEDMOE_RETURN_IF_ERROR(Heed(hand, *pulse));
          return sink(bytes);
        });
      };
  Verdict verdict;
  Milliseconds start_ms = 0;
  bool again = false;
  const Status status = WhileBusy(
      [&] {
        start_ms = clock_.NowMs();  // of this try: to wait is no measure of the line
        again = std::exchange(saved_update_->tried, true);
        FEDMOE_ASSIGN_OR_RETURN(verdict, transport_.SubmitUpdate(session_, header, encode, again));
        return Status::Ok();
      },
      SubmitUntil(hand));
  const double megabytes = static_cast<double>(header.total_bytes) / 1e6;
  if (status.ok() && verdict.accepted()) {
    // Of one that is sent again, some was there.
    if (!again) up_.Add(header.total_bytes, clock_.NowMs() - start_ms);
    spdlog::info("{}: sent {:.1f} MB, accepted", Named(task), megabytes);
    return Status::Ok();
  }
  if (status.ok()) {
    spdlog::warn("{}: sent {:.1f} MB, rejected: {} ({})", Named(task), megabytes,
                 RejectReasonName(verdict.reason), verdict.detail);
    saved_update_.reset();
    return Status::Ok();
  }
  if (hand.cancelled) {
    saved_update_.reset();
    return Status::Ok();
  }
  if (IsConnectionError(status) && status.code() != StatusCode::kResourceExhausted) {
    spdlog::info("{}: the update could not be sent; it is kept", Named(task));
    return status;
  }
  saved_update_.reset();
  return GiveBack(task, "the update could not be sent: " + status.message());
}

Status ClientLoop::SubmitEvaluation(const TaskInHand& hand) {
  const TaskAssignment& task = hand.task;
  const Status status = WhileBusy(
      [&] { return transport_.SubmitEvaluation(session_, *saved_evaluation_); }, SubmitUntil(hand));
  if (status.ok()) {
    spdlog::info("{}: {:.0f} of {:.0f} examples correct", Named(task), saved_evaluation_->correct,
                 saved_evaluation_->examples);
    return status;
  }
  if (IsConnectionError(status) && status.code() != StatusCode::kResourceExhausted) return status;
  saved_evaluation_.reset();
  return GiveBack(task, "the evaluation could not be sent: " + status.message());
}

Status ClientLoop::GiveBack(const TaskAssignment& task, const std::string& why) {
  spdlog::warn("{}: task {} is given back: {}", Named(task), task.task, why);
  const Status status = transport_.ReturnTask(session_, task.task, ToUtf8(why, kMaxWhy));
  if (status.ok() || IsConnectionError(status)) return status;
  spdlog::warn("{}: task {} could not be given back: {}", Named(task), task.task, status.message());
  return Status::Ok();
}

void ClientLoop::FillBandwidth(TrainingFeedback& feedback) const {
  const CapacityProfile& declared = options_.profile;
  feedback.down_bytes_per_s = declared.down_bytes_per_s;
  feedback.up_bytes_per_s = declared.up_bytes_per_s;
  if (!options_.measure_bandwidth) return;
  if (feedback.down_bytes_per_s == 0.0) feedback.down_bytes_per_s = down_.bytes_per_s();
  if (feedback.up_bytes_per_s == 0.0) feedback.up_bytes_per_s = up_.bytes_per_s();
}

}  // namespace fedmoe
