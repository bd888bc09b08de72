#include "coordinator/grpc_server.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/service_type.h>
#include <grpcpp/resource_quota.h>
#include <spdlog/spdlog.h>

#include "common/open_files.h"
#include "common/tls_options.h"
#include "coordinator/grpc_handlers.h"
#include "coordinator/listener.h"
#include "wire/credentials.h"
#include "wire/grpc_log.h"
#include "wire/limits.h"

namespace fedmoe {
namespace {

std::string HostOf(const std::string& address) { return address.substr(0, address.rfind(':')); }

// For the buffers of transfers, and for each client's connection. Generous, a last resort: past it
// gRPC cuts calls, and a task whose answer is cut waits for its deadline.
constexpr std::size_t kTransferBytes = std::size_t{256} << 20;
constexpr std::size_t kConnectionBytes = std::size_t{2} << 20;

// A client has one connection for its transfers and one for its signs of life; some are left for
// fedmoe-admin and for those that are being opened anew.
constexpr std::size_t kConnectionsOfAClient = 2;
constexpr std::size_t kOtherConnections = 64;
// Files that the process may have open beside connections: spooled updates that come in, two for a
// client at the most of this round and the last, and those of the run.
constexpr std::size_t kFilesOfAClient = 2;
constexpr std::size_t kOtherFiles = 256;

// How many connections may be open, with the files for them allowed. At least one.
std::size_t AllowConnections(std::size_t max_connections, const CoreOptions& core) {
  const auto clients = static_cast<std::size_t>(core.max_clients);
  const auto drawn = static_cast<std::size_t>(core.run.participation.per_round);
  const std::size_t sending = drawn == 0 ? clients : std::min(clients, 2 * drawn);
  std::size_t wanted = max_connections;
  if (wanted == 0) wanted = kConnectionsOfAClient * clients + kOtherConnections;
  const std::size_t needed = wanted + kFilesOfAClient * sending + kOtherFiles;
  const auto files = static_cast<std::size_t>(AllowOpenFiles(needed));
  if (files >= needed) return wanted;
  // What is short is shared out alike.
  const std::size_t allowed = std::max<std::size_t>(1, files * wanted / needed);
  spdlog::warn(
      "{} connections may be open at once, not {}: the process may open {} files (ulimit -n)",
      allowed, wanted, files);
  return allowed;
}

void Configure(grpc::ServerBuilder& builder, int max_clients, const KeepaliveOptions& keepalive) {
  // Clients ping just as often, also while a poll is parked; twice as often is still no offence.
  const auto interval_ms = static_cast<int>(keepalive.interval_ms);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, interval_ms);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, static_cast<int>(keepalive.timeout_ms));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             interval_ms / 2);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  // A client has few calls at once; no connection may take all of the memory with new ones.
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 64);
  builder.SetMaxReceiveMessageSize(static_cast<int>(kMaxRequestBytes));
  grpc::ResourceQuota quota("fedmoe");
  quota.SetMaxThreads(4);
  quota.Resize(kTransferBytes + kConnectionBytes * static_cast<std::size_t>(max_clients));
  builder.SetResourceQuota(quota);
}

}  // namespace

GrpcServer::GrpcServer() = default;
GrpcServer::~GrpcServer() { Shutdown(0); }

Result<std::unique_ptr<GrpcServer>> GrpcServer::Start(CoordinatorCore& core, Gatekeeper& gate,
                                                      const std::string& address,
                                                      const GrpcServerOptions& options) {
  RouteGrpcLog();
  if (address.rfind(':') == std::string::npos) {
    return InvalidArgument("cannot listen on " + address + ": it must be HOST:PORT");
  }
  FEDMOE_ASSIGN_OR_RETURN(const auto credentials, MakeServerCredentials(options.tls));
  std::unique_ptr<GrpcServer> server(new GrpcServer());
  FEDMOE_ASSIGN_OR_RETURN(
      server->listener_, Listener::Open(address, {.max_connections = AllowConnections(
                                                      options.max_connections, core.options()),
                                                  .unacknowledged_ms = options.keepalive.timeout_ms,
                                                  .is_encrypted = options.tls.enabled()}));
  server->transfers_ = std::make_unique<TransferBounds>(options.lanes);
  server->coordinator_ = MakeCoordinatorService(core, gate, *server->transfers_);
  server->admin_ = MakeAdminService(core, gate);
  grpc::ServerBuilder builder;
  Configure(builder, core.options().max_clients, options.keepalive);
  const std::shared_ptr acceptor = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD, credentials);
  builder.RegisterService(server->coordinator_.get());
  builder.RegisterService(server->admin_.get());
  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr) {
    return FailedPrecondition("cannot listen on " + address + ": gRPC could not start a server");
  }
  server->address_ = fmt::format("{}:{}", HostOf(address), server->listener_->port());
  server->listener_->Start([acceptor](int socket) {
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
    connection.fd = socket;
    acceptor->HandleNewConnection(&connection);
  });
  if (!options.tls.enabled() && !IsLoopback(address)) {
    spdlog::warn(
        "listening on {} without encryption or authentication: keep it within a network "
        "that you trust",
        server->address_);
  }
  return server;
}

void GrpcServer::Shutdown(Milliseconds grace_ms) {
  if (listener_ != nullptr) listener_->Stop();
  if (server_ == nullptr) return;
  server_->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(grace_ms));
}

}  // namespace fedmoe
