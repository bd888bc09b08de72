// When each client of a population can be reached, in simulated time.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/ids.h"
#include "common/result.h"
#include "config/simulation_config.h"

namespace fedmoe {

// Milliseconds [begin_ms, end_ms).
struct OnlineSpan {
  Milliseconds begin_ms = 0;
  Milliseconds end_ms = 0;
  bool operator==(const OnlineSpan&) const = default;
};

// Spans by client, sorted and joined where they touch, of a table with the header
// client,start_s,end_s. `path` is for messages: INVALID_ARGUMENT "PATH:LINE: what is wrong".
Result<std::map<ClientId, std::vector<OnlineSpan>>> ParseTrace(const std::string& path,
                                                               std::string_view text);

// A pure function of client and time.
class Availability {
 public:
  // Of `clients`, by index. Reads simulation.trace where there is one; a client that it does not
  // name never comes, a name that is none of `clients` is an error.
  static Result<Availability> Make(const SimulationOptions& options,
                                   const std::vector<ClientId>& clients, std::uint64_t seed);

  bool OnlineAt(std::size_t client, Milliseconds at_ms) const;
  // When that changes next after `at_ms`; -1 for never.
  Milliseconds NextChangeMs(std::size_t client, Milliseconds at_ms) const;

 private:
  AvailabilityKind kind_ = AvailabilityKind::kAlways;
  Milliseconds online_ms_ = 0;                   // daily: of each day
  std::vector<Milliseconds> begins_;             // daily: within the day, by client
  std::vector<std::vector<OnlineSpan>> traces_;  // trace: by client
};

}  // namespace fedmoe
