#include "client/grpc_admin.h"

#include <chrono>

#include <grpcpp/grpcpp.h>

#include "fedmoe/v1/coordinator.grpc.pb.h"
#include "wire/credentials.h"
#include "wire/status.h"

namespace fedmoe {

Result<std::string> CallAdmin(const AdminCall& call) {
  grpc::ChannelArguments arguments;
  // A proxy meant for the web would break even loopback.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  FEDMOE_ASSIGN_OR_RETURN(const auto credentials, MakeChannelCredentials(call.tls, arguments));
  const auto stub =
      v1::Admin::NewStub(grpc::CreateCustomChannel(call.address, credentials, arguments));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  if (call.command == "status") {
    v1::StatusReply reply;
    FEDMOE_RETURN_IF_ERROR(FromGrpc(stub->Status(&context, v1::StatusRequest(), &reply)));
    return reply.json();
  }
  v1::Empty nothing;
  v1::ClientName client;
  client.set_name(call.client);
  grpc::Status called;
  if (call.command == "drain") {
    called = stub->Drain(&context, v1::Empty(), &nothing);
  } else if (call.command == "stop") {
    called = stub->Stop(&context, v1::Empty(), &nothing);
  } else if (call.command == "revoke") {
    called = stub->Revoke(&context, client, &nothing);
  } else if (call.command == "restore") {
    called = stub->Restore(&context, client, &nothing);
  } else {
    return InvalidArgument("no such command: " + call.command);
  }
  FEDMOE_RETURN_IF_ERROR(FromGrpc(called));
  return std::string();
}

}  // namespace fedmoe
