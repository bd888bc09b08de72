#include "kernels/expert_routing.h"

namespace fedmoe {

ExpertRouting RouteTokens(std::span<const std::int64_t> chosen, std::int64_t slots, int experts) {
  ExpertRouting routing;
  routing.slots = slots;
  routing.tokens = slots > 0 ? static_cast<std::int64_t>(chosen.size()) / slots : 0;
  routing.offsets.assign(static_cast<std::size_t>(experts) + 1, 0);
  routing.place.assign(chosen.size(), -1);
  for (const std::int64_t expert : chosen) {
    if (expert >= 0) ++routing.offsets[static_cast<std::size_t>(expert) + 1];
  }
  for (std::size_t e = 1; e < routing.offsets.size(); ++e) {
    routing.offsets[e] += routing.offsets[e - 1];
  }
  routing.slot_row.resize(static_cast<std::size_t>(routing.offsets.back()));
  std::vector<std::int64_t> next(routing.offsets.begin(), routing.offsets.end() - 1);
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    if (chosen[i] < 0) continue;
    const std::int64_t row = next[static_cast<std::size_t>(chosen[i])]++;
    routing.place[i] = row;
    routing.slot_row[static_cast<std::size_t>(row)] = static_cast<std::int64_t>(i);
  }
  return routing;
}

}  // namespace fedmoe
