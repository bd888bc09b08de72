#include "client/grpc_transport.h"

#include <chrono>
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
#include "wire/credentials.h"
#include "wire/from_proto.h"
#include "wire/grpc_log.h"
#include "wire/limits.h"
#include "wire/status.h"
#include "wire/to_proto.h"

namespace fedmoe {
namespace {

constexpr std::chrono::seconds kUnaryDeadline{30};

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
  void Cancel(bool all) {
    const std::lock_guard<std::mutex> lock(mutex_);
    cancel_work_ = true;
    cancel_all_ = cancel_all_ || all;
    for (grpc::ClientContext* context : work_) context->TryCancel();
    if (!all) return;
    for (grpc::ClientContext* context : others_) context->TryCancel();
  }

 private:
  std::mutex mutex_;
  std::set<grpc::ClientContext*> work_;
  std::set<grpc::ClientContext*> others_;
  bool cancel_work_ = false;
  bool cancel_all_ = false;
};

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
Result<Connect> MakeConnect(const std::string& address, const ClientTlsOptions& tls) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
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
  explicit ChunkWriter(grpc::ClientWriter<v1::UpdateChunk>& writer) : writer_(writer) {}

  // False: the stream is over; its status says why.
  bool Write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const std::size_t part = std::min(bytes.size(), kChunkBytes - data_.size());
      data_.append(reinterpret_cast<const char*>(bytes.data()), part);
      bytes = bytes.subspan(part);
      if (data_.size() == kChunkBytes && !Flush()) return false;
    }
    return true;
  }

  bool Flush() {
    if (data_.empty()) return true;
    v1::UpdateChunk chunk;
    chunk.mutable_data()->set_crc32c(Crc32c(AsBytes(std::string_view(data_))));
    chunk.mutable_data()->set_data(std::exchange(data_, {}));
    return writer_.Write(chunk);
  }

 private:
  grpc::ClientWriter<v1::UpdateChunk>& writer_;
  std::string data_;
};

class GrpcTransport final : public Transport {
 public:
  explicit GrpcTransport(Connect connect)
      : connect_(std::move(connect)), stub_(v1::Coordinator::NewStub(connect_())) {}

  // A channel that could not connect waits 10 s before it tries again, whatever the backoff that it
  // is given. How long to wait is the client loop's business, so that each try gets a new one.
  Result<RegisterReply> Register(const RegisterRequest& request) override {
    if (unreachable_) stub_ = v1::Coordinator::NewStub(connect_());
    Call call(calls_, CallKind::kWork, CallDeadline::kUnary);
    v1::RegisterReply reply;
    const Status status = FromGrpc(stub_->Register(call.context(), ToProto(request), &reply));
    unreachable_ = status.code() == StatusCode::kUnavailable;
    FEDMOE_RETURN_IF_ERROR(status);
    return FromProto(reply);
  }

  Result<NextTaskReply> NextTask(const SessionId& session) override {
    Call call(calls_, CallKind::kWork, CallDeadline::kNone);
    v1::NextTaskRequest request;
    *request.mutable_session() = ToProto(session);
    v1::NextTaskReply reply;
    FEDMOE_RETURN_IF_ERROR(FromGrpc(stub_->NextTask(call.context(), request, &reply)));
    return FromProto(reply, session.client);
  }

  Result<HeartbeatReply> Beat(const SessionId& session, TaskId task, double progress) override {
    Call call(calls_, CallKind::kOther, CallDeadline::kUnary);
    v1::HeartbeatReply reply;
    FEDMOE_RETURN_IF_ERROR(FromGrpc(
        stub_->Heartbeat(call.context(), HeartbeatToProto(session, task, progress), &reply)));
    return FromProto(reply);
  }

  Status FetchShards(const SessionId& session, const std::vector<ShardReference>& shards,
                     const ShardSink& sink) override;
  Result<Verdict> SubmitUpdate(const SessionId& session, const UpdateHeader& header,
                               const UpdateSource& encode) override;

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
  const Connect connect_;
  bool unreachable_ = false;
  std::unique_ptr<v1::Coordinator::Stub> stub_;
  CallRegistry calls_;
};

Status GrpcTransport::FetchShards(const SessionId& session,
                                  const std::vector<ShardReference>& shards,
                                  const ShardSink& sink) {
  Call call(calls_, CallKind::kWork, CallDeadline::kNone);
  const auto reader = stub_->FetchShards(call.context(), FetchToProto(session, shards));
  v1::ShardChunk chunk;
  Status stopped;
  while (stopped.ok() && reader->Read(&chunk)) {
    if (chunk.index() < 0 || chunk.index() >= static_cast<int>(shards.size())) {
      stopped = InvalidArgument(
          fmt::format("index must be 0 to {} (got {})", shards.size() - 1, chunk.index()));
      break;
    }
    const ShardReference& shard = shards[static_cast<std::size_t>(chunk.index())];
    stopped = CheckChunk(fmt::format("chunk of shard {}", shard.shard), chunk.offset(),
                         chunk.data(), chunk.crc32c());
    if (stopped.ok()) {
      stopped = sink(shard, chunk.offset(), AsBytes(std::string_view(chunk.data())));
    }
  }
  if (!stopped.ok()) call.context()->TryCancel();
  const Status status = FromGrpc(reader->Finish());
  return stopped.ok() ? status : stopped;
}

Result<Verdict> GrpcTransport::SubmitUpdate(const SessionId& session, const UpdateHeader& header,
                                            const UpdateSource& encode) {
  Call call(calls_, CallKind::kOther, CallDeadline::kNone);
  v1::SubmitUpdateReply reply;
  const auto writer = stub_->SubmitUpdate(call.context(), &reply);
  v1::UpdateChunk first;
  *first.mutable_header() = ToProto(session, header);
  // The coordinator may answer before it has all: a verdict, or an error. Then writing ends early
  // and Finish tells.
  bool open = writer->Write(first);
  ChunkWriter chunks(*writer);
  Status encoded;
  if (open) {
    encoded = encode([&](std::span<const std::byte> bytes) {
      open = chunks.Write(bytes);
      return open ? Status::Ok() : Cancelled("the stream is over");
    });
  }
  if (open && !encoded.ok()) {
    call.context()->TryCancel();
    static_cast<void>(writer->Finish());
    return encoded;
  }
  if (open && chunks.Flush()) writer->WritesDone();
  FEDMOE_RETURN_IF_ERROR(FromGrpc(writer->Finish()));
  return FromProto(reply);
}

}  // namespace

Result<std::unique_ptr<Transport>> MakeGrpcTransport(const std::string& address,
                                                     const ClientTlsOptions& tls) {
  RouteGrpcLog();
  FEDMOE_ASSIGN_OR_RETURN(Connect connect, MakeConnect(address, tls));
  return std::unique_ptr<Transport>(std::make_unique<GrpcTransport>(std::move(connect)));
}

}  // namespace fedmoe
