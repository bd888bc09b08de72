// A TCP proxy on loopback that does to connections what networks do to them: delay, limited rate,
// stalls, cuts, half-open connections, partitions. Put one between each client and a real
// coordinator, and every client has a link of its own. All chance comes from a seed.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/ids.h"
#include "common/result.h"

namespace fedmoe {

// One direction of every connection.
struct FlowFaults {
  Milliseconds delay_ms = 0;   // from arrival at the proxy to departure
  Milliseconds jitter_ms = 0;  // on top: U[0, jitter_ms), the order of bytes is kept
  double bytes_per_s = 0.0;    // 0: no limit
  bool stalled = false;        // no byte moves; the connection stays
  bool swallowed = false;      // half-open: bytes and the close are taken, and never passed on
  std::uint64_t cut_after_bytes = 0;  // both ends get RST when so many more have passed; 0: never
  double cut_mean_bytes = 0.0;        // the same after Exponential(mean) bytes; 0: never
};

struct LinkFaults {
  FlowFaults up;        // from the client to the coordinator
  FlowFaults down;      // from the coordinator to the client
  bool refuse = false;  // new connections get RST at once
};

// Nothing moves, and nobody new gets through; what was under way goes on when the link heals.
LinkFaults Partition();
// Both directions vanish without a word: as behind a router that forgot the connection. A
// connection that has lost a byte never comes back; the next one is sound if the link is by then.
LinkFaults HalfOpen();

struct LinkCounts {
  std::uint64_t accepted = 0;  // connections that were passed on to the target
  std::uint64_t refused = 0;
  std::uint64_t cut = 0;
  std::uint64_t open = 0;  // now, at either end
  std::uint64_t bytes_up = 0;
  std::uint64_t bytes_down = 0;
  std::uint64_t held_bytes = 0;  // read and not yet passed on, now; bounded for each connection
};

// Thread-safe; does its work on one thread of its own.
class FaultProxy {
 public:
  // Listens on a free port of 127.0.0.1 and passes connections on to `target`,
  // "127.0.0.1:PORT". The n-th connection's faults are a function of seed, n and direction.
  static Result<std::unique_ptr<FaultProxy>> Start(const std::string& target, std::uint64_t seed);
  ~FaultProxy();
  FaultProxy(const FaultProxy&) = delete;
  FaultProxy& operator=(const FaultProxy&) = delete;

  const std::string& address() const { return address_; }
  // For every connection there is, and those to come. Returns when it holds.
  void Set(const LinkFaults& faults);
  void Heal() { Set(LinkFaults{}); }
  // RST to both ends of every connection there is. Returns when it is done.
  void CutAll();

  LinkCounts counts() const;
  // Blocks until `condition` holds of the counts; false after `limit_ms`, a bound for broken tests.
  bool WaitUntil(const std::function<bool(const LinkCounts&)>& condition,
                 Milliseconds limit_ms = 60'000) const;
  // When each connection came, accepted or refused, on the steady clock.
  std::vector<Milliseconds> attempts_ms() const;

 private:
  class Loop;
  FaultProxy(std::string address, std::unique_ptr<Loop> loop);

  const std::string address_;
  const std::unique_ptr<Loop> loop_;
};

}  // namespace fedmoe
