// Rows of a routing, brought together for a matrix product and put back.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/expert_ops.h"

namespace fedmoe {

// The row of an array in `order` that belongs to the sorted row `row`.
inline std::int64_t RowIn(RowOrder order, const ExpertRouting& routing, std::int64_t row) {
  if (order == RowOrder::kSorted) return row;
  const std::int64_t slot = routing.slot_row[static_cast<std::size_t>(row)];
  return order == RowOrder::kSlot ? slot : slot / routing.slots;
}

// Copies the rows of sorted rows begin to begin + rows - 1, `width` values each, to `out` [rows,
// width].
template <typename T>
void GatherRows(RowOrder order, const ExpertRouting& routing, std::int64_t begin, std::int64_t rows,
                std::int64_t width, const T* in, T* out) {
  for (std::int64_t i = 0; i < rows; ++i) {
    std::copy_n(in + RowIn(order, routing, begin + i) * width, width, out + i * width);
  }
}

}  // namespace fedmoe
