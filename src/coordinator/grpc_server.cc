#include "coordinator/grpc_server.h"

#include <cctype>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <system_error>

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/service_type.h>
#include <grpcpp/resource_quota.h>
#include <netdb.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/tls_options.h"
#include "coordinator/grpc_handlers.h"
#include "wire/credentials.h"
#include "wire/grpc_log.h"

namespace fedmoe {
namespace {

std::string HostOf(const std::string& address) { return address.substr(0, address.rfind(':')); }

// gRPC does not tell why it could not bind; the system does when it is asked again.
std::string WhyNotBound(const std::string& address) {
  std::string host = HostOf(address);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  const std::string port = address.substr(address.rfind(':') + 1);
  addrinfo hints{};
  hints.ai_flags = AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = ::getaddrinfo(host.c_str(), port.c_str(), &hints, &found); error != 0) {
    return ::gai_strerror(error);
  }
  const int socket = ::socket(found->ai_family, found->ai_socktype, found->ai_protocol);
  int error = socket < 0 ? errno : 0;
  const int yes = 1;
  if (error == 0) {
    static_cast<void>(::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)));
    if (::bind(socket, found->ai_addr, found->ai_addrlen) != 0) error = errno;
    ::close(socket);
  }
  ::freeaddrinfo(found);
  return error == 0 ? "another program has just used it" : std::generic_category().message(error);
}

Status CannotListen(const std::string& address) {
  std::string why = WhyNotBound(address);
  why[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(why[0])));
  return FailedPrecondition("cannot listen on " + address + ": " + why);
}

// For the buffers of transfers, and for each client's connection. Generous, a last resort: past it
// gRPC cuts calls, and a task whose answer is cut waits for its deadline.
constexpr std::size_t kTransferBytes = std::size_t{256} << 20;
constexpr std::size_t kConnectionBytes = std::size_t{2} << 20;

void Configure(grpc::ServerBuilder& builder, int max_clients, const KeepaliveOptions& keepalive) {
  // Two coordinators must not share a port unseen.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
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
  server->coordinator_ = MakeCoordinatorService(core, gate, options.lanes);
  server->admin_ = MakeAdminService(core, gate);
  grpc::ServerBuilder builder;
  Configure(builder, core.options().max_clients, options.keepalive);
  int port = 0;
  builder.AddListeningPort(address, credentials, &port);
  builder.RegisterService(server->coordinator_.get());
  builder.RegisterService(server->admin_.get());
  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr || port == 0) return CannotListen(address);
  const std::string host = HostOf(address);
  server->address_ = fmt::format("{}:{}", host, port);
  if (!options.tls.enabled() && !IsLoopback(address)) {
    spdlog::warn(
        "listening on {} without encryption or authentication: keep it within a network "
        "that you trust",
        server->address_);
  }
  return server;
}

void GrpcServer::Shutdown(Milliseconds grace_ms) {
  if (server_ == nullptr) return;
  server_->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(grace_ms));
}

}  // namespace fedmoe
