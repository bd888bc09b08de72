// One connection through a FaultProxy: two sockets, and a flow of bytes in each direction.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include <poll.h>

#include "common/counter_rng.h"
#include "tests/support/fault_proxy.h"

namespace fedmoe {

using Microseconds = std::int64_t;

// A socket that is closed with its owner.
class Socket {
 public:
  explicit Socket(int fd = -1) : fd_(fd) {}
  ~Socket() { Close(); }
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  int fd() const { return fd_; }
  bool open() const { return fd_ >= 0; }
  void Close();
  // Says RST to the other end, not FIN.
  void Reset();

 private:
  int fd_;
};

// The way of bytes in one direction, without the sockets.
class Flow {
 public:
  explicit Flow(std::uint64_t key) : rng_(key) {}

  void Set(const FlowFaults& faults);
  // Whether more bytes are to be read at the source.
  bool Wants() const;
  void Take(std::vector<std::byte> bytes, Microseconds now_us);
  void CloseSource() { source_closed_ = true; }

  // The bytes that may depart now: none while nothing is due.
  std::pair<const std::byte*, std::size_t> Due(Microseconds now_us) const;
  void Pass(std::size_t bytes, Microseconds now_us);
  // When the next bytes may depart; none while nothing is on its way.
  std::optional<Microseconds> NextUs() const;
  bool CutIsDue() const { return cut_at_ > 0 && passed_ >= cut_at_; }
  // Nothing more will pass: the source has closed, and what it sent has gone.
  bool ended() const { return source_closed_ && (held_ == 0 || lossy_); }
  // It swallows, or has: what comes later is of no use to the other end.
  bool lossy() const { return lossy_; }
  bool stalled() const { return faults_.stalled && !lossy_; }
  std::uint64_t passed() const { return passed_; }
  std::uint64_t held() const { return held_; }

 private:
  struct Piece {
    std::vector<std::byte> bytes;
    std::size_t begin = 0;
    Microseconds due_us = 0;
  };

  CounterRng rng_;
  FlowFaults faults_;
  std::deque<Piece> pieces_;
  std::uint64_t held_ = 0;
  std::uint64_t passed_ = 0;
  std::uint64_t cut_at_ = 0;
  Microseconds free_us_ = 0;  // when the rate lets the next bytes go
  bool source_closed_ = false;
  bool lossy_ = false;
};

class FaultConnection {
 public:
  // `key` is of this connection alone. The sockets are those of the client and the coordinator.
  FaultConnection(Socket client, Socket coordinator, std::uint64_t key, const LinkFaults& faults);

  void Set(const LinkFaults& faults);
  // RST to both.
  void Cut();

  // What to poll for, in this order; entries of no interest have the fd -1.
  std::array<pollfd, 2> Interest(Microseconds now_us) const;
  // When to step at the latest; none: only when a socket has something.
  std::optional<Microseconds> NextUs() const;
  void Step(const std::array<pollfd, 2>& ready, Microseconds now_us);

  bool over() const;
  bool was_cut() const { return was_cut_; }
  const Flow& up() const { return flows_[0]; }
  const Flow& down() const { return flows_[1]; }

 private:
  void Read(std::size_t end, Microseconds now_us);
  void Write(std::size_t end, Microseconds now_us);
  void LoseEnd(std::size_t end);

  // Flow i runs from end i to the other.
  std::array<Socket, 2> ends_;
  std::array<Flow, 2> flows_;
  std::array<bool, 2> full_{};      // the end takes no more for now
  std::array<bool, 2> finished_{};  // the end has been told that no more will come
  bool was_cut_ = false;
};

}  // namespace fedmoe
