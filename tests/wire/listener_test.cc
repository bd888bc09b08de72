// Connections are bounded, and whatever is opened against the coordinator, it goes on listening.
#include "coordinator/listener.h"

#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <thread>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/wire/loopback_fixture.h"

namespace fedmoe {
namespace {

// The open sockets are not looked through at once after the last time.
constexpr std::chrono::milliseconds kAfterALook(50);

// A descriptor of the test's own.
class Descriptor {
 public:
  explicit Descriptor(int descriptor) : descriptor_(descriptor) {}
  Descriptor(Descriptor&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~Descriptor() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  int get() const { return descriptor_; }

 private:
  int descriptor_;
};

Descriptor NewSocket() { return Descriptor(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)); }

sockaddr_in AddressOf(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

void Connect(const Descriptor& socket, int port) {
  sockaddr_in address = AddressOf(port);
  ASSERT_EQ(::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
}

Descriptor ConnectTo(int port) {
  Descriptor socket = NewSocket();
  Connect(socket, port);
  return socket;
}

// Whether the other end has closed it, which is waited for.
bool IsClosed(const Descriptor& socket) {
  char byte = 0;
  return ::recv(socket.get(), &byte, 1, 0) <= 0;
}

// A listener, and the sockets that it handed on.
class ListenerTest : public ::testing::Test {
 protected:
  void Start(std::size_t max_connections) {
    listener_ = Listener::Open("127.0.0.1:0",
                               {.max_connections = max_connections, .unacknowledged_ms = 7'000})
                    .value();
    listener_->Start([this](int socket) {
      const std::lock_guard lock(mutex_);
      accepted_.emplace_back(socket);
      came_.notify_all();
    });
  }
  void WaitFor(std::size_t accepted) {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(came_.wait_for(lock, std::chrono::minutes(1),
                               [&] { return accepted_.size() >= accepted; }));
    ASSERT_EQ(accepted_.size(), accepted);
  }

  std::mutex mutex_;
  std::condition_variable came_;
  std::vector<Descriptor> accepted_;
  std::unique_ptr<Listener> listener_;
};

TEST_F(ListenerTest, RefusesConnectionsPastTheLimitUntilOthersHaveEnded) {
  Start(3);
  std::vector<Descriptor> clients;
  for (int i = 0; i < 3; ++i) clients.push_back(ConnectTo(listener_->port()));
  WaitFor(3);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(IsClosed(ConnectTo(listener_->port())));
  {
    const std::lock_guard lock(mutex_);
    accepted_.erase(accepted_.begin(), accepted_.begin() + 2);
  }
  std::this_thread::sleep_for(kAfterALook);
  for (int i = 0; i < 2; ++i) clients.push_back(ConnectTo(listener_->port()));
  WaitFor(3);
  EXPECT_TRUE(IsClosed(ConnectTo(listener_->port())));
}

TEST_F(ListenerTest, GoesOnListeningWhenNoDescriptorIsLeft) {
  Start(100);
  const Descriptor first = NewSocket(), second = NewSocket();
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit low = before;
  low.rlim_cur = static_cast<rlim_t>(second.get()) + 16;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
  std::vector<Descriptor> others;
  for (int more = 0; (more = ::open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0;) {
    others.emplace_back(more);
  }
  Connect(first, listener_->port());
  EXPECT_TRUE(IsClosed(first));
  others.clear();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  Connect(second, listener_->port());
  WaitFor(1);
}

TEST_F(ListenerTest, HandsNothingOnAfterItsEnd) {
  Start(3);
  listener_->Stop();
  listener_->Stop();
  sockaddr_in address = AddressOf(listener_->port());
  const Descriptor client = NewSocket();
  EXPECT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), -1);
  EXPECT_EQ(errno, ECONNREFUSED);
  WaitFor(0);
}

TEST_F(ListenerTest, ConnectionsAreReadyForGrpc) {
  Start(1);
  const Descriptor client = ConnectTo(listener_->port());
  WaitFor(1);
  const auto option = [&](int name) {
    int value = -1;
    socklen_t size = sizeof(value);
    EXPECT_EQ(::getsockopt(accepted_[0].get(), IPPROTO_TCP, name, &value, &size), 0);
    return value;
  };
  EXPECT_EQ(option(TCP_NODELAY), 1);
  EXPECT_EQ(option(TCP_USER_TIMEOUT), 7'000);
  EXPECT_NE(::fcntl(accepted_[0].get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_NE(::fcntl(accepted_[0].get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST(ListenerAddress, IsWhatItsHostHas) {
  EXPECT_GT(Listener::Open("localhost:0", {.max_connections = 1}).value()->port(), 0);
  // Every address of this machine, by either name.
  for (const char* any : {"0.0.0.0:0", "[::]:0"}) {
    const auto listener = Listener::Open(any, {.max_connections = 1}).value();
    Connect(NewSocket(), listener->port());
    const Descriptor six(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in6 address{};
    address.sin6_family = AF_INET6;
    address.sin6_port = htons(static_cast<std::uint16_t>(listener->port()));
    address.sin6_addr = IN6ADDR_LOOPBACK_INIT;
    const bool connected =
        ::connect(six.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
    // Where there is no IPv6 nobody can come by it.
    EXPECT_TRUE(connected || errno == EAFNOSUPPORT || errno == EADDRNOTAVAIL || errno == EBADF)
        << errno;
  }
  const auto first = Listener::Open("0.0.0.0:0", {.max_connections = 1}).value();
  const std::string taken = "0.0.0.0:" + std::to_string(first->port());
  EXPECT_EQ(Listener::Open(taken, {.max_connections = 1}).status().ToString(),
            "FAILED_PRECONDITION: cannot listen on " + taken + ": address already in use");
  EXPECT_EQ(Listener::Open("192.0.2.1:0", {.max_connections = 1}).status().message(),
            "cannot listen on 192.0.2.1:0: cannot assign requested address");
  EXPECT_EQ(Listener::Open("127.0.0.1:port", {.max_connections = 1}).status().message(),
            "cannot listen on 127.0.0.1:port: servname not supported for ai_socktype");
}

TEST(OpenSocketsTest, ADescriptorThatIsUsedAgainIsAnother) {
  OpenSockets open(2);
  std::vector<Descriptor> sockets;
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(open.HasRoom());
    sockets.push_back(NewSocket());
    open.Add(sockets.back().get());
  }
  EXPECT_FALSE(open.HasRoom());
  const int first = sockets[0].get();
  sockets[0] = Descriptor(-1);
  const Descriptor again = NewSocket();
  EXPECT_EQ(again.get(), first);
  std::this_thread::sleep_for(kAfterALook);
  EXPECT_TRUE(open.HasRoom());
  EXPECT_EQ(open.count(), 1u);
}

// Through gRPC, which closes what the other end has closed.
TEST_F(LoopbackTest, ConnectionsAreBounded) {
  transport_.reset();
  server_ = GrpcServer::Start(*core_, *gate_, "127.0.0.1:0", {.max_connections = 3}).value();
  const int port = std::stoi(server_->address().substr(server_->address().rfind(':') + 1));
  std::vector<Descriptor> idle;
  for (int i = 0; i < 3; ++i) idle.push_back(ConnectTo(port));
  EXPECT_TRUE(IsClosed(ConnectTo(port)));
  transport_ = MakeGrpcTransport(server_->address()).value();
  EXPECT_EQ(Register().status().code(), StatusCode::kUnavailable);
  idle.clear();
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  Result<RegisterReply> reply = Register();
  while (!reply.ok() && std::chrono::steady_clock::now() < end) reply = Register();
  EXPECT_EQ(reply.status().ToString(), "OK");
}

}  // namespace
}  // namespace fedmoe
