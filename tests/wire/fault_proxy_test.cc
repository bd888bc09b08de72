// The proxy that the tests of network faults stand on, over plain sockets. Times are lower bounds
// only: a busy machine makes everything later, and nothing earlier.
#include "tests/support/fault_proxy.h"

#include <cerrno>
#include <chrono>
#include <string>
#include <vector>

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "tests/support/fault_connection.h"

namespace fedmoe {
namespace {

using Clock = std::chrono::steady_clock;

Milliseconds MillisecondsSince(Clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start).count();
}

sockaddr_in Loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  return address;
}

void Send(const Socket& socket, std::size_t bytes) {
  const std::string text(bytes, 'x');
  EXPECT_EQ(::send(socket.fd(), text.data(), text.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(bytes));
}

struct Received {
  std::size_t bytes = 0;
  int error = 0;  // of the end; 0: it was closed
};

// Exactly `bytes`, or all until the end.
Received Receive(const Socket& socket, std::size_t bytes = SIZE_MAX) {
  Received received;
  char buffer[4096];
  while (received.bytes < bytes) {
    const std::size_t want = std::min(sizeof(buffer), bytes - received.bytes);
    const ssize_t count = ::recv(socket.fd(), buffer, want, 0);
    if (count < 0) received.error = errno;
    if (count <= 0) break;
    received.bytes += static_cast<std::size_t>(count);
  }
  return received;
}

class FaultProxyTest : public ::testing::Test {
 protected:
  FaultProxyTest() : listener_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = Loopback(0);
    socklen_t size = sizeof(address);
    EXPECT_EQ(::bind(listener_.fd(), reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::listen(listener_.fd(), 8), 0);
    EXPECT_EQ(::getsockname(listener_.fd(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    target_ = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
    proxy_ = FaultProxy::Start(target_, 7).value();
  }

  Socket Dial(const FaultProxy& proxy) const {
    Socket socket(::socket(AF_INET, SOCK_STREAM, 0));
    const std::string& text = proxy.address();
    const sockaddr_in to = Loopback(std::stoi(text.substr(text.rfind(':') + 1)));
    EXPECT_EQ(::connect(socket.fd(), reinterpret_cast<const sockaddr*>(&to), sizeof(to)), 0);
    return socket;
  }
  void Connect() {
    client_ = Dial(*proxy_);
    server_ = Socket(::accept(listener_.fd(), nullptr, nullptr));
    ASSERT_TRUE(server_.open());
  }
  // How many bytes of 100000 the first connection of a proxy of this seed lets through.
  std::size_t BytesBeforeACut(std::uint64_t seed) {
    const auto proxy = FaultProxy::Start(target_, seed).value();
    proxy->Set({.up = {.cut_mean_bytes = 10'000.0}});
    const Socket client = Dial(*proxy);
    const Socket server(::accept(listener_.fd(), nullptr, nullptr));
    const std::string text(100'000, 'x');
    static_cast<void>(::send(client.fd(), text.data(), text.size(), MSG_NOSIGNAL));
    const Received received = Receive(server);
    EXPECT_EQ(received.error, ECONNRESET);
    return received.bytes;
  }

  Socket listener_;
  std::string target_;
  std::unique_ptr<FaultProxy> proxy_;
  Socket client_;
  Socket server_;
};

TEST_F(FaultProxyTest, BytesAndTheCloseArePassedOnInBothDirections) {
  Connect();
  Send(client_, 100'000);
  EXPECT_EQ(Receive(server_, 100'000).bytes, 100'000U);
  Send(server_, 5);
  EXPECT_EQ(Receive(client_, 5).bytes, 5U);
  client_.Close();
  const Received end = Receive(server_);
  EXPECT_EQ(end.bytes, 0U);
  EXPECT_EQ(end.error, 0);
  server_.Close();
  EXPECT_TRUE(proxy_->WaitUntil([](const LinkCounts& counts) { return counts.open == 0; }));
  EXPECT_EQ(proxy_->counts().bytes_up, 100'000U);
  EXPECT_EQ(proxy_->counts().bytes_down, 5U);
}

TEST_F(FaultProxyTest, ARstIsPassedOn) {
  Connect();
  Send(client_, 1);
  EXPECT_EQ(Receive(server_, 1).bytes, 1U);
  client_.Reset();
  EXPECT_EQ(Receive(server_).error, ECONNRESET);
}

TEST_F(FaultProxyTest, ADelayIsPaidInEachDirection) {
  proxy_->Set({.up = {.delay_ms = 60, .jitter_ms = 10}, .down = {.delay_ms = 40}});
  Connect();
  const Clock::time_point start = Clock::now();
  Send(client_, 1);
  EXPECT_EQ(Receive(server_, 1).bytes, 1U);
  EXPECT_GE(MillisecondsSince(start), 60);
  Send(server_, 1);
  EXPECT_EQ(Receive(client_, 1).bytes, 1U);
  EXPECT_GE(MillisecondsSince(start), 100);
}

TEST_F(FaultProxyTest, ARateIsNotExceeded) {
  proxy_->Set({.up = {.bytes_per_s = 200'000.0}});
  Connect();
  const Clock::time_point start = Clock::now();
  Send(client_, 40'000);
  EXPECT_EQ(Receive(server_, 40'000).bytes, 40'000U);
  // The last piece need not have been paid for.
  EXPECT_GE(MillisecondsSince(start), 180);
}

TEST_F(FaultProxyTest, AStalledDirectionTakesLittleAndGivesAllWhenItHeals) {
  Connect();
  proxy_->Set({.up = {.stalled = true}});
  // Until the buffers are full.
  const std::string piece(64 * 1024, 'x');
  std::size_t sent = 0;
  ssize_t count = 0;
  while ((count = ::send(client_.fd(), piece.data(), piece.size(), MSG_DONTWAIT)) > 0) {
    sent += static_cast<std::size_t>(count);
  }
  EXPECT_LT(sent, 16U << 20) << "the source must feel the stall";
  Send(server_, 3);  // the other direction is open
  EXPECT_EQ(Receive(client_, 3).bytes, 3U);
  EXPECT_EQ(proxy_->counts().bytes_up, 0U);
  EXPECT_LE(proxy_->counts().held_bytes, 300'000U);
  proxy_->Heal();
  EXPECT_EQ(Receive(server_, sent).bytes, sent);
}

TEST_F(FaultProxyTest, ACutComesAfterExactlySoManyBytes) {
  proxy_->Set({.up = {.cut_after_bytes = 12'345}});
  Connect();
  Send(client_, 40'000);
  const Received received = Receive(server_);
  EXPECT_EQ(received.bytes, 12'345U);
  EXPECT_EQ(received.error, ECONNRESET);
  EXPECT_EQ(Receive(client_).error, ECONNRESET);
  EXPECT_TRUE(proxy_->WaitUntil([](const LinkCounts& counts) { return counts.cut == 1; }));
}

TEST_F(FaultProxyTest, TheMomentOfARandomCutIsAFunctionOfTheSeed) {
  const std::size_t bytes = BytesBeforeACut(1);
  EXPECT_EQ(BytesBeforeACut(1), bytes);
  EXPECT_NE(BytesBeforeACut(2), bytes);
}

TEST_F(FaultProxyTest, CutAllEndsWhatThereIs) {
  Connect();
  proxy_->CutAll();
  EXPECT_EQ(Receive(server_).error, ECONNRESET);
  EXPECT_EQ(Receive(client_).error, ECONNRESET);
  EXPECT_EQ(proxy_->counts().open, 0U);
}

TEST_F(FaultProxyTest, AHalfOpenConnectionIsSilentAndStaysDeadWhenTheLinkHeals) {
  Connect();
  proxy_->Set(HalfOpen());
  Send(client_, 10);
  proxy_->Heal();
  Send(client_, 10);
  char byte = 0;
  client_.Close();
  // What follows on a sound connection shows that the proxy has seen the close.
  Socket second = Dial(*proxy_);
  const Socket second_server(::accept(listener_.fd(), nullptr, nullptr));
  Send(second, 4);
  EXPECT_EQ(Receive(second_server, 4).bytes, 4U);
  EXPECT_EQ(::recv(server_.fd(), &byte, 1, MSG_DONTWAIT), -1);
  EXPECT_EQ(errno, EAGAIN) << "neither a byte nor the close may come through";
  server_.Close();
  EXPECT_TRUE(proxy_->WaitUntil([](const LinkCounts& counts) { return counts.open == 1; }));
}

TEST_F(FaultProxyTest, APartitionRefusesTheNewAndKeepsTheOld) {
  Connect();
  proxy_->Set(Partition());
  Send(client_, 10);
  const Socket refused = Dial(*proxy_);
  EXPECT_EQ(Receive(refused).error, ECONNRESET);
  EXPECT_TRUE(proxy_->WaitUntil([](const LinkCounts& counts) { return counts.refused == 1; }));
  EXPECT_EQ(proxy_->counts().bytes_up, 0U);
  proxy_->Heal();
  EXPECT_EQ(Receive(server_, 10).bytes, 10U);
  EXPECT_EQ(proxy_->attempts_ms().size(), 2U);
}

TEST_F(FaultProxyTest, ATargetThatIsNotThereRefuses) {
  listener_.Close();
  const Socket client = Dial(*proxy_);
  EXPECT_EQ(Receive(client).error, ECONNRESET);
  EXPECT_EQ(FaultProxy::Start("localhost", 1).status(),
            InvalidArgument("'localhost' is not IPV4:PORT"));
}

}  // namespace
}  // namespace fedmoe
