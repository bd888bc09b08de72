#include "kernels/expert_routing.h"

#include <vector>

#include <gtest/gtest.h>

namespace fedmoe {
namespace {

using Rows = std::vector<std::int64_t>;

TEST(RouteTokens, SortsSlotsByExpertAndKeepsTheirOrder) {
  const ExpertRouting routing = RouteTokens(Rows{2, 0, 0, 2, 2, 3}, 2, 4);
  EXPECT_EQ(routing.tokens, 3);
  EXPECT_EQ(routing.slots, 2);
  EXPECT_EQ(routing.experts(), 4);
  EXPECT_EQ(routing.rows(), 6);
  EXPECT_EQ(routing.offsets, (Rows{0, 2, 2, 5, 6}));
  EXPECT_EQ(routing.slot_row, (Rows{1, 2, 0, 3, 4, 5}));
  EXPECT_EQ(routing.place, (Rows{2, 0, 1, 3, 4, 5}));
  EXPECT_EQ(routing.RowsOf(1), 0);
  EXPECT_EQ(routing.RowsOf(2), 3);
}

TEST(RouteTokens, LeavesOutTheSlotsOfNoExpert) {
  const ExpertRouting routing = RouteTokens(Rows{-1, 1, 0, -1}, 2, 2);
  EXPECT_EQ(routing.rows(), 2);
  EXPECT_EQ(routing.offsets, (Rows{0, 1, 2}));
  EXPECT_EQ(routing.slot_row, (Rows{2, 1}));
  EXPECT_EQ(routing.place, (Rows{-1, 1, 0, -1}));
}

TEST(RouteTokens, TakesAnEmptyBatch) {
  const ExpertRouting routing = RouteTokens({}, 2, 3);
  EXPECT_EQ(routing.tokens, 0);
  EXPECT_EQ(routing.rows(), 0);
  EXPECT_EQ(routing.offsets, (Rows{0, 0, 0, 0}));
}

}  // namespace
}  // namespace fedmoe
