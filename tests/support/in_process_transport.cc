#include "tests/support/in_process_transport.h"

#include <algorithm>
#include <chrono>

namespace fedmoe {
namespace {

// Small, so that even tiny models travel in several pieces.
constexpr std::uint64_t kPieceBytes = 96;

Status NobodyThere() { return Unavailable("no coordinator is there"); }

}  // namespace

void CoordinatorSlot::Set(CoordinatorCore* core) {
  const std::unique_lock lock(mutex_);
  core_ = core;
  ++generation_;
  calls_left_ = -1;
  closed_ = core == nullptr;
}

bool CoordinatorSlot::Call(const std::function<void(CoordinatorCore&)>& call,
                           std::optional<std::uint64_t> generation) {
  const std::shared_lock lock(mutex_);
  if (core_ == nullptr || closed_) return false;
  if (generation && *generation != generation_) return false;
  if (calls_left_ >= 0 && calls_left_-- == 0) {
    closed_ = true;
    return false;
  }
  call(*core_);
  return true;
}

InProcessTransport::InProcessTransport(CoordinatorSlot& slot, TransportFaults faults)
    : slot_(slot), faults_(faults), random_(MixKey({faults.seed})) {}

bool InProcessTransport::Chance(double probability) {
  if (probability <= 0.0) return false;
  const std::lock_guard lock(random_mutex_);
  return random_.NextUniform() < probability;
}

std::uint64_t InProcessTransport::Below(std::uint64_t bound) {
  const std::lock_guard lock(random_mutex_);
  return random_.NextBelow(bound);
}

bool InProcessTransport::Cancelled(Kind kind) const {
  return bell_->all_cancelled || (kind == Kind::kWork && bell_->work_cancelled);
}

void InProcessTransport::Delay() {
  if (!Chance(faults_.delay)) return;
  std::unique_lock lock(bell_->mutex);
  bell_->rung.wait_for(lock, std::chrono::microseconds(Below(2'000)),
                       [this] { return bell_->all_cancelled; });
}

template <typename T>
Result<T> InProcessTransport::AskOnce(
    Kind kind, const std::function<void(CoordinatorCore&, std::function<void(Result<T>)>)>& start,
    std::optional<std::uint64_t> generation) {
  const auto answer = std::make_shared<std::optional<Result<T>>>();
  const bool reached = slot_.Call(
      [&](CoordinatorCore& core) {
        start(core, [bell = bell_, answer](Result<T> result) {
          const std::lock_guard lock(bell->mutex);
          *answer = std::move(result);
          bell->rung.notify_all();
        });
      },
      generation);
  if (!reached) return NobodyThere();
  std::unique_lock lock(bell_->mutex);
  bell_->rung.wait(lock, [&] { return answer->has_value() || Cancelled(kind); });
  if (!answer->has_value()) return fedmoe::Cancelled("the call was cancelled");
  return **answer;
}

template <typename T>
Result<T> InProcessTransport::Ask(
    Kind kind, const std::function<void(CoordinatorCore&, std::function<void(Result<T>)>)>& start,
    std::optional<std::uint64_t> generation, bool faulty) {
  {
    const std::lock_guard lock(bell_->mutex);
    if (Cancelled(kind)) return fedmoe::Cancelled("the call was cancelled");
  }
  if (faulty) Delay();
  if (faulty && Chance(faults_.lose_request)) return Unavailable("the request was lost");
  Result<T> answer = AskOnce<T>(kind, start, generation);
  if (faulty && Chance(faults_.lose_reply)) return Unavailable("the reply was lost");
  return answer;
}

Result<RegisterReply> InProcessTransport::Register(const RegisterRequest& request) {
  return Ask<RegisterReply>(Kind::kWork, [&](CoordinatorCore& core, auto done) {
    core.Register(request, std::move(done));
  });
}

Result<NextTaskReply> InProcessTransport::NextTask(const PollRequest& request) {
  const auto poll = std::make_shared<Poll>();
  Result<NextTaskReply> reply =
      Ask<NextTaskReply>(Kind::kWork, [&](CoordinatorCore& core, auto done) {
        core.NextTask(request.session, poll, std::move(done));
      });
  if (reply.status().code() == StatusCode::kCancelled) {
    slot_.Call([&](CoordinatorCore& core) { core.AbandonPoll(poll); });
  }
  return reply;
}

Result<HeartbeatReply> InProcessTransport::Beat(const SessionId& session, TaskId task,
                                                double progress) {
  return Ask<HeartbeatReply>(Kind::kAnswer, [&](CoordinatorCore& core, auto done) {
    core.Beat(session, task, progress, std::move(done));
  });
}

Status InProcessTransport::FetchShards(const SessionId& session,
                                       const std::vector<ShardReference>& shards,
                                       const ShardSink& sink, bool damaged,
                                       std::uint64_t first_offset) {
  // Its pieces are shared with who fetches beside it, as over gRPC.
  std::shared_ptr<void> place;
  slot_.Call([&](CoordinatorCore& core) {
    Result<std::shared_ptr<void>> taken = core.BeginFetch(session, damaged);
    if (taken.ok()) place = std::move(taken).value();
  });
  std::uint64_t begin = first_offset;
  for (ShardReference shard : shards) {
    if (shard.encoded()) {
      FEDMOE_ASSIGN_OR_RETURN(
          const std::uint64_t total,
          Ask<std::uint64_t>(Kind::kWork, [&](CoordinatorCore& core, auto done) {
            core.OpenShard(session, shard, damaged, std::move(done));
          }));
      shard.bytes = static_cast<std::int64_t>(total);
    }
    const auto size = static_cast<std::uint64_t>(shard.bytes);
    for (std::uint64_t offset = std::exchange(begin, 0); offset < size; offset += kPieceBytes) {
      const std::uint64_t length = std::min(kPieceBytes, size - offset);
      using Pieces = std::vector<SharedBytes>;
      FEDMOE_ASSIGN_OR_RETURN(
          Pieces pieces, Ask<Pieces>(Kind::kWork, [&](CoordinatorCore& core, auto done) {
            core.ReadShards(session, {{.shard = shard, .offset = offset, .length = length}},
                            std::move(done));
          }));
      std::string bytes = pieces.at(0)->bytes;
      if (Chance(faults_.corrupt_shard)) bytes[Below(bytes.size())] ^= 0x10;
      FEDMOE_RETURN_IF_ERROR(sink(shard, offset, AsBytes(std::string_view(bytes))));
    }
  }
  return Status::Ok();
}

Result<Verdict> InProcessTransport::SubmitOnce(const SessionId& session, const UpdateHeader& header,
                                               const UpdateSource& encode) {
  const std::uint64_t generation = slot_.generation();
  FEDMOE_ASSIGN_OR_RETURN(const UploadStart start, Ask<UploadStart>(
                                                       Kind::kAnswer,
                                                       [&](CoordinatorCore& core, auto done) {
                                                         core.BeginUpdate(session, header,
                                                                          std::move(done));
                                                       },
                                                       generation));
  if (start.verdict) return *start.verdict;

  std::string buffer;
  std::uint64_t sent = 0;
  std::uint64_t cut_at = UINT64_MAX;
  std::uint64_t corrupt_at = UINT64_MAX;
  if (Chance(faults_.cut_upload)) cut_at = header.total_bytes / 2;
  if (Chance(faults_.corrupt_upload))
    corrupt_at = Below(std::max<std::uint64_t>(1, header.total_bytes));
  const auto send = [&]() -> Status {
    if (buffer.empty()) return Status::Ok();
    if (corrupt_at >= sent && corrupt_at - sent < buffer.size()) buffer[corrupt_at - sent] ^= 0x10;
    sent += buffer.size();
    if (sent > cut_at) return Unavailable("the upload was cut");
    return Ask<bool>(
               Kind::kAnswer,
               [&](CoordinatorCore&, auto done) {
                 start.upload->Append(std::exchange(buffer, {}), [done](Status status) {
                   done(status.ok() ? Result<bool>(true) : Result<bool>(status));
                 });
               },
               generation, false)
        .status();
  };
  FEDMOE_RETURN_IF_ERROR(encode([&](std::span<const std::byte> bytes) -> Status {
    while (!bytes.empty()) {
      const std::size_t count = std::min<std::size_t>(bytes.size(), kPieceBytes - buffer.size());
      buffer.append(reinterpret_cast<const char*>(bytes.data()), count);
      bytes = bytes.subspan(count);
      if (buffer.size() == kPieceBytes) FEDMOE_RETURN_IF_ERROR(send());
    }
    return Status::Ok();
  }));
  FEDMOE_RETURN_IF_ERROR(send());
  return Ask<Verdict>(
      Kind::kAnswer, [&](CoordinatorCore&, auto done) { start.upload->Finish(std::move(done)); },
      generation);
}

Result<Verdict> InProcessTransport::SubmitUpdate(const SessionId& session,
                                                 const UpdateHeader& header,
                                                 const UpdateSource& encode, bool) {
  before_submit(header);
  Result<Verdict> verdict = SubmitOnce(session, header, encode);
  if (Chance(faults_.duplicate_submit)) verdict = SubmitOnce(session, header, encode);
  after_submit(header, verdict);
  return verdict;
}

Status InProcessTransport::SubmitEvaluation(const SessionId& session,
                                            const EvaluationResult& result) {
  return Ask<bool>(Kind::kAnswer,
                   [&](CoordinatorCore& core, auto done) {
                     core.SubmitEvaluation(session, result, std::move(done));
                   })
      .status();
}

Status InProcessTransport::ReturnTask(const SessionId& session, TaskId task,
                                      const std::string& why) {
  return Ask<bool>(Kind::kAnswer,
                   [&](CoordinatorCore& core, auto done) {
                     core.ReturnTask(session, task, why, std::move(done));
                   })
      .status();
}

Status InProcessTransport::Leave(const SessionId& session) {
  return Ask<bool>(Kind::kAnswer,
                   [&](CoordinatorCore& core, auto done) { core.Leave(session, std::move(done)); })
      .status();
}

void InProcessTransport::CancelWork() {
  const std::lock_guard lock(bell_->mutex);
  bell_->work_cancelled = true;
  bell_->rung.notify_all();
}

void InProcessTransport::CancelAll() {
  const std::lock_guard lock(bell_->mutex);
  bell_->work_cancelled = bell_->all_cancelled = true;
  bell_->rung.notify_all();
}

}  // namespace fedmoe
