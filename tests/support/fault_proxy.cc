#include "tests/support/fault_proxy.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <list>
#include <mutex>
#include <thread>
#include <utility>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/support/fault_connection.h"

namespace fedmoe {
namespace {

// Small, so that a stall or a limited rate is felt at the source and not hidden in the kernel.
constexpr int kSocketBufferBytes = 64 * 1024;

Microseconds NowUs() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

Status SystemError(const std::string& what) {
  return Unavailable(what + ": " + std::strerror(errno));
}

Result<sockaddr_in> ParseAddress(const std::string& text) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  const std::size_t colon = text.rfind(':');
  const int port = colon == std::string::npos ? 0 : std::atoi(text.c_str() + colon + 1);
  if (port <= 0 || port > 65535 ||
      ::inet_pton(AF_INET, text.substr(0, colon).c_str(), &address.sin_addr) != 1) {
    return InvalidArgument("'" + text + "' is not IPV4:PORT");
  }
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  return address;
}

void Prepare(const Socket& socket) {
  const int yes = 1;
  static_cast<void>(::setsockopt(socket.fd(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes)));
  for (const int buffer : {SO_RCVBUF, SO_SNDBUF}) {
    static_cast<void>(::setsockopt(socket.fd(), SOL_SOCKET, buffer, &kSocketBufferBytes,
                                   sizeof(kSocketBufferBytes)));
  }
}

}  // namespace

LinkFaults Partition() {
  return {.up = {.stalled = true}, .down = {.stalled = true}, .refuse = true};
}

LinkFaults HalfOpen() { return {.up = {.swallowed = true}, .down = {.swallowed = true}}; }

// ---- The proxy's thread.

class FaultProxy::Loop {
 public:
  Loop(Socket listener, Socket wake, sockaddr_in target, std::uint64_t seed)
      : listener_(std::move(listener)),
        wake_(std::move(wake)),
        target_(target),
        seed_(seed),
        thread_([this] { Run(); }) {}
  ~Loop() {
    Ask([this] { stop_ = true; });
    thread_.join();
  }

  // Makes the change and returns when the loop has acted on it.
  void Ask(const std::function<void()>& change);
  void Set(const LinkFaults& faults) {
    Ask([&] { faults_ = faults; });
  }
  void CutAll() {
    Ask([this] { cut_all_ = true; });
  }
  LinkCounts counts() const {
    const std::lock_guard lock(mutex_);
    return counts_;
  }
  bool WaitUntil(const std::function<bool(const LinkCounts&)>& condition,
                 Milliseconds limit_ms) const {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::milliseconds(limit_ms),
                             [&] { return condition(counts_); });
  }
  std::vector<Milliseconds> attempts_ms() const {
    const std::lock_guard lock(mutex_);
    return attempts_ms_;
  }

 private:
  void Run();
  bool TakeOrders();
  void Wait();
  void Accept();
  void Count();

  const Socket listener_;
  const Socket wake_;
  const sockaddr_in target_;
  const std::uint64_t seed_;

  // The loop's own.
  LinkFaults current_;
  std::list<FaultConnection> connections_;
  LinkCounts past_;  // of connections that are over

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  // Guarded by mutex_.
  LinkFaults faults_;
  bool cut_all_ = false;
  bool stop_ = false;
  std::uint64_t asked_ = 0;
  std::uint64_t done_ = 0;
  LinkCounts counts_;
  std::vector<Milliseconds> attempts_ms_;

  std::thread thread_;
};

void FaultProxy::Loop::Ask(const std::function<void()>& change) {
  std::unique_lock lock(mutex_);
  change();
  const std::uint64_t number = ++asked_;
  const std::uint64_t one = 1;
  static_cast<void>(::write(wake_.fd(), &one, sizeof(one)));
  changed_.wait(lock, [&] { return done_ >= number; });
}

void FaultProxy::Loop::Run() {
  while (TakeOrders()) {
    Wait();
    Count();
  }
}

// False: the proxy ends.
bool FaultProxy::Loop::TakeOrders() {
  std::unique_lock lock(mutex_);
  if (done_ == asked_) return true;
  current_ = faults_;
  const bool cut = std::exchange(cut_all_, false);
  const std::uint64_t number = asked_;
  for (FaultConnection& connection : connections_) {
    connection.Set(current_);
    if (cut) connection.Cut();
  }
  const bool go_on = !stop_;
  lock.unlock();
  if (!go_on) connections_.clear();
  Count();
  lock.lock();
  done_ = number;
  changed_.notify_all();
  return go_on;
}

// Until a socket has something, or something is due; then moves it.
void FaultProxy::Loop::Wait() {
  std::vector<pollfd> interest = {{.fd = listener_.fd(), .events = POLLIN, .revents = 0},
                                  {.fd = wake_.fd(), .events = POLLIN, .revents = 0}};
  const Microseconds before_us = NowUs();
  std::optional<Microseconds> next_us;
  for (const FaultConnection& connection : connections_) {
    const auto ends = connection.Interest(before_us);
    interest.insert(interest.end(), ends.begin(), ends.end());
    const std::optional<Microseconds> due_us = connection.NextUs();
    if (due_us) next_us = next_us ? std::min(*next_us, *due_us) : *due_us;
  }
  timespec limit{};
  if (next_us) {
    const Microseconds wait_us = std::max<Microseconds>(*next_us - before_us, 0);
    limit = {.tv_sec = wait_us / 1'000'000, .tv_nsec = wait_us % 1'000'000 * 1'000};
  }
  if (::ppoll(interest.data(), interest.size(), next_us ? &limit : nullptr, nullptr) < 0) return;
  if (interest[1].revents != 0) {
    std::uint64_t drained = 0;
    static_cast<void>(::read(wake_.fd(), &drained, sizeof(drained)));
  }
  const Microseconds now_us = NowUs();
  std::size_t at = 2;
  for (FaultConnection& connection : connections_) {
    connection.Step({interest[at], interest[at + 1]}, now_us);
    at += 2;
  }
  if (interest[0].revents != 0) Accept();
}

void FaultProxy::Loop::Accept() {
  Socket client(::accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!client.open()) return;
  std::uint64_t number = 0;
  {
    const std::lock_guard lock(mutex_);
    attempts_ms_.push_back(NowUs() / 1000);
    number = attempts_ms_.size();
  }
  Socket coordinator(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (current_.refuse || ::connect(coordinator.fd(), reinterpret_cast<const sockaddr*>(&target_),
                                   sizeof(target_)) != 0) {
    ++past_.refused;
    return client.Reset();
  }
  ++past_.accepted;
  Prepare(client);
  Prepare(coordinator);
  connections_.emplace_back(std::move(client), std::move(coordinator), MixKey({seed_, number}),
                            current_);
}

// Buries what is over, and tells.
void FaultProxy::Loop::Count() {
  LinkCounts counts;
  const auto add = [](LinkCounts& sum, const FaultConnection& connection) {
    sum.bytes_up += connection.up().passed();
    sum.bytes_down += connection.down().passed();
    sum.cut += connection.was_cut() ? 1 : 0;
  };
  connections_.remove_if([&](const FaultConnection& connection) {
    if (!connection.over()) return false;
    add(past_, connection);
    return true;
  });
  counts = past_;
  for (const FaultConnection& connection : connections_) {
    add(counts, connection);
    counts.held_bytes += connection.up().held() + connection.down().held();
  }
  counts.open = connections_.size();
  const std::lock_guard lock(mutex_);
  counts_ = counts;
  changed_.notify_all();
}

// ---- FaultProxy.

FaultProxy::FaultProxy(std::string address, std::unique_ptr<Loop> loop)
    : address_(std::move(address)), loop_(std::move(loop)) {}
FaultProxy::~FaultProxy() = default;

Result<std::unique_ptr<FaultProxy>> FaultProxy::Start(const std::string& target,
                                                      std::uint64_t seed) {
  FEDMOE_ASSIGN_OR_RETURN(const sockaddr_in to, ParseAddress(target));
  Socket listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in own{};
  own.sin_family = AF_INET;
  own.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(own);
  Prepare(listener);  // accepted sockets inherit it
  if (::bind(listener.fd(), reinterpret_cast<const sockaddr*>(&own), size) != 0 ||
      ::listen(listener.fd(), 64) != 0 ||
      ::getsockname(listener.fd(), reinterpret_cast<sockaddr*>(&own), &size) != 0) {
    return SystemError("cannot listen");
  }
  Socket wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake.open()) return SystemError("eventfd");
  std::string address = "127.0.0.1:" + std::to_string(ntohs(own.sin_port));
  auto loop = std::make_unique<Loop>(std::move(listener), std::move(wake), to, seed);
  return std::unique_ptr<FaultProxy>(new FaultProxy(std::move(address), std::move(loop)));
}

void FaultProxy::Set(const LinkFaults& faults) { loop_->Set(faults); }
void FaultProxy::CutAll() { loop_->CutAll(); }
LinkCounts FaultProxy::counts() const { return loop_->counts(); }
bool FaultProxy::WaitUntil(const std::function<bool(const LinkCounts&)>& condition,
                           Milliseconds limit_ms) const {
  return loop_->WaitUntil(condition, limit_ms);
}
std::vector<Milliseconds> FaultProxy::attempts_ms() const { return loop_->attempts_ms(); }

}  // namespace fedmoe
