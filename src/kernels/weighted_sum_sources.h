// What kernels over encoded sources share: their checks, and tiles of decoded values.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "common/parallel.h"
#include "common/result.h"
#include "kernels/codec.h"

namespace fedmoe {

// Elements [first, first + count) of a block.
struct ElementRange {
  std::uint64_t first = 0;
  std::size_t count = 0;
};

// INVALID_ARGUMENT "source 2: ..." where a source's length is wrong or it does not hold the range.
Status CheckSources(std::span<const EncodedValues> sources, ElementRange range);

// Calls body for pieces of the range, one after another, that end at multiples of `tile`, so that
// they do not cut units.
template <typename Body>
void ForEachTile(ElementRange range, std::size_t tile, const Body& body) {
  while (range.count > 0) {
    const auto within = static_cast<std::size_t>(range.first % tile);
    const std::size_t count = std::min(range.count, tile - within);
    body(ElementRange{range.first, count});
    range.first += count;
    range.count -= count;
  }
}

// Elements that a thread takes at once.
inline constexpr std::size_t kPartElements = std::size_t{1} << 18;

// The parts of a range, cut at multiples of kPartElements whatever the threads are.
int PartCount(ElementRange range);
ElementRange PartOf(ElementRange range, int part);

// Element `first` of an f32 source in place, or nullptr where it is of another encoding or not
// aligned.
const float* FloatsAt(const EncodedValues& source, std::uint64_t first);

// Asks the caches for the source's bytes of the range. Not for top-k.
void Prefetch(const EncodedValues& source, ElementRange range);

}  // namespace fedmoe
