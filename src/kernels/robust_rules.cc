#include "kernels/robust_rules.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>

#include "kernels/codec_decode.h"
#include "kernels/function_versions.h"
#include "kernels/weighted_sum_sources.h"

namespace fedmoe {
namespace {

// Elements decoded at once.
constexpr std::size_t kTile = 512;
constexpr std::size_t kLanes = 8;

using Comparators = std::vector<std::pair<std::size_t, std::size_t>>;

// Batcher's merge exchange (Knuth, The Art of Computer Programming, volume 3, algorithm 5.2.2M):
// comparing and exchanging these pairs in order sorts any `count` rows.
Comparators SortingNetwork(std::size_t count) {
  Comparators comparators;
  if (count < 2) return comparators;
  std::size_t top = 1;
  while (top * 2 < count) top *= 2;
  for (std::size_t p = top; p > 0; p /= 2) {
    std::size_t q = top;
    std::size_t r = 0;
    std::size_t d = p;
    while (true) {
      for (std::size_t i = 0; i + d < count; ++i) {
        if ((i & p) == r) comparators.emplace_back(i, i + d);
      }
      if (q == p) break;
      d = q - p;
      q /= 2;
      r = p;
    }
  }
  return comparators;
}

FEDMOE_FUNCTION_VERSIONS void CompareRows(float* low, float* high, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    const float a = low[i];
    const float b = high[i];
    low[i] = a < b ? a : b;
    high[i] = a < b ? b : a;
  }
}

// out[i] = float(sum over rows in their order / rows). Adding +0 makes -0 +0, so that the order in
// which equal zeros came does not show.
FEDMOE_FUNCTION_VERSIONS void MeanOfRows(const float* rows, std::size_t row_count,
                                         std::size_t count, float* out) {
  std::array<double, kTile> sums{};
  for (std::size_t row = 0; row < row_count; ++row) {
    for (std::size_t i = 0; i < count; ++i) {
      sums[i] += static_cast<double>(rows[row * kTile + i]);
    }
  }
  const double divisor = static_cast<double>(row_count);
  for (std::size_t i = 0; i < count; ++i) out[i] = static_cast<float>(sums[i] / divisor);
}

// The sum of (a - b)^2, element i in lane i % kLanes, the lanes then added pair by pair.
FEDMOE_FUNCTION_VERSIONS double SquaredDistance(const float* a, const float* b, std::size_t count) {
  std::array<double, kLanes> lanes{};
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const auto difference = static_cast<double>(a[i + lane] - b[i + lane]);
      lanes[lane] += difference * difference;
    }
  }
  for (std::size_t lane = 0; i + lane < count; ++lane) {
    const auto difference = static_cast<double>(a[i + lane] - b[i + lane]);
    lanes[lane] += difference * difference;
  }
  for (std::size_t half = kLanes / 2; half > 0; half /= 2) {
    for (std::size_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

// Row s of the tile: sources[s], decoded.
void DecodeRows(std::span<const EncodedValues> sources, ElementRange tile,
                std::vector<float>& rows) {
  for (std::size_t s = 0; s < sources.size(); ++s) {
    DecodeWithin(sources[s], tile.first, std::span(rows).subspan(s * kTile, tile.count));
  }
}

// For each element the mean of the values of ranks [begin, end).
Status MeanOfRanks(std::span<const EncodedValues> sources, std::size_t begin, std::size_t end,
                   std::uint64_t first, std::span<float> out, const ParallelFor& parallel) {
  const ElementRange range{first, out.size()};
  FEDMOE_RETURN_IF_ERROR(CheckSources(sources, range));
  const Comparators network = SortingNetwork(sources.size());
  RunParts(parallel, PartCount(range), [&](int index) {
    std::vector<float> rows(sources.size() * kTile);
    ForEachTile(PartOf(range, index), kTile, [&](ElementRange tile) {
      DecodeRows(sources, tile, rows);
      for (const auto& [low, high] : network) {
        CompareRows(rows.data() + low * kTile, rows.data() + high * kTile, tile.count);
      }
      MeanOfRows(rows.data() + begin * kTile, end - begin, tile.count,
                 out.data() + (tile.first - first));
    });
  });
  return Status::Ok();
}

// sums[p] += the squared distance of the p-th pair of rows; row sources.size() is all zeros.
Status AddPairs(std::span<const EncodedValues> sources, ElementRange range,
                const Comparators& pairs, std::span<double> sums, const ParallelFor& parallel) {
  FEDMOE_RETURN_IF_ERROR(CheckSources(sources, range));
  const auto parts = static_cast<std::size_t>(PartCount(range));
  std::vector<double> of_parts(parts * pairs.size(), 0.0);
  RunParts(parallel, static_cast<int>(parts), [&](int index) {
    std::vector<float> rows((sources.size() + 1) * kTile, 0.0F);
    double* const of_part = of_parts.data() + static_cast<std::size_t>(index) * pairs.size();
    ForEachTile(PartOf(range, index), kTile, [&](ElementRange tile) {
      DecodeRows(sources, tile, rows);
      for (std::size_t p = 0; p < pairs.size(); ++p) {
        of_part[p] += SquaredDistance(rows.data() + pairs[p].first * kTile,
                                      rows.data() + pairs[p].second * kTile, tile.count);
      }
    });
  });
  for (std::size_t part = 0; part < parts; ++part) {
    for (std::size_t p = 0; p < pairs.size(); ++p) sums[p] += of_parts[part * pairs.size() + p];
  }
  return Status::Ok();
}

Status CheckTable(std::size_t size, std::size_t needed) {
  if (size == needed) return Status::Ok();
  return InvalidArgument("a table of " + std::to_string(needed) + " sums has " +
                         std::to_string(size));
}

}  // namespace

Status CoordinateMedian(std::span<const EncodedValues> sources, std::uint64_t first,
                        std::span<float> out, const ParallelFor& parallel) {
  if (sources.empty()) return InvalidArgument("a median needs at least one source");
  return MeanOfRanks(sources, (sources.size() - 1) / 2, sources.size() / 2 + 1, first, out,
                     parallel);
}

Status TrimmedMean(std::span<const EncodedValues> sources, int trim, std::uint64_t first,
                   std::span<float> out, const ParallelFor& parallel) {
  const auto dropped = static_cast<std::size_t>(std::max(trim, 0));
  if (trim < 0 || sources.size() <= 2 * dropped) {
    return InvalidArgument("a mean of " + std::to_string(sources.size()) +
                           " sources cannot be trimmed by " + std::to_string(trim) +
                           " at each end");
  }
  return MeanOfRanks(sources, dropped, sources.size() - dropped, first, out, parallel);
}

Status AddSquaredDistances(std::span<const EncodedValues> sources, std::uint64_t first,
                           std::uint64_t count, std::span<double> distances,
                           const ParallelFor& parallel) {
  const std::size_t n = sources.size();
  FEDMOE_RETURN_IF_ERROR(CheckTable(distances.size(), n * n));
  Comparators pairs;
  std::vector<double> sums;
  for (std::size_t a = 0; a < n; ++a) {
    for (std::size_t b = a + 1; b < n; ++b) {
      pairs.emplace_back(a, b);
      sums.push_back(distances[a * n + b]);
    }
  }
  FEDMOE_RETURN_IF_ERROR(
      AddPairs(sources, {first, static_cast<std::size_t>(count)}, pairs, sums, parallel));
  for (std::size_t p = 0; p < pairs.size(); ++p) {
    distances[pairs[p].first * n + pairs[p].second] = sums[p];
    distances[pairs[p].second * n + pairs[p].first] = sums[p];
  }
  return Status::Ok();
}

Status AddSquaredNorms(std::span<const EncodedValues> sources, std::uint64_t first,
                       std::uint64_t count, std::span<double> norms, const ParallelFor& parallel) {
  FEDMOE_RETURN_IF_ERROR(CheckTable(norms.size(), sources.size()));
  Comparators pairs;
  for (std::size_t s = 0; s < sources.size(); ++s) pairs.emplace_back(s, sources.size());
  return AddPairs(sources, {first, static_cast<std::size_t>(count)}, pairs, norms, parallel);
}

Result<std::vector<int>> SelectByKrum(std::span<const double> distances, int sources, int attackers,
                                      int selected) {
  if (attackers < 0 || sources < 2 * attackers + 3) {
    return InvalidArgument("krum against " + std::to_string(attackers) + " attackers needs " +
                           std::to_string(2 * std::max(attackers, 0) + 3) + " sources, there are " +
                           std::to_string(sources));
  }
  if (selected < 1 || selected > sources - attackers) {
    return InvalidArgument("krum can select 1 to " + std::to_string(sources - attackers) +
                           " sources, not " + std::to_string(selected));
  }
  const auto n = static_cast<std::size_t>(sources);
  FEDMOE_RETURN_IF_ERROR(CheckTable(distances.size(), n * n));
  std::vector<double> scores(n);
  for (std::size_t a = 0; a < n; ++a) {
    std::vector<double> others;
    for (std::size_t b = 0; b < n; ++b) {
      if (b != a) others.push_back(distances[a * n + b]);
    }
    std::sort(others.begin(), others.end());
    scores[a] = std::accumulate(others.begin(), others.begin() + (sources - attackers - 2), 0.0);
  }
  std::vector<int> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return scores[static_cast<std::size_t>(a)] < scores[static_cast<std::size_t>(b)];
  });
  order.resize(static_cast<std::size_t>(selected));
  std::sort(order.begin(), order.end());
  return order;
}

double ClipFactor(double squared_norm, double limit) {
  const double norm = std::sqrt(squared_norm);
  return norm <= limit ? 1.0 : limit / norm;
}

}  // namespace fedmoe
