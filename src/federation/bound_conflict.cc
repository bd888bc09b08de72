#include "federation/bound_conflict.h"

#include <algorithm>
#include <cstddef>
#include <numeric>

namespace fedmoe {
namespace {

// The load of each expert at a water level, within its bounds.
std::int64_t TotalAt(int level, std::span<const int> lower, std::span<const int> upper) {
  std::int64_t total = 0;
  for (std::size_t e = 0; e < lower.size(); ++e) total += std::clamp(level, lower[e], upper[e]);
  return total;
}

// The most even loads within the bounds that add up to `total`; the caller has seen that there are
// such.
std::vector<int> MostEven(std::int64_t total, std::span<const int> lower,
                          std::span<const int> upper) {
  int low = 0;
  int high = *std::max_element(upper.begin(), upper.end());
  while (low < high) {  // the greatest level that does not give more than the total
    const int middle = low + (high - low + 1) / 2;
    if (TotalAt(middle, lower, upper) <= total) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  std::vector<int> load(lower.size());
  std::int64_t left = total - TotalAt(low, lower, upper);
  for (std::size_t e = 0; e < load.size(); ++e) {
    load[e] = std::clamp(low, lower[e], upper[e]);
    if (left > 0 && load[e] == low && upper[e] > low) {
      ++load[e];
      --left;
    }
  }
  return load;
}

BoundConflict ConflictOf(std::vector<ExpertIndex> experts, bool lower, std::int64_t bound,
                         std::int64_t possible) {
  std::sort(experts.begin(), experts.end());
  return {std::move(experts), lower, bound, possible};
}

std::vector<ExpertIndex> AllOf(std::size_t experts) {
  std::vector<ExpertIndex> all(experts);
  std::iota(all.begin(), all.end(), 0);
  return all;
}

// What the clients can give any j experts together, for j from 0 to E.
std::vector<std::int64_t> Reach(std::span<const int> capacity, std::size_t experts) {
  std::vector<std::int64_t> holding(experts + 1, 0);  // clients by capacity
  for (const int units : capacity) ++holding[static_cast<std::size_t>(units)];
  std::vector<std::int64_t> reach(experts + 1, 0);
  std::int64_t beyond =
      static_cast<std::int64_t>(capacity.size());  // clients that hold more than j
  for (std::size_t j = 0; j < experts; ++j) {
    beyond -= holding[j];
    reach[j + 1] = reach[j] + beyond;
  }
  return reach;
}

}  // namespace

std::string BoundConflict::ToString() const {
  std::string names;
  for (const ExpertIndex expert : experts) {
    if (!names.empty()) names += ", ";
    names += std::to_string(expert);
  }
  const std::string who = (experts.size() == 1 ? "expert " : "experts ") + names;
  const std::string together = experts.size() == 1 ? " clients (its " : " clients together (their ";
  const std::string bounds = experts.size() == 1 ? " bound)" : " bounds)";
  const std::string them = experts.size() == 1 ? "it" : "them";
  return lower ? who + " must have at least " + std::to_string(bound) + together + "lower" +
                     bounds + ", and the clients' capacity gives " + them + " at most " +
                     std::to_string(possible)
               : who + " may have at most " + std::to_string(bound) + together + "upper" + bounds +
                     ", and the clients' capacity puts at least " + std::to_string(possible) +
                     " on " + them;
}

std::optional<BoundConflict> FindBoundConflict(std::span<const int> capacity,
                                               std::span<const int> lower,
                                               std::span<const int> upper) {
  const std::size_t experts = lower.size();
  for (std::size_t e = 0; e < experts; ++e) {
    if (lower[e] > upper[e]) {
      return ConflictOf({static_cast<ExpertIndex>(e)}, true, lower[e], upper[e]);
    }
  }
  const auto total = std::accumulate(capacity.begin(), capacity.end(), std::int64_t{0});
  const auto lowest = std::accumulate(lower.begin(), lower.end(), std::int64_t{0});
  const auto highest = std::accumulate(upper.begin(), upper.end(), std::int64_t{0});
  if (lowest > total) return ConflictOf(AllOf(experts), true, lowest, total);
  if (highest < total) return ConflictOf(AllOf(experts), false, highest, total);
  if (experts == 0) return std::nullopt;

  const std::vector<int> load = MostEven(total, lower, upper);
  const std::vector<std::int64_t> reach = Reach(capacity, experts);
  std::vector<ExpertIndex> order = AllOf(experts);
  std::stable_sort(order.begin(), order.end(), [&](ExpertIndex a, ExpertIndex b) {
    return load[static_cast<std::size_t>(a)] > load[static_cast<std::size_t>(b)];
  });
  std::vector<std::int64_t> excess(experts + 1, 0);  // of the j greatest over what clients can give
  std::int64_t sum = 0;
  for (std::size_t j = 1; j <= experts; ++j) {
    sum += load[static_cast<std::size_t>(order[j - 1])];
    excess[j] = sum - reach[j];
  }
  const std::int64_t worst = *std::max_element(excess.begin(), excess.end());
  if (worst <= 0) return std::nullopt;
  // `reach` is concave, so one of the worst sets ends where the even loads begin or end: its
  // experts are all held up by their lower bounds, or all others are held down by their upper
  // bounds.
  for (std::size_t j = 1; j <= experts; ++j) {
    if (excess[j] < worst) continue;
    const auto split = order.begin() + static_cast<std::ptrdiff_t>(j);
    const auto at = [&](std::span<const int> bounds) {
      return [&, bounds](ExpertIndex e) {
        return load[static_cast<std::size_t>(e)] == bounds[static_cast<std::size_t>(e)];
      };
    };
    if (std::all_of(order.begin(), split, at(lower))) {
      return ConflictOf({order.begin(), split}, true, reach[j] + worst, reach[j]);
    }
    if (std::all_of(split, order.end(), at(upper))) {
      const std::int64_t forced = total - reach[j];
      return ConflictOf({split, order.end()}, false, forced - worst, forced);
    }
  }
  return std::nullopt;
}

}  // namespace fedmoe
