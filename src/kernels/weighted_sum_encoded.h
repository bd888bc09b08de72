// The aggregation kernel over encoded sources: what an update's blocks hold is decoded in the
// first-level cache and added there, never as a copy in memory.
#pragma once

#include <cstdint>
#include <span>

#include "common/parallel.h"
#include "common/result.h"
#include "kernels/codec.h"

namespace fedmoe {

// out[i] = float(sum over sources, in their order, of weight * element first + i) for any number of
// sources, each in an encoding of its own and holding elements [first, first + out.size()); eight
// of them are read in one pass. The sum is float64 and every product is added to it with one
// rounding (fused); of int8 and int4 the product is (weight * scale, rounded to float64) * step. So
// the bits are the same for any cut of the range, any grouping of the sources and any threads of
// `parallel`, and those of WeightedSum() where all are f32. Sources with weight 0 are not read; no
// source: zeros. INVALID_ARGUMENT, with `out` as it was, where a source's length does not fit or
// does not hold the range.
Status WeightedSumEncoded(std::span<const EncodedValues> sources, std::span<const double> weights,
                          std::uint64_t first, std::span<float> out,
                          const ParallelFor& parallel = {});

// sums[i] += the same, without the last rounding: for one group of sources after another, where
// they are not at hand together.
Status AccumulateEncoded(std::span<const EncodedValues> sources, std::span<const double> weights,
                         std::uint64_t first, std::span<double> sums,
                         const ParallelFor& parallel = {});

// The plain loop, element by element, that the fast version is tested against.
void WeightedSumEncodedReference(std::span<const EncodedValues> sources,
                                 std::span<const double> weights, std::uint64_t first,
                                 std::span<float> out);

}  // namespace fedmoe
