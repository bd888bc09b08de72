#include "coordinator/listener.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <system_error>

#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace fedmoe {
namespace {

// Connections that wait to be accepted: as many as the system allows.
constexpr int kBacklog = 4096;
// Connections accepted before the loop looks around again.
constexpr int kTurns = 256;
// Between two lines of the log about what was refused.
constexpr std::int64_t kLogMs = 10'000;
// After an error that may pass, where nothing could be accepted.
constexpr std::chrono::milliseconds kPause(100);

std::int64_t NowMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

ino_t InodeOf(int descriptor) {
  struct stat status {};
  return ::fstat(descriptor, &status) == 0 ? status.st_ino : 0;
}

std::string ErrorText(int error) {
  std::string text = std::generic_category().message(error);
  text[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(text[0])));
  return text;
}

int OpenSpare() { return ::open("/dev/null", O_RDONLY | O_CLOEXEC); }

// The port that a bound socket has.
int PortOf(int socket) {
  sockaddr_storage storage{};
  socklen_t size = sizeof(storage);
  if (::getsockname(socket, reinterpret_cast<sockaddr*>(&storage), &size) != 0) return 0;
  if (storage.ss_family == AF_INET) {
    return ntohs(reinterpret_cast<const sockaddr_in*>(&storage)->sin_port);
  }
  return ntohs(reinterpret_cast<const sockaddr_in6*>(&storage)->sin6_port);
}

void SetPort(addrinfo& address, int port) {
  const auto value = htons(static_cast<std::uint16_t>(port));
  if (address.ai_family == AF_INET) {
    reinterpret_cast<sockaddr_in*>(address.ai_addr)->sin_port = value;
  } else {
    reinterpret_cast<sockaddr_in6*>(address.ai_addr)->sin6_port = value;
  }
}

// A socket that listens at the address, or -1 and `error`.
int Listen(const addrinfo& address, int& error) {
  const int socket = ::socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (socket < 0) {
    error = errno;
    return -1;
  }
  const int yes = 1;
  static_cast<void>(::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)));
  // "[::]" stands for IPv6 alone where IPv4 has a socket of its own: never both on one port unseen.
  if (address.ai_family == AF_INET6) {
    const int no = 0;
    static_cast<void>(::setsockopt(socket, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof(no)));
  }
  if (::bind(socket, address.ai_addr, address.ai_addrlen) != 0 || ::listen(socket, kBacklog) != 0) {
    error = errno;
    ::close(socket);
    return -1;
  }
  return socket;
}

}  // namespace

// ---- OpenSockets

bool OpenSockets::HasRoom() {
  if (sockets_.size() < limit_) return true;
  std::erase_if(sockets_,
                [](const Socket& socket) { return InodeOf(socket.descriptor) != socket.inode; });
  return sockets_.size() < limit_;
}

void OpenSockets::Add(int socket) {
  sockets_.push_back({.descriptor = socket, .inode = InodeOf(socket)});
}

// ---- Listener

Listener::Listener(std::size_t max_connections) : open_(max_connections), spare_(OpenSpare()) {}

Listener::~Listener() {
  Stop();
  for (const int socket : listening_) ::close(socket);
  if (wake_ >= 0) ::close(wake_);
  if (spare_ >= 0) ::close(spare_);
}

Result<std::unique_ptr<Listener>> Listener::Open(const std::string& address,
                                                 std::size_t max_connections) {
  std::unique_ptr<Listener> listener(new Listener(max_connections));
  FEDMOE_RETURN_IF_ERROR(listener->Bind(address));
  listener->wake_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (listener->wake_ < 0) {
    return FailedPrecondition("cannot listen on " + address + ": " + ErrorText(errno));
  }
  return listener;
}

Status Listener::Bind(const std::string& address) {
  const std::string cannot = "cannot listen on " + address + ": ";
  const std::size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_flags = AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int code = ::getaddrinfo(host.c_str(), address.substr(colon + 1).c_str(), &hints, &found);
  if (code != 0) return FailedPrecondition(cannot + ::gai_strerror(code));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, ::freeaddrinfo);
  int error = 0;
  for (addrinfo* each = found; each != nullptr; each = each->ai_next) {
    if (each->ai_family != AF_INET && each->ai_family != AF_INET6) continue;
    if (port_ != 0) SetPort(*each, port_);
    const int socket = Listen(*each, error);
    // A name may have an address that this machine lacks, as "localhost" without IPv6.
    if (socket < 0 && error == EADDRINUSE) return FailedPrecondition(cannot + ErrorText(error));
    if (socket < 0) continue;
    listening_.push_back(socket);
    port_ = PortOf(socket);
  }
  if (!listening_.empty()) return Status::Ok();
  return FailedPrecondition(cannot + (error == 0 ? "it has no address" : ErrorText(error)));
}

void Listener::Start(Sink sink) {
  sink_ = std::move(sink);
  thread_ = std::thread([this] { Loop(); });
}

void Listener::Stop() {
  if (!thread_.joinable()) return;
  const std::uint64_t one = 1;
  static_cast<void>(::write(wake_, &one, sizeof(one)));
  thread_.join();
}

void Listener::Loop() {
  std::vector<pollfd> waits;
  for (const int socket : listening_)
    waits.push_back({.fd = socket, .events = POLLIN, .revents = 0});
  waits.push_back({.fd = wake_, .events = POLLIN, .revents = 0});
  for (;;) {
    if (::poll(waits.data(), waits.size(), -1) < 0 && errno != EINTR) {
      std::this_thread::sleep_for(kPause);
      continue;
    }
    if (waits.back().revents != 0) return;
    for (std::size_t index = 0; index + 1 < waits.size(); ++index) {
      if (waits[index].revents != 0) Accept(waits[index].fd);
    }
  }
}

void Listener::Accept(int listening) {
  for (int turn = 0; turn < kTurns; ++turn) {
    const int socket = ::accept4(listening, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (socket >= 0) {
      if (!open_.HasRoom()) {
        ::close(socket);
        Refuse("as many are open as server.max_connections allows");
        continue;
      }
      const int yes = 1;
      static_cast<void>(::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes)));
      open_.Add(socket);
      sink_(socket);
      continue;
    }
    if (errno == EAGAIN) return;
    if (errno == EMFILE || errno == ENFILE) {
      // Left in the queue it would wake the loop for ever: it is accepted with the spare one.
      if (spare_ >= 0) ::close(spare_);
      const int last = ::accept4(listening, nullptr, nullptr, SOCK_CLOEXEC);
      if (last >= 0) ::close(last);
      spare_ = OpenSpare();
      Refuse("the process may open no more files (ulimit -n)");
      if (last < 0) return std::this_thread::sleep_for(kPause);
      continue;
    }
    // A connection that ended before it was accepted, or what passes; the socket goes on listening.
    if (errno != EINTR && errno != ECONNABORTED) return std::this_thread::sleep_for(kPause);
  }
}

void Listener::Refuse(const char* why) {
  ++refused_;
  const std::int64_t now_ms = NowMs();
  if (logged_ms_ != 0 && now_ms - logged_ms_ < kLogMs) return;
  logged_ms_ = now_ms;
  spdlog::warn("{} connections refused, {} open: {}", std::exchange(refused_, 0), open_.count(),
               why);
}

}  // namespace fedmoe
