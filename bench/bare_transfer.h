// What the same bytes cost over gRPC alone: the yardstick of bench_round.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/result.h"

namespace fedmoe {

// A server that streams `bytes` to whoever fetches, and reads what is submitted, in chunks of the
// protocol's size, without checksums, disk or any other work. Blocks; prints its port first. The
// bench runs it as a process of its own, as the coordinator is.
int ServeBareTransfers(std::uint64_t bytes);

// Clients of such a server, each on a connection of its own. Not thread-safe.
class BareClients {
 public:
  BareClients(const std::string& address, int clients, std::uint64_t bytes);
  ~BareClients();
  // All clients at once: each fetches, then submits. Seconds until the last is through.
  Result<double> Round();

 private:
  struct Client;
  std::vector<std::unique_ptr<Client>> clients_;
  const std::uint64_t bytes_;
};

}  // namespace fedmoe
