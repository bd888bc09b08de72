#include "client/grpc_transport.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>

#include "common/checksum.h"
#include "common/file_system.h"
#include "fedmoe/v1/coordinator.grpc.pb.h"
#include "wire/chunk_pacer.h"
#include "wire/credentials.h"
#include "wire/from_proto.h"
#include "wire/grpc_log.h"
#include "wire/limits.h"
#include "wire/status.h"
#include "wire/to_proto.h"

namespace fedmoe {
namespace {

constexpr std::chrono::seconds kUnaryDeadline{30};
// A transfer that is cut is taken up again after so long, then twice that, and so on; each byte
// that passes starts anew. After that it is for the client's loop, which waits for the coordinator.
constexpr Milliseconds kResumeMs = 250;
constexpr int kResumeAttempts = 3;

// The calls in flight, so that another thread can end them. Thread-safe.
class CallRegistry {
 public:
  void Add(grpc::ClientContext* context, bool work) {
    const std::lock_guard<std::mutex> lock(mutex_);
    (work ? work_ : others_).insert(context);
    // Before the call begins, this makes it end as soon as it does.
    if (cancel_all_ || (work && cancel_work_)) context->TryCancel();
  }
  void Remove(grpc::ClientContext* context) {
    const std::lock_guard<std::mutex> lock(mutex_);
    work_.erase(context);
    others_.erase(context);
  }
  // False: work was cancelled meanwhile.
  bool Wait(Milliseconds timeout_ms) {
    std::unique_lock<std::mutex> lock(mutex_);
    return !cancelled_.wait_for(lock, std::chrono::milliseconds(timeout_ms),
                                [this] { return cancel_work_; });
  }
  void Cancel(bool all) {
    const std::lock_guard<std::mutex> lock(mutex_);
    cancelled_.notify_all();
    cancel_work_ = true;
    cancel_all_ = cancel_all_ || all;
    for (grpc::ClientContext* context : work_) context->TryCancel();
    if (!all) return;
    for (grpc::ClientContext* context : others_) context->TryCancel();
  }

 private:
  std::mutex mutex_;
  std::condition_variable cancelled_;
  std::set<grpc::ClientContext*> work_;
  std::set<grpc::ClientContext*> others_;
  bool cancel_work_ = false;
  bool cancel_all_ = false;
};

// The connection broke, or a chunk was damaged on its way.
bool IsCut(const Status& status) {
  return status.code() == StatusCode::kUnavailable || status.code() == StatusCode::kDataLoss;
}

enum class CallKind { kWork, kOther };
enum class CallDeadline { kUnary, kNone };

// A client context for the length of one call.
class Call {
 public:
  Call(CallRegistry& registry, CallKind kind, CallDeadline deadline) : registry_(registry) {
    if (deadline == CallDeadline::kUnary) {
      context_.set_deadline(std::chrono::system_clock::now() + kUnaryDeadline);
    }
    registry_.Add(&context_, kind == CallKind::kWork);
  }
  ~Call() { registry_.Remove(&context_); }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  grpc::ClientContext* context() { return &context_; }

 private:
  CallRegistry& registry_;
  grpc::ClientContext context_;
};

using Connect = std::function<std::shared_ptr<grpc::Channel>()>;

// Makes channels to the coordinator; the credentials are read once.
Result<Connect> MakeConnect(const std::string& address, const ClientTlsOptions& tls,
                            const KeepaliveOptions& keepalive) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, static_cast<int>(keepalive.interval_ms));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, static_cast<int>(keepalive.timeout_ms));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // With probing on, a stalled reader buffers megabytes a stream.
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  // Failures show soon; backing off is the client loop's business. The minimum is also the time
  // that a connection may take.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 10'000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2'000);
  // A proxy meant for the web would break even loopback.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // A channel of its own: one client's keepalive and backoff do not touch another's.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  FEDMOE_ASSIGN_OR_RETURN(const auto credentials, MakeChannelCredentials(tls, arguments));
  return Connect([address, credentials, arguments] {
    return grpc::CreateCustomChannel(address, credentials, arguments);
  });
}

// Gathers an update's pieces into full chunks.
class ChunkWriter {
 public:
  ChunkWriter(grpc::ClientWriter<v1::UpdateChunk>& writer, int tasks)
      : writer_(writer), pacer_(static_cast<std::size_t>(tasks)) {}

  // False: the stream is over; its status says why.
  bool Write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const std::size_t part = std::min(bytes.size(), pacer_.next_bytes() - data_.size());
      data_.append(reinterpret_cast<const char*>(bytes.data()), part);
      bytes = bytes.subspan(part);
      if (data_.size() == pacer_.next_bytes() && !Flush()) return false;
    }
    return true;
  }

  bool Flush() {
    if (data_.empty()) return true;
    v1::UpdateChunk chunk;
    chunk.mutable_data()->set_crc32c(Crc32c(AsBytes(std::string_view(data_))));
    const std::size_t length = data_.size();
    chunk.mutable_data()->set_data(std::exchange(data_, {}));
    const auto begin = std::chrono::steady_clock::now();
    const bool open = writer_.Write(chunk);
    pacer_.Record(length,
                  std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    return open;
  }

 private:
  grpc::ClientWriter<v1::UpdateChunk>& writer_;
  ChunkPacer pacer_;
  std::string data_;
};

// Counts the transfers under way, for the length of one.
class Transfer {
 public:
  explicit Transfer(std::atomic<int>& count) : count_(count) { ++count_; }
  ~Transfer() { --count_; }
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;

 private:
  std::atomic<int>& count_;
};

class GrpcTransport final : public Transport {
 public:
  // The connection beside the first is made when it is first used.
  explicit GrpcTransport(Connect connect) : connect_(std::move(connect)) { OpenChannels(); }

  // A channel that could not connect waits 10 s before it tries again, whatever the backoff that it
  // is given. How long to wait is the client loop's business, so that each try gets a new one.
  Result<RegisterReply> Register(const RegisterRequest& request) override {
    if (unreachable_) OpenChannels();
    Call call(calls_, CallKind::kWork, CallDeadline::kUnary);
    v1::RegisterReply reply;
    const Status status = FromGrpc(stub_->Register(call.context(), ToProto(request), &reply));
    unreachable_ = status.code() == StatusCode::kUnavailable;
    FEDMOE_RETURN_IF_ERROR(status);
    return FromProto(reply);
  }

  Result<NextTaskReply> NextTask(const PollRequest& request) override {
    Call call(calls_, CallKind::kWork, CallDeadline::kNone);
    v1::NextTaskReply reply;
    FEDMOE_RETURN_IF_ERROR(FromGrpc(stub_->NextTask(call.context(), ToProto(request), &reply)));
    tasks_ = std::max(reply.tasks(), 0);
    return FromProto(reply, request.session.client);
  }

  Result<HeartbeatReply> Beat(const SessionId& session, TaskId task, double progress) override {
    Call call(calls_, CallKind::kOther, CallDeadline::kUnary);
    v1::HeartbeatReply reply;
    // A transfer fills the connection's buffers with as much as a chunk, which a sign of life would
    // wait for: over a slow link longer than the coordinator waits for it.
    const std::shared_ptr<v1::Coordinator::Stub> stub = StubForBeat();
    FEDMOE_RETURN_IF_ERROR(FromGrpc(
        stub->Heartbeat(call.context(), HeartbeatToProto(session, task, progress), &reply)));
    return FromProto(reply);
  }

  Status FetchShards(const SessionId& session, const std::vector<ShardReference>& shards,
                     const ShardSink& sink, bool damaged, std::uint64_t first_offset) override;
  Result<Verdict> SubmitUpdate(const SessionId& session, const UpdateHeader& header,
                               const UpdateSource& encode, bool again) override;

  Status SubmitEvaluation(const SessionId& session, const EvaluationResult& result) override {
    Call call(calls_, CallKind::kOther, CallDeadline::kUnary);
    v1::Empty reply;
    return FromGrpc(stub_->SubmitEvaluation(call.context(), ToProto(session, result), &reply));
  }

  Status ReturnTask(const SessionId& session, TaskId task, const std::string& why) override {
    Call call(calls_, CallKind::kOther, CallDeadline::kUnary);
    v1::Empty reply;
    return FromGrpc(stub_->ReturnTask(call.context(), ReturnToProto(session, task, why), &reply));
  }

  Status Leave(const SessionId& session) override {
    Call call(calls_, CallKind::kOther, CallDeadline::kUnary);
    v1::LeaveRequest request;
    *request.mutable_session() = ToProto(session);
    v1::Empty reply;
    return FromGrpc(stub_->Leave(call.context(), request, &reply));
  }

  void CancelWork() override { calls_.Cancel(false); }
  void CancelAll() override { calls_.Cancel(true); }

 private:
  // How far a fetch has come: to byte `offset` of the shard at `next`.
  struct FetchProgress {
    std::size_t next = 0;
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;  // in all
    bool damaged = false;     // as the caller says
    bool refused = false;     // by the sink, which ends the fetch
  };
  Status FetchOnce(const SessionId& session, const std::vector<ShardReference>& shards,
                   FetchProgress& progress, const ShardSink& sink);
  Status EndOfTransfer(const grpc::Status& end);
  // `sent`: bytes that were given to the stream.
  Result<Verdict> SubmitOnce(const SessionId& session, const UpdateHeader& header,
                             const UpdateSource& encode, std::uint64_t offset, std::uint64_t& sent);
  Result<std::uint64_t> AskReceived(const SessionId& session, TaskId task,
                                    std::uint64_t total_bytes);
  Status WaitToResume(int attempt);

  void OpenChannels() {
    const std::lock_guard<std::mutex> lock(stubs_mutex_);
    stub_ = v1::Coordinator::NewStub(connect_());
    beside_ = v1::Coordinator::NewStub(connect_());
  }
  // Of a heartbeat, which may run while Register() opens others.
  std::shared_ptr<v1::Coordinator::Stub> StubForBeat() {
    const std::lock_guard<std::mutex> lock(stubs_mutex_);
    return transfers_ > 0 ? beside_ : stub_;
  }

  const Connect connect_;
  bool unreachable_ = false;
  std::mutex stubs_mutex_;
  std::shared_ptr<v1::Coordinator::Stub> stub_;
  std::shared_ptr<v1::Coordinator::Stub> beside_;
  CallRegistry calls_;
  std::atomic<int> tasks_{0};  // of the round of the last task
  std::atomic<int> transfers_{0};
};

// ---- Transfers that are cut go on where they broke off, as long as the session holds.

Status GrpcTransport::WaitToResume(int attempt) {
  return calls_.Wait(kResumeMs << (attempt - 1)) ? Status::Ok()
                                                 : Cancelled("the client is stopping");
}

// The coordinator cuts a transfer that stalls while others wait: it can go on, as after any cut.
Status GrpcTransport::EndOfTransfer(const grpc::Status& end) {
  Status status = FromGrpc(end);
  const bool by_coordinator = status.code() == StatusCode::kCancelled && calls_.Wait(0);
  return by_coordinator ? Unavailable("the coordinator broke the transfer off") : status;
}

Status GrpcTransport::FetchShards(const SessionId& session,
                                  const std::vector<ShardReference>& shards, const ShardSink& sink,
                                  bool damaged, std::uint64_t first_offset) {
  FetchProgress progress{.offset = first_offset, .damaged = damaged};
  for (int attempt = 1;; ++attempt) {
    const std::uint64_t before = progress.bytes;
    const Status status = FetchOnce(session, shards, progress, sink);
    if (progress.bytes > before) attempt = 1;
    const bool begun = progress.bytes > 0 || first_offset > 0;
    const bool cut = !progress.refused && IsCut(status) && begun;
    if (!cut || attempt > kResumeAttempts) return status;
    FEDMOE_RETURN_IF_ERROR(WaitToResume(attempt));
  }
}

Status GrpcTransport::FetchOnce(const SessionId& session, const std::vector<ShardReference>& shards,
                                FetchProgress& progress, const ShardSink& sink) {
  Call call(calls_, CallKind::kWork, CallDeadline::kNone);
  const Transfer transfer(transfers_);
  const std::size_t first = progress.next;
  const std::vector<ShardReference> left(shards.begin() + static_cast<std::ptrdiff_t>(first),
                                         shards.end());
  const auto reader = stub_->FetchShards(
      call.context(), FetchToProto(session, left, progress.offset, progress.damaged));
  const auto take = [&](const v1::ShardChunk& chunk) -> Status {
    FEDMOE_ASSIGN_OR_RETURN(const ShardReference shard, ShardOfChunk(chunk, left));
    FEDMOE_RETURN_IF_ERROR(CheckChunk(fmt::format("chunk of shard {}", shard.shard), chunk.offset(),
                                      chunk.data(), chunk.crc32c()));
    const Status taken = sink(shard, chunk.offset(), AsBytes(std::string_view(chunk.data())));
    progress.refused = !taken.ok();
    FEDMOE_RETURN_IF_ERROR(taken);
    const std::uint64_t end = chunk.offset() + chunk.data().size();
    const bool whole = end >= static_cast<std::uint64_t>(shard.bytes);
    progress.next = first + static_cast<std::size_t>(chunk.index()) + (whole ? 1 : 0);
    progress.offset = whole ? 0 : end;
    progress.bytes += chunk.data().size();
    return Status::Ok();
  };
  v1::ShardChunk chunk;
  Status stopped;
  while (stopped.ok() && reader->Read(&chunk)) {
    stopped = take(chunk);
    for (int i = 0; stopped.ok() && i < chunk.more_size(); ++i) stopped = take(chunk.more(i));
  }
  if (!stopped.ok()) call.context()->TryCancel();
  const Status status = EndOfTransfer(reader->Finish());
  if (!stopped.ok()) return stopped;
  // It may be cut between the last chunk and the status.
  return progress.next == shards.size() ? Status::Ok() : status;
}

Result<Verdict> GrpcTransport::SubmitUpdate(const SessionId& session, const UpdateHeader& header,
                                            const UpdateSource& encode, bool again) {
  std::uint64_t offset = 0;
  if (again) {
    FEDMOE_ASSIGN_OR_RETURN(offset, AskReceived(session, header.task, header.total_bytes));
  }
  for (int attempt = 1;; ++attempt) {
    std::uint64_t sent = 0;
    Result<Verdict> verdict = SubmitOnce(session, header, encode, offset, sent);
    // What the coordinator has can still grow, by what was under way.
    const bool moved = verdict.status().code() == StatusCode::kFailedPrecondition && offset > 0;
    const bool cut = moved || (IsCut(verdict.status()) && sent > 0);
    if (!cut || attempt > kResumeAttempts) return verdict;
    FEDMOE_RETURN_IF_ERROR(WaitToResume(attempt));
    const Result<std::uint64_t> received = AskReceived(session, header.task, header.total_bytes);
    // The coordinator is not there: the client's loop waits for it.
    if (!received.ok()) return verdict;
    if (*received > offset) attempt = 1;
    offset = *received;
  }
}

Result<std::uint64_t> GrpcTransport::AskReceived(const SessionId& session, TaskId task,
                                                 std::uint64_t total_bytes) {
  Call call(calls_, CallKind::kOther, CallDeadline::kUnary);
  v1::ResumeUpdateReply reply;
  FEDMOE_RETURN_IF_ERROR(FromGrpc(
      stub_->ResumeUpdate(call.context(), ResumeToProto(session, task, total_bytes), &reply)));
  return std::min(reply.received_bytes(), total_bytes);
}

Result<Verdict> GrpcTransport::SubmitOnce(const SessionId& session, const UpdateHeader& header,
                                          const UpdateSource& encode, std::uint64_t offset,
                                          std::uint64_t& sent) {
  Call call(calls_, CallKind::kOther, CallDeadline::kNone);
  const Transfer transfer(transfers_);
  v1::SubmitUpdateReply reply;
  const auto writer = stub_->SubmitUpdate(call.context(), &reply);
  v1::UpdateChunk first;
  *first.mutable_header() = ToProto(session, header, offset);
  // The coordinator may answer before it has all: a verdict, or an error. Then writing ends early
  // and Finish tells.
  bool open = writer->Write(first);
  ChunkWriter chunks(*writer, tasks_);
  std::uint64_t skip = offset;  // is there already
  Status encoded;
  if (open) {
    encoded = encode([&](std::span<const std::byte> bytes) {
      const std::uint64_t known = std::min<std::uint64_t>(skip, bytes.size());
      skip -= known;
      sent += bytes.size() - known;
      open = chunks.Write(bytes.subspan(known));
      return open ? Status::Ok() : Cancelled("the stream is over");
    });
  }
  if (open && !encoded.ok()) {
    call.context()->TryCancel();
    static_cast<void>(writer->Finish());
    return encoded;
  }
  if (open && chunks.Flush()) writer->WritesDone();
  FEDMOE_RETURN_IF_ERROR(EndOfTransfer(writer->Finish()));
  return FromProto(reply);
}

}  // namespace

Result<std::unique_ptr<Transport>> MakeGrpcTransport(const std::string& address,
                                                     const ClientTlsOptions& tls,
                                                     const KeepaliveOptions& keepalive) {
  RouteGrpcLog();
  FEDMOE_ASSIGN_OR_RETURN(Connect connect, MakeConnect(address, tls, keepalive));
  return std::unique_ptr<Transport>(std::make_unique<GrpcTransport>(std::move(connect)));
}

}  // namespace fedmoe
