#include "kernels/expert_ops_blocks.h"

#include <algorithm>

namespace fedmoe {
namespace {

// Calls add(begin, count) for even parts of 0 to size - 1, each of at most `largest`.
template <typename Add>
void CutEvenly(std::int64_t size, std::int64_t largest, const Add& add) {
  const std::int64_t parts = (size + largest - 1) / largest;
  for (std::int64_t part = 0; part < parts; ++part) {
    const std::int64_t begin = size * part / parts;
    add(begin, size * (part + 1) / parts - begin);
  }
}

}  // namespace

std::vector<RowBlock> RowBlocks(const ExpertRouting& routing) {
  std::vector<RowBlock> blocks;
  for (std::int64_t expert = 0; expert < routing.experts(); ++expert) {
    const std::int64_t first = routing.offsets[static_cast<std::size_t>(expert)];
    CutEvenly(routing.RowsOf(expert), kBlockRows, [&](std::int64_t begin, std::int64_t rows) {
      blocks.push_back({.expert = expert, .begin = first + begin, .rows = rows});
    });
  }
  std::stable_sort(blocks.begin(), blocks.end(),
                   [](const RowBlock& a, const RowBlock& b) { return a.rows > b.rows; });
  return blocks;
}

std::int64_t LargestBlock(const std::vector<RowBlock>& blocks) {
  return blocks.empty() ? 0 : blocks.front().rows;
}

std::vector<GradientTile> GradientTiles(const ExpertRouting& routing,
                                        const std::vector<std::int64_t>& heights) {
  constexpr std::int64_t kTileRows = 128;
  std::vector<GradientTile> tiles;
  for (std::int64_t expert = 0; expert < routing.experts(); ++expert) {
    if (routing.RowsOf(expert) == 0) continue;
    for (std::size_t m = 0; m < heights.size(); ++m) {
      CutEvenly(heights[m], kTileRows, [&](std::int64_t begin, std::int64_t rows) {
        tiles.push_back(
            {.expert = expert, .matrix = static_cast<int>(m), .begin = begin, .rows = rows});
      });
    }
  }
  std::stable_sort(tiles.begin(), tiles.end(), [&](const GradientTile& a, const GradientTile& b) {
    return routing.RowsOf(a.expert) * a.rows > routing.RowsOf(b.expert) * b.rows;
  });
  return tiles;
}

}  // namespace fedmoe
