#include "coordinator/transfer_count.h"

#include <gtest/gtest.h>

namespace fedmoe {
namespace {

TEST(TransferCountTest, RefusesWhoHoldsTheMostUntilOneIsGivenUp) {
  TransferCount count;
  auto first = count.Take("a", 2, "uploads").value();
  const auto second = count.Take("a", 2, "uploads").value();
  EXPECT_EQ(count.Take("a", 2, "uploads").status(),
            ResourceExhausted("client 'a' has 2 uploads under way already; ask again when one has "
                              "ended"));
  EXPECT_TRUE(count.Take("b", 2, "uploads").ok()) << "of another client";
  first.reset();
  EXPECT_TRUE(count.Take("a", 2, "uploads").ok());
}

TEST(TransferCountTest, DoesNotGrowWithClientsThatHaveCome) {
  TransferCount count;
  const auto held = count.Take("stays", 1, "uploads").value();
  for (int i = 0; i < 10'000; ++i) {
    ASSERT_TRUE(count.Take("client " + std::to_string(i), 1, "uploads").ok());
    ASSERT_LE(count.clients(), 130u);
  }
  EXPECT_FALSE(count.Take("stays", 1, "uploads").ok());
}

}  // namespace
}  // namespace fedmoe
