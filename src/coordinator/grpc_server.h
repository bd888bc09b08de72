// The coordinator on the network: the gRPC services of proto/fedmoe/v1 in front of the core.
#pragma once

#include <memory>
#include <string>

#include "common/ids.h"
#include "common/result.h"
#include "common/tls_options.h"
#include "coordinator/core.h"
#include "coordinator/gatekeeper.h"
#include "coordinator/transfer_lanes.h"
#include "wire/keepalive.h"

namespace grpc {
class Server;
class Service;
}  // namespace grpc

namespace fedmoe {

class Listener;

struct GrpcServerOptions {
  ServerTlsOptions tls;
  KeepaliveOptions keepalive;
  TransferLanes::Options lanes;  // of downloads, and again of uploads
  // Open at once; more are refused. 0: two for each of the core's max_clients and 64 more.
  std::size_t max_connections = 0;
};

// Thread-safe. Destroying it ends every call at once; the core and the gatekeeper must outlive it.
class GrpcServer {
 public:
  // Listens on `address`, "HOST:PORT"; port 0 is any free one. FAILED_PRECONDITION: "cannot listen
  // on 127.0.0.1:7070: address already in use"; or as MakeServerCredentials. Warns when others than
  // this machine can connect without encryption.
  static Result<std::unique_ptr<GrpcServer>> Start(CoordinatorCore& core, Gatekeeper& gate,
                                                   const std::string& address,
                                                   const GrpcServerOptions& options = {});
  ~GrpcServer();

  // With the port that was bound.
  const std::string& address() const { return address_; }
  const TransferBounds& transfers() const { return *transfers_; }
  // Takes no more calls; those in flight have `grace_ms` to end. Blocks; idempotent.
  void Shutdown(Milliseconds grace_ms);

 private:
  GrpcServer();
  std::unique_ptr<TransferBounds> transfers_;
  std::unique_ptr<grpc::Service> coordinator_;
  std::unique_ptr<grpc::Service> admin_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<Listener> listener_;
  std::string address_;
};

}  // namespace fedmoe
