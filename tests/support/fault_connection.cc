#include "tests/support/fault_connection.h"

#include <algorithm>
#include <cerrno>
#include <cmath>

#include <sys/socket.h>
#include <unistd.h>

namespace fedmoe {
namespace {

constexpr std::size_t kReadBytes = 16 * 1024;
// Read and not yet passed on, for each direction: past it the source feels the stall.
constexpr std::uint64_t kMaxHeldBytes = 256 * 1024;
// A limited rate passes bytes in pieces of so long.
constexpr double kRateGrainS = 0.01;

}  // namespace

void Socket::Close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

void Socket::Reset() {
  if (fd_ < 0) return;
  const linger at_once{.l_onoff = 1, .l_linger = 0};
  static_cast<void>(::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)));
  Close();
}

// ---- Flow.

void Flow::Set(const FlowFaults& faults) {
  faults_ = faults;
  cut_at_ = 0;
  if (faults.cut_after_bytes > 0) cut_at_ = passed_ + faults.cut_after_bytes;
  if (faults.cut_mean_bytes > 0.0) {
    const double bytes = -faults.cut_mean_bytes * std::log1p(-rng_.NextUniform());
    const std::uint64_t drawn = passed_ + 1 + static_cast<std::uint64_t>(bytes);
    cut_at_ = cut_at_ == 0 ? drawn : std::min(cut_at_, drawn);
  }
  if (faults.swallowed) lossy_ = true;
  if (lossy_) {
    pieces_.clear();
    held_ = 0;
  }
}

bool Flow::Wants() const {
  return !source_closed_ && (lossy_ || (!faults_.stalled && held_ < kMaxHeldBytes));
}

void Flow::Take(std::vector<std::byte> bytes, Microseconds now_us) {
  if (lossy_) return;
  Microseconds due_us = now_us + 1000 * faults_.delay_ms;
  if (faults_.jitter_ms > 0) {
    due_us += static_cast<Microseconds>(
        rng_.NextBelow(1000 * static_cast<std::uint64_t>(faults_.jitter_ms)));
  }
  if (!pieces_.empty()) due_us = std::max(due_us, pieces_.back().due_us);
  held_ += bytes.size();
  pieces_.push_back({.bytes = std::move(bytes), .due_us = due_us});
}

std::pair<const std::byte*, std::size_t> Flow::Due(Microseconds now_us) const {
  const std::optional<Microseconds> next_us = NextUs();
  if (!next_us || *next_us > now_us) return {nullptr, 0};
  const Piece& piece = pieces_.front();
  std::size_t bytes = piece.bytes.size() - piece.begin;
  if (faults_.bytes_per_s > 0.0) {
    bytes = std::min(bytes, 1 + static_cast<std::size_t>(faults_.bytes_per_s * kRateGrainS));
  }
  // Not a byte more than the cut lets through.
  if (cut_at_ > passed_) bytes = std::min<std::size_t>(bytes, cut_at_ - passed_);
  return {piece.bytes.data() + piece.begin, bytes};
}

void Flow::Pass(std::size_t bytes, Microseconds now_us) {
  passed_ += bytes;
  held_ -= bytes;
  Piece& piece = pieces_.front();
  piece.begin += bytes;
  if (piece.begin == piece.bytes.size()) pieces_.pop_front();
  if (faults_.bytes_per_s > 0.0) {
    free_us_ = std::max(free_us_, now_us) +
               static_cast<Microseconds>(1e6 * static_cast<double>(bytes) / faults_.bytes_per_s);
  }
}

std::optional<Microseconds> Flow::NextUs() const {
  if (pieces_.empty() || faults_.stalled) return std::nullopt;
  return faults_.bytes_per_s > 0.0 ? std::max(pieces_.front().due_us, free_us_)
                                   : pieces_.front().due_us;
}

// ---- FaultConnection.

FaultConnection::FaultConnection(Socket client, Socket coordinator, std::uint64_t key,
                                 const LinkFaults& faults)
    : ends_{std::move(client), std::move(coordinator)},
      flows_{Flow(MixKey({key, KeyOf("up")})), Flow(MixKey({key, KeyOf("down")}))} {
  Set(faults);
}

void FaultConnection::Set(const LinkFaults& faults) {
  flows_[0].Set(faults.up);
  flows_[1].Set(faults.down);
}

void FaultConnection::Cut() {
  was_cut_ = true;
  for (Socket& end : ends_) end.Reset();
}

bool FaultConnection::over() const {
  if (!ends_[0].open() && !ends_[1].open()) return true;
  // Of a flow that loses everything, the far end is not told; it goes when it has had enough.
  const auto done = [this](std::size_t end) {
    return flows_[end].ended() && (flows_[end].lossy() || finished_[1 - end]);
  };
  return done(0) && done(1);
}

std::array<pollfd, 2> FaultConnection::Interest(Microseconds now_us) const {
  std::array<pollfd, 2> interest{};
  for (std::size_t end = 0; end < 2; ++end) {
    short events = 0;
    if (flows_[end].Wants()) events |= POLLIN;
    const bool due = flows_[1 - end].Due(now_us).second > 0;
    if (full_[end] && due) events |= POLLOUT;
    // Without interest not even errors are to wake the loop again and again.
    interest[end] = {.fd = events == 0 ? -1 : ends_[end].fd(), .events = events, .revents = 0};
  }
  return interest;
}

std::optional<Microseconds> FaultConnection::NextUs() const {
  std::optional<Microseconds> next_us;
  for (std::size_t end = 0; end < 2; ++end) {
    const std::optional<Microseconds> flow_us = flows_[end].NextUs();
    // A socket that is full says itself when it goes on.
    if (!flow_us || full_[1 - end]) continue;
    next_us = next_us ? std::min(*next_us, *flow_us) : *flow_us;
  }
  return next_us;
}

void FaultConnection::Step(const std::array<pollfd, 2>& ready, Microseconds now_us) {
  for (std::size_t end = 0; end < 2; ++end) {
    if (ready[end].fd < 0 || ready[end].revents == 0) continue;
    full_[end] = false;
    if ((ready[end].events & POLLIN) != 0) Read(end, now_us);
  }
  for (std::size_t end = 0; end < 2; ++end) Write(end, now_us);
  if (flows_[0].CutIsDue() || flows_[1].CutIsDue()) Cut();
}

// What `end` sends.
void FaultConnection::Read(std::size_t end, Microseconds now_us) {
  std::vector<std::byte> bytes(kReadBytes);
  while (ends_[end].open() && flows_[end].Wants()) {
    const ssize_t count = ::recv(ends_[end].fd(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (count > 0) {
      flows_[end].Take({bytes.begin(), bytes.begin() + count}, now_us);
      continue;
    }
    if (count == 0) return flows_[end].CloseSource();
    if (errno == EAGAIN || errno == EINTR) return;
    return LoseEnd(end);
  }
}

// What is due for `end`.
void FaultConnection::Write(std::size_t end, Microseconds now_us) {
  Flow& flow = flows_[1 - end];
  while (!full_[end] && !flow.CutIsDue()) {
    const auto [bytes, size] = flow.Due(now_us);
    if (size == 0) break;
    if (!ends_[end].open()) {
      flow.Pass(size, now_us);  // into the void
      continue;
    }
    const ssize_t count = ::send(ends_[end].fd(), bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count >= 0) {
      flow.Pass(static_cast<std::size_t>(count), now_us);
    } else if (errno == EAGAIN) {
      full_[end] = true;
    } else if (errno != EINTR) {
      return LoseEnd(end);
    }
  }
  if (!flow.ended() || flow.lossy() || flow.stalled() || finished_[end]) return;
  finished_[end] = true;
  if (ends_[end].open()) static_cast<void>(::shutdown(ends_[end].fd(), SHUT_WR));
}

// `end` broke the connection off. The other hears of it, unless what would tell it is lost.
void FaultConnection::LoseEnd(std::size_t end) {
  ends_[end].Close();
  flows_[end].CloseSource();
  if (!flows_[end].lossy()) ends_[1 - end].Reset();
}

}  // namespace fedmoe
