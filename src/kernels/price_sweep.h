// The inner loop of alignment by prices: what each client takes when every expert has a price.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

namespace fedmoe {

// No value is below.
inline constexpr std::int64_t kNoFloor = std::numeric_limits<std::int64_t>::min();

// Where a client's choice would change first: the last expert that it takes, the first that it does
// not, and the profit less price between them. `inside` and `outside` are -1 where it takes nothing
// or everything.
struct ChoiceMargin {
  std::int32_t inside = -1;
  std::int32_t outside = -1;
  std::int64_t gap = 0;
  std::int64_t outside_value = kNoFloor;  // profit less price of `outside`
};

// One value of a row with its column.
struct RankedValue {
  std::int64_t value = 0;
  std::int32_t column = 0;
};

// The `count` (0 to columns) greatest of values[i] = profit[i] - price[i], in falling order, ties
// by the lower column. `values` has room for all columns and holds them all afterwards; `top` has
// room for all columns, its first `count` are the answer. At least `count` values are not below
// `floor`: the closer it is to the last of them, the faster. |profit| and |price| are below 2^61.
void RankTop(std::span<const std::int64_t> profit, std::span<const std::int64_t> price, int count,
             std::int64_t floor, std::span<std::int64_t> values, std::span<RankedValue> top);

// What the clients of `rows` take together, for one thread.
struct SweepTotals {
  std::span<std::int64_t> load;  // by expert: added to
  double value = 0.0;            // added to: the sum of profit less price of all that is taken
};

// For each of the listed rows c of `profit` (row-major, rows x price.size()) the capacity[c]
// experts of greatest profit less price. margins[i] belongs to the i-th of `rows`;
// what it holds before is of use: its outside_value is a floor for the row's value at rank
// capacity + 1.
void SweepPrices(std::span<const std::int64_t> profit, std::span<const std::int64_t> price,
                 std::span<const int> capacity, std::span<const std::int32_t> rows,
                 SweepTotals& totals, std::span<ChoiceMargin> margins);

}  // namespace fedmoe
