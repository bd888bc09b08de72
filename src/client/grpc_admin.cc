#include "client/grpc_admin.h"

#include <chrono>

#include <grpcpp/grpcpp.h>

#include "fedmoe/v1/coordinator.grpc.pb.h"
#include "wire/status.h"

namespace fedmoe {

Result<std::string> CallAdmin(const std::string& address, const std::string& command) {
  const auto stub =
      v1::Admin::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  if (command == "status") {
    v1::StatusReply reply;
    const Status called = FromGrpc(stub->Status(&context, v1::StatusRequest(), &reply));
    if (!called.ok()) return called;
    return reply.json();
  }
  v1::Empty nothing;
  if (command != "drain" && command != "stop")
    return InvalidArgument("no such command: " + command);
  const Status called = FromGrpc(command == "drain" ? stub->Drain(&context, v1::Empty(), &nothing)
                                                    : stub->Stop(&context, v1::Empty(), &nothing));
  if (!called.ok()) return called;
  return std::string();
}

}  // namespace fedmoe
