// Whether load bounds can be met at all, and which of them stand in each other's way if not.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/ids.h"

namespace fedmoe {

// Experts whose bounds together ask for what the clients' capacity cannot give.
struct BoundConflict {
  std::vector<ExpertIndex> experts;  // ascending
  bool lower = false;                // their lower bounds ask for too much; else their upper bounds
                                     // leave too little room
  std::int64_t bound = 0;            // what those bounds add up to
  std::int64_t possible = 0;         // lower: the most that clients can give these experts; upper:
                                     // the least that they must

  // "experts 0, 2 must have at least 9 clients together (their lower bounds), and the clients'
  // capacity gives them at most 7"
  std::string ToString() const;
};

// Nothing if some plan gives each client `capacity` different experts and each expert between its
// bounds of clients. Of all loads within the bounds the most even one is the easiest to reach, and
// a load can be reached if and only if each j of its greatest entries add up to at most sum_c
// min(capacity_c, j) (Gale and Ryser). O(E log E + C). The spans `lower` and `upper` have one entry
// an expert, `capacity` one a client, 0 to E.
std::optional<BoundConflict> FindBoundConflict(std::span<const int> capacity,
                                               std::span<const int> lower,
                                               std::span<const int> upper);

}  // namespace fedmoe
