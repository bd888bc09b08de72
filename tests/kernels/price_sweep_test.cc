#include "kernels/price_sweep.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "common/counter_rng.h"

namespace fedmoe {
namespace {

struct Rows {
  std::vector<std::int64_t> profit;
  std::vector<std::int64_t> price;
  std::vector<int> capacity;
  std::vector<std::int32_t> rows;
};

// Few levels where `levels` is small, so that there are ties.
Rows RandomRows(CounterRng& rng, std::size_t experts, std::uint64_t levels) {
  Rows made;
  const std::size_t clients = 1 + rng.NextBelow(20);
  const auto draw = [&] {
    return static_cast<std::int64_t>(rng.NextBelow(levels)) - static_cast<std::int64_t>(levels / 2);
  };
  for (std::size_t i = 0; i < clients * experts; ++i) made.profit.push_back(draw());
  for (std::size_t e = 0; e < experts; ++e) made.price.push_back(draw());
  for (std::size_t c = 0; c < clients; ++c) {
    made.capacity.push_back(static_cast<int>(rng.NextBelow(experts + 1)));
    if (rng.NextBelow(4) > 0) made.rows.push_back(static_cast<std::int32_t>(c));
  }
  return made;
}

// Columns of the row, greatest profit less price first, ties by column.
std::vector<int> Ranking(const Rows& rows, std::size_t client) {
  const std::size_t experts = rows.price.size();
  std::vector<int> order(experts);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    const auto value = [&](int e) {
      const auto column = static_cast<std::size_t>(e);
      return rows.profit[client * experts + column] - rows.price[column];
    };
    return value(a) > value(b);
  });
  return order;
}

// Loads, value and margins by sorting every row.
void ExpectSweep(const Rows& rows, std::span<const ChoiceMargin> margins,
                 const std::vector<std::int64_t>& load, double value) {
  const std::size_t experts = rows.price.size();
  std::vector<std::int64_t> expected_load(experts, 0);
  double expected_value = 0.0;
  for (std::size_t i = 0; i < rows.rows.size(); ++i) {
    const auto client = static_cast<std::size_t>(rows.rows[i]);
    const std::vector<int> order = Ranking(rows, client);
    const auto at = [&](std::size_t rank) {
      const auto column = static_cast<std::size_t>(order[rank]);
      return rows.profit[client * experts + column] - rows.price[column];
    };
    const auto take = static_cast<std::size_t>(rows.capacity[client]);
    for (std::size_t rank = 0; rank < take; ++rank) {
      ++expected_load[static_cast<std::size_t>(order[rank])];
      expected_value += static_cast<double>(at(rank));
    }
    if (take == 0 || take == experts) {
      EXPECT_EQ(margins[i].inside, -1);
      EXPECT_EQ(margins[i].outside, -1);
      continue;
    }
    EXPECT_EQ(margins[i].inside, order[take - 1]);
    EXPECT_EQ(margins[i].outside, order[take]);
    EXPECT_EQ(margins[i].gap, at(take - 1) - at(take));
    EXPECT_EQ(margins[i].outside_value, at(take));
  }
  EXPECT_EQ(load, expected_load);
  EXPECT_EQ(value, expected_value);
}

TEST(PriceSweep, EqualsSortingEveryRow) {
  CounterRng rng(5);
  for (int trial = 0; trial < 400; ++trial) {
    SCOPED_TRACE("trial " + std::to_string(trial));
    // Both the insertion and the selection of long lists.
    const std::size_t experts = 1 + rng.NextBelow(trial % 2 == 0 ? 12 : 70);
    const Rows rows = RandomRows(rng, experts, trial % 3 == 0 ? 4 : 1000000);
    std::vector<std::int64_t> load(experts, 0);
    std::vector<ChoiceMargin> margins(rows.rows.size());
    SweepTotals totals{load};
    SweepPrices(rows.profit, rows.price, rows.capacity, rows.rows, totals, margins);
    ExpectSweep(rows, margins, load, totals.value);

    // Again with what is known by now as floors: the same.
    std::vector<std::int64_t> again(experts, 0);
    SweepTotals second{again};
    SweepPrices(rows.profit, rows.price, rows.capacity, rows.rows, second, margins);
    ExpectSweep(rows, margins, again, second.value);
    if (HasFailure()) return;
  }
}

TEST(PriceSweep, AddsToWhatIsThere) {
  const std::vector<std::int64_t> profit{5, 1};
  const std::vector<std::int64_t> price{0, 0};
  const std::vector<int> capacity{1};
  const std::vector<std::int32_t> rows{0};
  std::vector<std::int64_t> load{10, 20};
  std::vector<ChoiceMargin> margins(1);
  SweepTotals totals{load, 100.0};
  SweepPrices(profit, price, capacity, rows, totals, margins);
  EXPECT_EQ(load, (std::vector<std::int64_t>{11, 20}));
  EXPECT_EQ(totals.value, 105.0);
}

}  // namespace
}  // namespace fedmoe
