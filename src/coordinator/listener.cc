#include "coordinator/listener.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

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
// Between two lines of the log about what was not accepted.
constexpr std::chrono::seconds kLogPause(10);
// A free port of one of a host's addresses may be taken at another.
constexpr int kPortAttempts = 16;
// After an error that may pass, where nothing could be accepted.
constexpr std::chrono::milliseconds kPause(100);

ino_t InodeOf(int descriptor) {
  struct stat status {};
  return ::fstat(descriptor, &status) == 0 ? status.st_ino : 0;
}

std::string Lowered(std::string text) {
  text[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(text[0])));
  return text;
}

std::string ErrorText(int error) { return Lowered(std::generic_category().message(error)); }

void SetOption(int socket, int option, int value) {
  static_cast<void>(::setsockopt(socket, IPPROTO_TCP, option, &value, sizeof(value)));
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

using Addresses = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

template <typename Cannot>
Status Resolve(const std::string& host, const std::string& port, Addresses& found,
               const Cannot& cannot) {
  addrinfo hints{};
  hints.ai_flags = AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int code = ::getaddrinfo(host.c_str(), port.c_str(), &hints, &list);
  if (code == EAI_SYSTEM) return cannot(ErrorText(errno));
  if (code != 0) return cannot(Lowered(::gai_strerror(code)));
  found.reset(list);
  return Status::Ok();
}

bool IsOfThisMachine(const addrinfo& address) {
  if (address.ai_family == AF_INET6) {
    return IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6*>(address.ai_addr)->sin6_addr);
  }
  const auto& v4 = *reinterpret_cast<const sockaddr_in*>(address.ai_addr);
  return (ntohl(v4.sin_addr.s_addr) >> 24) == IN_LOOPBACKNET;
}

std::string TextOf(const addrinfo& address) {
  char text[NI_MAXHOST] = "?";
  static_cast<void>(::getnameinfo(address.ai_addr, address.ai_addrlen, text, sizeof(text), nullptr,
                                  0, NI_NUMERICHOST));
  return text;
}

// Whether the list has the address before, too.
bool IsBefore(const addrinfo& list, const addrinfo& address) {
  for (const addrinfo* each = &list; each != &address; each = each->ai_next) {
    if (each->ai_addrlen == address.ai_addrlen &&
        std::memcmp(each->ai_addr, address.ai_addr, address.ai_addrlen) == 0) {
      return true;
    }
  }
  return false;
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
  // Whatever the system's default is, "[::]" takes IPv4 as well.
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
  const auto begin = std::chrono::steady_clock::now();
  if (begin < next_look_) return false;
  std::erase_if(sockets_,
                [](const Socket& socket) { return InodeOf(socket.descriptor) != socket.inode; });
  const auto end = std::chrono::steady_clock::now();
  next_look_ = end + 9 * (end - begin);
  return sockets_.size() < limit_;
}

void OpenSockets::Add(int socket) {
  sockets_.push_back({.descriptor = socket, .inode = InodeOf(socket)});
}

// ---- Listener

Listener::Listener(const Options& options)
    : options_(options), open_(options.max_connections), spare_(OpenSpare()) {}

Listener::~Listener() {
  Stop();
  if (wake_ >= 0) ::close(wake_);
  if (spare_ >= 0) ::close(spare_);
}

Result<std::unique_ptr<Listener>> Listener::Open(const std::string& address,
                                                 const Options& options) {
  std::unique_ptr<Listener> listener(new Listener(options));
  FEDMOE_RETURN_IF_ERROR(listener->Bind(address));
  listener->wake_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (listener->wake_ < 0) {
    return FailedPrecondition("cannot listen on " + address + ": " + ErrorText(errno));
  }
  return listener;
}

Status Listener::Bind(const std::string& address) {
  const auto cannot = [&](const std::string& why) {
    return FailedPrecondition("cannot listen on " + address + ": " + why);
  };
  const std::size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  const std::string port = address.substr(colon + 1);
  // Where a socket for IPv6 takes IPv4 as well, one is enough.
  const bool any = host == "0.0.0.0" || host == "::";
  const std::vector<std::string> hosts =
      any ? std::vector<std::string>{"::", "0.0.0.0"} : std::vector<std::string>{host};
  int error = 0;
  for (int attempt = 0; attempt < kPortAttempts; ++attempt) {
    CloseAll();
    port_ = 0;
    error = 0;
    for (const std::string& each : hosts) {
      Addresses found(nullptr, ::freeaddrinfo);
      FEDMOE_RETURN_IF_ERROR(Resolve(each, port, found, cannot));
      for (addrinfo* next = found.get(); next != nullptr; next = next->ai_next) {
        if (next->ai_family != AF_INET && next->ai_family != AF_INET6) continue;
        if (IsBefore(*found, *next)) continue;
        if (!options_.is_encrypted && host == "localhost" && !IsOfThisMachine(*next)) {
          return cannot("localhost is " + TextOf(*next) +
                        " here, which other machines may reach; say 127.0.0.1");
        }
        if (port_ != 0) SetPort(*next, port_);
        int why = 0;
        const int socket = Listen(*next, why);
        if (socket < 0) {
          error = why;
          // A name may have an address that this machine lacks, as "localhost" without IPv6; but
          // part of what was asked for must not be another program's.
          if (why == EADDRINUSE) break;
          continue;
        }
        listening_.push_back(socket);
        port_ = PortOf(socket);
      }
      if (error == EADDRINUSE || (any && !listening_.empty())) break;
    }
    const bool other_port = port == "0" && error == EADDRINUSE;
    if (!other_port) break;
  }
  if (error == EADDRINUSE || listening_.empty()) {
    return cannot(error == 0 ? "it has no address" : ErrorText(error));
  }
  return Status::Ok();
}

void Listener::CloseAll() {
  for (const int socket : listening_) ::close(socket);
  listening_.clear();
}

void Listener::Start(Sink sink) {
  sink_ = std::move(sink);
  thread_ = std::thread([this] { Loop(); });
}

void Listener::Stop() {
  const std::lock_guard lock(stopping_);
  if (thread_.joinable()) {
    const std::uint64_t one = 1;
    static_cast<void>(::write(wake_, &one, sizeof(one)));
    thread_.join();
  }
  CloseAll();
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
    if (socket < 0) {
      if (!AcceptedNothing(listening, errno)) return;
      continue;
    }
    if (!open_.HasRoom()) {
      ::close(socket);
      Refuse("as many are open as server.max_connections allows");
      continue;
    }
    SetOption(socket, TCP_NODELAY, 1);
    if (options_.unacknowledged_ms > 0) {
      SetOption(socket, TCP_USER_TIMEOUT, static_cast<int>(options_.unacknowledged_ms));
    }
    open_.Add(socket);
    sink_(socket);
  }
}

// Whether there may be more to accept now.
bool Listener::AcceptedNothing(int listening, int error) {
  if (error == EAGAIN) return false;
  if (error == EINTR || error == ECONNABORTED) return true;
  if (error != EMFILE && error != ENFILE) {
    LogNowAndThen(fmt::format("no connection could be accepted: {}", ErrorText(error)));
    std::this_thread::sleep_for(kPause);
    return false;
  }
  // Left in the queue a connection would wake the loop for ever: it is accepted in place of the
  // spare descriptor, and closed.
  if (spare_ >= 0) ::close(spare_);
  const int last = ::accept4(listening, nullptr, nullptr, SOCK_CLOEXEC);
  const int why = errno;
  if (last >= 0) ::close(last);
  spare_ = OpenSpare();
  if (last >= 0) {
    Refuse(error == EMFILE ? "the process may open no more files (ulimit -n)"
                           : "the system can open no more files");
    return true;
  }
  // Without a descriptor there is the same error whether or not a connection waits.
  if (why != EAGAIN) std::this_thread::sleep_for(kPause);
  return false;
}

void Listener::Refuse(const char* why) {
  ++refused_;
  if (!LogNowAndThen(
          fmt::format("{} connections refused, {} open: {}", refused_, open_.count(), why))) {
    return;
  }
  refused_ = 0;
}

bool Listener::LogNowAndThen(const std::string& line) {
  const auto now = std::chrono::steady_clock::now();
  if (logged_ && now - *logged_ < kLogPause) return false;
  logged_ = now;
  spdlog::warn("{}", line);
  return true;
}

}  // namespace fedmoe
