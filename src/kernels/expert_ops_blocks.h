// How the rows of a routing, and the rows of the experts' gradients, are cut into tasks. The cut
// depends on sizes alone, so that the bits of a result do not depend on the number of threads.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/expert_routing.h"

namespace fedmoe {

// At most this many rows of one expert make a task: they stay in a core's second-level cache.
inline constexpr std::int64_t kBlockRows = 128;

struct RowBlock {
  std::int64_t expert = 0;
  std::int64_t begin = 0;  // the first sorted row
  std::int64_t rows = 0;
};

// Every expert's rows in even blocks; the longest first, so that the threads end together.
std::vector<RowBlock> RowBlocks(const ExpertRouting& routing);
// The most rows of any of them.
std::int64_t LargestBlock(const std::vector<RowBlock>& blocks);

struct GradientTile {
  std::int64_t expert = 0;
  int matrix = 0;          // which of the caller's matrices
  std::int64_t begin = 0;  // the first row of the gradient
  std::int64_t rows = 0;
};

// Every gradient of an expert with rows in tiles of rows; heights[m] are the rows of the caller's
// matrix m. A tile's work is its expert's rows times its own: the greatest first.
std::vector<GradientTile> GradientTiles(const ExpertRouting& routing,
                                        const std::vector<std::int64_t>& heights);

}  // namespace fedmoe
