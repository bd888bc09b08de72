#include "coordinator/grpc_handlers.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "coordinator/grpc_transfers.h"
#include "fedmoe/v1/coordinator.grpc.pb.h"
#include "wire/from_proto.h"
#include "wire/status.h"
#include "wire/to_proto.h"

namespace fedmoe {
namespace {

using Reactor = grpc::ServerUnaryReactor;

// A NextTask that the core may hold: its end is told when the client goes first. Shards that the
// client lacks go with the task where they are few bytes, which spares it a call.
class PollReactor final : public Reactor {
 public:
  PollReactor(CoordinatorCore& core, const Gatekeeper& gate, CarriedBytes& carried, Caller caller,
              const v1::NextTaskRequest& request, v1::NextTaskReply* reply)
      : core_(core), gate_(gate), carried_(carried), caller_(std::move(caller)), reply_(reply) {
    Result<PollRequest> parsed = FromProto(request);
    Status status = parsed.status();
    if (status.ok()) status = gate_.CheckClient(caller_, parsed->session.client);
    if (!status.ok()) {
      Finish(ToGrpc(status));
      return;
    }
    request_ = std::move(parsed).value();
    core_.NextTask(request_.session, poll_,
                   [this](const Result<NextTaskReply>& next) { Answer(next); });
  }
  ~PollReactor() override { carried_.Return(taken_); }
  void OnCancel() override { core_.AbandonPoll(poll_); }
  void OnDone() override { delete this; }
  // Not documented by gRPC: OnDone() and OnCancel() may run where it stands, without a change to
  // another thread. They neither wait nor call back.
  bool InternalInlineable() override { return true; }

 private:
  void Answer(const Result<NextTaskReply>& next) {
    if (!next.ok()) return Finish(ToGrpc(next.status()));
    *reply_ = ToProto(*next);
    if (next->kind == NextTaskReply::Kind::kTask) Choose(next->task.shards);
    if (pieces_.empty()) return Finish(grpc::Status::OK);
    core_.ReadShards(request_.session, pieces_,
                     [this](const Result<std::vector<SharedBytes>>& read) { Send(read); });
  }

  // All that the client lacks, or nothing.
  void Choose(const std::vector<ShardReference>& shards) {
    const std::uint64_t most = std::min(request_.carry_bytes, kMaxCarryBytes);
    if (most == 0 || !gate_.Judge(caller_, request_.session.client).ok()) return;
    std::uint64_t bytes = 0;
    for (std::size_t i = 0; i < shards.size(); ++i) {
      const ShardReference& shard = shards[i];
      const auto length = static_cast<std::uint64_t>(shard.bytes);
      if (std::ranges::find(request_.held, DigestPrefix(shard.digest)) != request_.held.end())
        continue;
      // An encoded one may first have to be made.
      if (shard.encoded() || length > most - bytes) return Drop();
      bytes += length;
      pieces_.push_back({.shard = shard, .offset = 0, .length = length});
      indices_.push_back(static_cast<int>(i));
    }
    if (!carried_.Take(bytes)) return Drop();
    taken_ = bytes;
  }
  void Drop() { pieces_.clear(); }

  // What cannot be read is told to who asks for it.
  void Send(const Result<std::vector<SharedBytes>>& read) {
    for (std::size_t i = 0; read.ok() && i < read->size(); ++i) {
      Carry(*reply_, indices_[i], (*read)[i]->bytes, (*read)[i]->crc32c);
    }
    Finish(grpc::Status::OK);
  }

  CoordinatorCore& core_;
  const Gatekeeper& gate_;
  CarriedBytes& carried_;
  const Caller caller_;
  v1::NextTaskReply* const reply_;
  PollRequest request_;
  const std::shared_ptr<Poll> poll_ = std::make_shared<Poll>();
  std::vector<ShardPiece> pieces_;
  std::vector<int> indices_;  // of them in the task
  std::uint64_t taken_ = 0;
};

// Ends a call whose reply is empty.
CoordinatorCore::Callback<bool> Acknowledge(Reactor* reactor) {
  return [reactor](const Result<bool>& done) { reactor->Finish(ToGrpc(done.status())); };
}

Reactor* Refuse(Reactor* reactor, const Status& status) {
  reactor->Finish(ToGrpc(status));
  return reactor;
}

// FetchShards answers with serialized messages.
using ServiceWithRawFetch =
    v1::Coordinator::WithRawCallbackMethod_FetchShards<v1::Coordinator::CallbackService>;

class CoordinatorService final : public ServiceWithRawFetch {
 public:
  CoordinatorService(CoordinatorCore& core, Gatekeeper& gate, TransferBounds& bounds)
      : core_(core), gate_(gate), bounds_(bounds) {}

  Reactor* Register(grpc::CallbackServerContext* context, const v1::RegisterRequest* request,
                    v1::RegisterReply* reply) override {
    Reactor* reactor = context->DefaultReactor();
    Result<RegisterRequest> parsed = FromProto(*request);
    const Caller caller = CallerOf(*context);
    const std::string name = parsed.ok() ? parsed->client : std::string();
    Status status = parsed.status();
    if (status.ok()) status = gate_.Judge(caller, name);
    if (!status.ok()) {
      gate_.RecordRegistration(caller, name, status);
      return Refuse(reactor, status);
    }
    core_.Register(std::move(parsed).value(),
                   [this, caller, name, reactor, reply](const Result<RegisterReply>& registered) {
                     fedmoe::Status outcome = registered.status();
                     if (outcome.ok()) outcome = gate_.Judge(caller, name);
                     gate_.RecordRegistration(caller, name, outcome);
                     if (outcome.ok()) *reply = ToProto(*registered);
                     // Revoked while it registered: what the core gave it, it gives back.
                     if (registered.ok() && !outcome.ok())
                       core_.Evict(name, outcome, [](const Result<bool>&) {});
                     reactor->Finish(ToGrpc(outcome));
                   });
    return reactor;
  }

  Reactor* NextTask(grpc::CallbackServerContext* context, const v1::NextTaskRequest* request,
                    v1::NextTaskReply* reply) override {
    return new PollReactor(core_, gate_, bounds_.carried, CallerOf(*context), *request, reply);
  }

  Reactor* Heartbeat(grpc::CallbackServerContext* context, const v1::HeartbeatRequest* request,
                     v1::HeartbeatReply* reply) override {
    Reactor* reactor = context->DefaultReactor();
    Result<HeartbeatFromClient> beat = FromProto(*request);
    if (Status status = Check(*context, beat); !status.ok()) return Refuse(reactor, status);
    core_.Beat(beat->session, beat->task, beat->progress,
               [reactor, reply](const Result<HeartbeatReply>& answer) {
                 if (answer.ok()) *reply = ToProto(*answer);
                 reactor->Finish(ToGrpc(answer.status()));
               });
    return reactor;
  }

  grpc::ServerWriteReactor<grpc::ByteBuffer>* FetchShards(
      grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) override {
    grpc::ByteBuffer bytes(*request);
    v1::FetchShardsRequest parsed;
    // One that cannot be parsed is empty, which is refused.
    if (!grpc::SerializationTraits<v1::FetchShardsRequest>::Deserialize(&bytes, &parsed).ok()) {
      parsed.Clear();
    }
    return StartFetch({core_, gate_, bounds_.down, *context, CallerOf(*context)}, parsed);
  }

  grpc::ServerReadReactor<v1::UpdateChunk>* SubmitUpdate(grpc::CallbackServerContext* context,
                                                         v1::SubmitUpdateReply* reply) override {
    return StartUpload({core_, gate_, bounds_.up, *context, CallerOf(*context)}, reply);
  }

  Reactor* ResumeUpdate(grpc::CallbackServerContext* context,
                        const v1::ResumeUpdateRequest* request,
                        v1::ResumeUpdateReply* reply) override {
    Reactor* reactor = context->DefaultReactor();
    Result<ResumeFromClient> parsed = FromProto(*request);
    if (Status status = Check(*context, parsed); !status.ok()) return Refuse(reactor, status);
    core_.ResumeUpdate(parsed->session, parsed->task, parsed->total_bytes,
                       [reactor, reply](const Result<std::uint64_t>& received) {
                         if (received.ok()) reply->set_received_bytes(*received);
                         reactor->Finish(ToGrpc(received.status()));
                       });
    return reactor;
  }

  Reactor* SubmitEvaluation(grpc::CallbackServerContext* context,
                            const v1::EvaluationResult* request, v1::Empty*) override {
    Reactor* reactor = context->DefaultReactor();
    Result<EvaluationFromClient> parsed = FromProto(*request);
    if (Status status = Check(*context, parsed); !status.ok()) return Refuse(reactor, status);
    core_.SubmitEvaluation(parsed->session, parsed->result, Acknowledge(reactor));
    return reactor;
  }

  Reactor* ReturnTask(grpc::CallbackServerContext* context, const v1::ReturnTaskRequest* request,
                      v1::Empty*) override {
    Reactor* reactor = context->DefaultReactor();
    Result<ReturnFromClient> parsed = FromProto(*request);
    if (Status status = Check(*context, parsed); !status.ok()) return Refuse(reactor, status);
    core_.ReturnTask(parsed->session, parsed->task, parsed->why, Acknowledge(reactor));
    return reactor;
  }

  Reactor* Leave(grpc::CallbackServerContext* context, const v1::LeaveRequest* request,
                 v1::Empty*) override {
    Reactor* reactor = context->DefaultReactor();
    Result<SessionId> session = FromProto(request->session());
    Status status = session.status();
    if (status.ok()) status = gate_.CheckClient(CallerOf(*context), session->client);
    if (!status.ok()) return Refuse(reactor, status);
    core_.Leave(std::move(session).value(), Acknowledge(reactor));
    return reactor;
  }

 private:
  // Whether a request could be read, and its caller may speak for the session's client.
  template <typename T>
  Status Check(const grpc::CallbackServerContext& context, const Result<T>& request) const {
    if (!request.ok()) return request.status();
    return gate_.CheckClient(CallerOf(context), request->session.client);
  }

  CoordinatorCore& core_;
  Gatekeeper& gate_;
  TransferBounds& bounds_;
};

class AdminService final : public v1::Admin::CallbackService {
 public:
  AdminService(CoordinatorCore& core, Gatekeeper& gate) : core_(core), gate_(gate) {}

  Reactor* Status(grpc::CallbackServerContext* context, const v1::StatusRequest*,
                  v1::StatusReply* reply) override {
    Reactor* reactor = context->DefaultReactor();
    const fedmoe::Status allowed = gate_.CheckAdmin(CallerOf(*context), "status");
    if (!allowed.ok()) return Refuse(reactor, allowed);
    core_.Status([reactor, reply](const Result<std::string>& json) {
      if (json.ok()) reply->set_json(*json);
      reactor->Finish(ToGrpc(json.status()));
    });
    return reactor;
  }

  Reactor* Stop(grpc::CallbackServerContext* context, const v1::Empty*, v1::Empty*) override {
    return RequestStop(*context, /*drain=*/false);
  }

  Reactor* Drain(grpc::CallbackServerContext* context, const v1::Empty*, v1::Empty*) override {
    return RequestStop(*context, /*drain=*/true);
  }

  Reactor* Revoke(grpc::CallbackServerContext* context, const v1::ClientName* request,
                  v1::Empty*) override {
    Reactor* reactor = context->DefaultReactor();
    const Caller caller = CallerOf(*context);
    fedmoe::Status status = gate_.CheckAdmin(caller, "revoke", request->name());
    if (status.ok()) status = gate_.Revoke(caller, request->name());
    if (!status.ok()) return Refuse(reactor, status);
    // Calls are refused from here on; what the client holds is given up now.
    core_.Evict(request->name(), gate_.Judge({.name = request->name()}, request->name()),
                Acknowledge(reactor));
    return reactor;
  }

  Reactor* Restore(grpc::CallbackServerContext* context, const v1::ClientName* request,
                   v1::Empty*) override {
    Reactor* reactor = context->DefaultReactor();
    const Caller caller = CallerOf(*context);
    fedmoe::Status status = gate_.CheckAdmin(caller, "restore", request->name());
    if (status.ok()) status = gate_.Restore(caller, request->name());
    reactor->Finish(ToGrpc(status));
    return reactor;
  }

 private:
  Reactor* RequestStop(grpc::CallbackServerContext& context, bool drain) {
    Reactor* reactor = context.DefaultReactor();
    const fedmoe::Status allowed = gate_.CheckAdmin(CallerOf(context), drain ? "drain" : "stop");
    if (allowed.ok()) core_.RequestStop(drain);
    reactor->Finish(ToGrpc(allowed));
    return reactor;
  }

  CoordinatorCore& core_;
  Gatekeeper& gate_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeCoordinatorService(CoordinatorCore& core, Gatekeeper& gate,
                                                      TransferBounds& bounds) {
  return std::make_unique<CoordinatorService>(core, gate, bounds);
}

std::unique_ptr<grpc::Service> MakeAdminService(CoordinatorCore& core, Gatekeeper& gate) {
  return std::make_unique<AdminService>(core, gate);
}

}  // namespace fedmoe
