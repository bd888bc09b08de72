#include "coordinator/grpc_handlers.h"

#include <string>
#include <utility>

#include <grpcpp/grpcpp.h>

#include "coordinator/grpc_transfers.h"
#include "fedmoe/v1/coordinator.grpc.pb.h"
#include "wire/from_proto.h"
#include "wire/status.h"
#include "wire/to_proto.h"

namespace fedmoe {
namespace {

using Reactor = grpc::ServerUnaryReactor;

// A NextTask that the core may hold: its end is told when the client goes first.
class PollReactor final : public Reactor {
 public:
  PollReactor(CoordinatorCore& core, const v1::NextTaskRequest& request, v1::NextTaskReply* reply)
      : core_(core) {
    Result<SessionId> session = FromProto(request.session());
    if (!session.ok()) {
      Finish(ToGrpc(session.status()));
      return;
    }
    core_.NextTask(std::move(session).value(), poll_,
                   [this, reply](const Result<NextTaskReply>& next) {
                     if (next.ok()) *reply = ToProto(*next);
                     Finish(ToGrpc(next.status()));
                   });
  }
  void OnCancel() override { core_.AbandonPoll(poll_); }
  void OnDone() override { delete this; }

 private:
  CoordinatorCore& core_;
  const std::shared_ptr<Poll> poll_ = std::make_shared<Poll>();
};

// Ends a call whose reply is empty.
CoordinatorCore::Callback<bool> Acknowledge(Reactor* reactor) {
  return [reactor](const Result<bool>& done) { reactor->Finish(ToGrpc(done.status())); };
}

Reactor* Refuse(Reactor* reactor, const Status& status) {
  reactor->Finish(ToGrpc(status));
  return reactor;
}

class CoordinatorService final : public v1::Coordinator::CallbackService {
 public:
  explicit CoordinatorService(CoordinatorCore& core) : core_(core) {}

  Reactor* Register(grpc::CallbackServerContext* context, const v1::RegisterRequest* request,
                    v1::RegisterReply* reply) override {
    Reactor* reactor = context->DefaultReactor();
    Result<RegisterRequest> parsed = FromProto(*request);
    if (!parsed.ok()) return Refuse(reactor, parsed.status());
    core_.Register(std::move(parsed).value(),
                   [reactor, reply](const Result<RegisterReply>& registered) {
                     if (registered.ok()) *reply = ToProto(*registered);
                     reactor->Finish(ToGrpc(registered.status()));
                   });
    return reactor;
  }

  Reactor* NextTask(grpc::CallbackServerContext*, const v1::NextTaskRequest* request,
                    v1::NextTaskReply* reply) override {
    return new PollReactor(core_, *request, reply);
  }

  Reactor* Heartbeat(grpc::CallbackServerContext* context, const v1::HeartbeatRequest* request,
                     v1::HeartbeatReply* reply) override {
    Reactor* reactor = context->DefaultReactor();
    Result<HeartbeatFromClient> beat = FromProto(*request);
    if (!beat.ok()) return Refuse(reactor, beat.status());
    core_.Beat(beat->session, beat->task, beat->progress,
               [reactor, reply](const Result<HeartbeatReply>& answer) {
                 if (answer.ok()) *reply = ToProto(*answer);
                 reactor->Finish(ToGrpc(answer.status()));
               });
    return reactor;
  }

  grpc::ServerWriteReactor<v1::ShardChunk>* FetchShards(
      grpc::CallbackServerContext*, const v1::FetchShardsRequest* request) override {
    return StartFetch(core_, *request);
  }

  grpc::ServerReadReactor<v1::UpdateChunk>* SubmitUpdate(grpc::CallbackServerContext*,
                                                         v1::SubmitUpdateReply* reply) override {
    return StartUpload(core_, reply);
  }

  Reactor* SubmitEvaluation(grpc::CallbackServerContext* context,
                            const v1::EvaluationResult* request, v1::Empty*) override {
    Reactor* reactor = context->DefaultReactor();
    Result<EvaluationFromClient> parsed = FromProto(*request);
    if (!parsed.ok()) return Refuse(reactor, parsed.status());
    core_.SubmitEvaluation(parsed->session, parsed->result, Acknowledge(reactor));
    return reactor;
  }

  Reactor* ReturnTask(grpc::CallbackServerContext* context, const v1::ReturnTaskRequest* request,
                      v1::Empty*) override {
    Reactor* reactor = context->DefaultReactor();
    Result<ReturnFromClient> parsed = FromProto(*request);
    if (!parsed.ok()) return Refuse(reactor, parsed.status());
    core_.ReturnTask(parsed->session, parsed->task, parsed->why, Acknowledge(reactor));
    return reactor;
  }

  Reactor* Leave(grpc::CallbackServerContext* context, const v1::LeaveRequest* request,
                 v1::Empty*) override {
    Reactor* reactor = context->DefaultReactor();
    Result<SessionId> session = FromProto(request->session());
    if (!session.ok()) return Refuse(reactor, session.status());
    core_.Leave(std::move(session).value(), Acknowledge(reactor));
    return reactor;
  }

 private:
  CoordinatorCore& core_;
};

class AdminService final : public v1::Admin::CallbackService {
 public:
  explicit AdminService(CoordinatorCore& core) : core_(core) {}

  Reactor* Status(grpc::CallbackServerContext* context, const v1::StatusRequest*,
                  v1::StatusReply* reply) override {
    Reactor* reactor = context->DefaultReactor();
    core_.Status([reactor, reply](const Result<std::string>& json) {
      if (json.ok()) reply->set_json(*json);
      reactor->Finish(ToGrpc(json.status()));
    });
    return reactor;
  }

  Reactor* Stop(grpc::CallbackServerContext* context, const v1::Empty*, v1::Empty*) override {
    core_.RequestStop(/*drain=*/false);
    return Accept(context);
  }

  Reactor* Drain(grpc::CallbackServerContext* context, const v1::Empty*, v1::Empty*) override {
    core_.RequestStop(/*drain=*/true);
    return Accept(context);
  }

 private:
  static Reactor* Accept(grpc::CallbackServerContext* context) {
    Reactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  CoordinatorCore& core_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeCoordinatorService(CoordinatorCore& core) {
  return std::make_unique<CoordinatorService>(core);
}

std::unique_ptr<grpc::Service> MakeAdminService(CoordinatorCore& core) {
  return std::make_unique<AdminService>(core);
}

}  // namespace fedmoe
