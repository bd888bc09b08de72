// Which rows of a batch go through which expert: a stable counting sort of (token, slot) by expert.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fedmoe {

struct ExpertRouting {
  std::int64_t tokens = 0;
  std::int64_t slots = 0;              // experts chosen for each token
  std::vector<std::int64_t> offsets;   // [experts + 1]: expert e has sorted rows offsets[e] to
                                       // offsets[e + 1] - 1
  std::vector<std::int64_t> slot_row;  // [rows]: sorted row -> token * slots + slot
  std::vector<std::int64_t> place;     // [tokens * slots]: the inverse; -1 for a slot routed to no
                                       // expert here

  std::int64_t experts() const { return static_cast<std::int64_t>(offsets.size()) - 1; }
  std::int64_t rows() const { return static_cast<std::int64_t>(slot_row.size()); }
  std::int64_t RowsOf(std::int64_t expert) const {
    return offsets[static_cast<std::size_t>(expert) + 1] -
           offsets[static_cast<std::size_t>(expert)];
  }
};

// chosen: [tokens, slots], each 0 to experts - 1, or negative: that slot goes to no expert here and
// adds nothing (a zero-computation expert). Within an expert, rows keep the order of (token, slot).
ExpertRouting RouteTokens(std::span<const std::int64_t> chosen, std::int64_t slots, int experts);

}  // namespace fedmoe
