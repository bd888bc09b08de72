#include "kernels/price_sweep.h"

#include <algorithm>
#include <vector>

#include "kernels/function_versions.h"

namespace fedmoe {
namespace {

// Up to here a sorted list with insertion is faster than a selection.
constexpr int kInsertionLimit = 20;

bool Before(const RankedValue& a, const RankedValue& b) {
  return a.value > b.value || (a.value == b.value && a.column < b.column);
}

FEDMOE_FUNCTION_VERSIONS
void Subtract(const std::int64_t* profit, const std::int64_t* price, std::int64_t* values,
              int columns) {
  for (int i = 0; i < columns; ++i) values[i] = profit[i] - price[i];
}

// Copies what is not below the floor, without a branch on it. Returns how many.
int Filter(const std::int64_t* values, int columns, std::int64_t floor, RankedValue* kept) {
  int count = 0;
  for (int i = 0; i < columns; ++i) {
    kept[count] = {values[i], i};
    count += values[i] >= floor ? 1 : 0;
  }
  return count;
}

// Sorts the first `count` of `from` entries to the front. Columns come in rising order, so an equal
// value stays behind those before it.
void InsertTop(RankedValue* top, int from, int count) {
  for (int i = 1; i < from; ++i) {
    const RankedValue entry = top[i];
    if (i >= count && entry.value <= top[count - 1].value) continue;
    int at = std::min(i, count - 1);
    for (; at > 0 && top[at - 1].value < entry.value; --at) top[at] = top[at - 1];
    top[at] = entry;
  }
}

}  // namespace

void RankTop(std::span<const std::int64_t> profit, std::span<const std::int64_t> price, int count,
             std::int64_t floor, std::span<std::int64_t> values, std::span<RankedValue> top) {
  const int columns = static_cast<int>(price.size());
  Subtract(profit.data(), price.data(), values.data(), columns);
  if (count == 0) return;
  const int kept = Filter(values.data(), columns, floor, top.data());
  if (count <= kInsertionLimit) {
    InsertTop(top.data(), kept, count);
    return;
  }
  const auto end = top.begin() + kept;
  std::nth_element(top.begin(), top.begin() + count - 1, end, Before);
  std::sort(top.begin(), top.begin() + count, Before);
}

void SweepPrices(std::span<const std::int64_t> profit, std::span<const std::int64_t> price,
                 std::span<const int> capacity, std::span<const std::int32_t> rows,
                 SweepTotals& totals, std::span<ChoiceMargin> margins) {
  const std::size_t experts = price.size();
  std::vector<std::int64_t> values(experts);
  std::vector<RankedValue> top(experts + 1);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto client = static_cast<std::size_t>(rows[i]);
    const int take = capacity[client];
    const int ranked = std::min(take + 1, static_cast<int>(experts));
    ChoiceMargin margin;
    if (take > 0) {
      RankTop(profit.subspan(client * experts, experts), price, ranked, margins[i].outside_value,
              values, top);
      for (int rank = 0; rank < take; ++rank) {
        const RankedValue& taken = top[static_cast<std::size_t>(rank)];
        ++totals.load[static_cast<std::size_t>(taken.column)];
        totals.value += static_cast<double>(taken.value);
      }
      if (ranked > take) {
        const RankedValue& inside = top[static_cast<std::size_t>(take) - 1];
        const RankedValue& outside = top[static_cast<std::size_t>(take)];
        margin = {inside.column, outside.column, inside.value - outside.value, outside.value};
      }
    }
    margins[i] = margin;
  }
}

}  // namespace fedmoe
