// Rules that keep a few bad updates from steering the mean, over the same encoded sources as
// WeightedSumEncoded(). None of them looks at weights: a client could claim any.
//
// Every source is checked as there (INVALID_ARGUMENT). Results are the same bits for any order of
// the sources (but the lines and columns of a table, and what ties decide) and any threads.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/parallel.h"
#include "common/result.h"
#include "kernels/codec.h"

namespace fedmoe {

// For each element the median over the sources; of an even number the mean of the middle two in
// float64, rounded once (Yin et al., "Byzantine-Robust Distributed Learning", ICML 2018,
// definition 1). At least one source.
Status CoordinateMedian(std::span<const EncodedValues> sources, std::uint64_t first,
                        std::span<float> out, const ParallelFor& parallel = {});

// For each element the mean of what is left without the `trim` smallest and `trim` greatest values
// (Yin et al., definition 2), added in ascending order in float64, rounded once. 2 * trim is less
// than the number of sources.
Status TrimmedMean(std::span<const EncodedValues> sources, int trim, std::uint64_t first,
                   std::span<float> out, const ParallelFor& parallel = {});

// distances[a * n + b] += sum of (x_a - x_b)^2 over elements [first, first + count), for n sources,
// symmetric; the difference is rounded to float32, the rest is float64. Elements are added in a
// fixed order: eight lanes in pieces of 512, pieces in parts of 2^18 counted from the block's
// start. So a block's table is the same for any windows that end at multiples of 2^18.
Status AddSquaredDistances(std::span<const EncodedValues> sources, std::uint64_t first,
                           std::uint64_t count, std::span<double> distances,
                           const ParallelFor& parallel = {});

// norms[a] += sum of x_a^2 over the elements, in the same order.
Status AddSquaredNorms(std::span<const EncodedValues> sources, std::uint64_t first,
                       std::uint64_t count, std::span<double> norms,
                       const ParallelFor& parallel = {});

// The `selected` sources with the least score, ascending: the score of one is the sum of its
// distances to the n - attackers - 2 sources that are nearest to it (Blanchard et al., "Machine
// Learning with Adversaries", NeurIPS 2017: Krum for one, Multi-Krum for more). Ties: the lower
// source. `distances` is the table of AddSquaredDistances(). INVALID_ARGUMENT unless n is at least
// 2 * attackers + 3 and `selected` is 1 to n - attackers.
Result<std::vector<int>> SelectByKrum(std::span<const double> distances, int sources, int attackers,
                                      int selected);

// What to multiply an update by so that its norm is at most `limit` (above 0): 1, or less.
double ClipFactor(double squared_norm, double limit);

}  // namespace fedmoe
