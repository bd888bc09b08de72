#include "coordinator/arrivals.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fedmoe {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class ArrivalsTest : public ::testing::Test {
 protected:
  static Arrivals<char>::Time At(int ms) { return Arrivals<char>::Time(milliseconds(ms)); }

  Arrivals<char> arrivals{milliseconds(10)};
};

TEST_F(ArrivalsTest, OneAloneDoesNotWait) {
  arrivals.Expect(1, At(0));
  EXPECT_THAT(arrivals.Arrive(1, 'a', At(5)), ElementsAre('a'));
  EXPECT_EQ(arrivals.NextDue(), std::nullopt);
}

TEST_F(ArrivalsTest, OneThatWasNotExpectedDoesNotWait) {
  EXPECT_THAT(arrivals.Arrive(7, 'a', At(0)), ElementsAre('a'));
}

TEST_F(ArrivalsTest, TheLastOneOnItsWayTakesTheOthersAlong) {
  for (const int number : {1, 2, 3}) arrivals.Expect(number, At(number));
  EXPECT_THAT(arrivals.Arrive(2, 'b', At(4)), IsEmpty());
  EXPECT_THAT(arrivals.Arrive(3, 'c', At(5)), IsEmpty());
  EXPECT_THAT(arrivals.Arrive(1, 'a', At(6)), ElementsAre('b', 'c', 'a'));
  EXPECT_THAT(arrivals.TakeDue(At(100)), IsEmpty());
}

TEST_F(ArrivalsTest, NobodyIsWaitedForLongerThanThePatience) {
  arrivals.Expect(1, At(0));
  arrivals.Expect(2, At(3));
  arrivals.Expect(3, At(4));
  EXPECT_THAT(arrivals.Arrive(2, 'b', At(5)), IsEmpty());
  EXPECT_EQ(arrivals.NextDue(), At(14)) << "until the last that is waited for";
  EXPECT_THAT(arrivals.TakeDue(At(13)), IsEmpty());
  EXPECT_THAT(arrivals.TakeDue(At(14)), ElementsAre('b'));
  EXPECT_EQ(arrivals.NextDue(), std::nullopt);
  EXPECT_THAT(arrivals.Arrive(1, 'a', At(15)), ElementsAre('a')) << "late, and alone";
}

TEST_F(ArrivalsTest, WhoBeginsLaterIsNotWaitedFor) {
  arrivals.Expect(1, At(0));
  arrivals.Expect(2, At(0));
  EXPECT_THAT(arrivals.Arrive(1, 'a', At(1)), IsEmpty());
  arrivals.Expect(3, At(2));
  arrivals.Expect(4, At(2));
  EXPECT_THAT(arrivals.Arrive(4, 'd', At(3)), IsEmpty()) << "goes with the first";
  EXPECT_THAT(arrivals.Arrive(2, 'b', At(4)), ElementsAre('a', 'd', 'b'));
  EXPECT_EQ(arrivals.NextDue(), At(12));
  EXPECT_THAT(arrivals.Arrive(3, 'c', At(5)), ElementsAre('c'));
}

// Of a client that begins uploads again and again, or of very many.
TEST_F(ArrivalsTest, AnEndlessRowOfBeginningsHoldsUpNobody) {
  arrivals.Expect(1, At(0));
  arrivals.Expect(2, At(0));
  EXPECT_THAT(arrivals.Arrive(1, 'a', At(1)), IsEmpty());
  for (int ms = 2; ms < 10; ++ms) {
    arrivals.Expect(static_cast<std::uint64_t>(ms + 1), At(ms));
    EXPECT_EQ(arrivals.NextDue(), At(10));
    EXPECT_THAT(arrivals.TakeDue(At(ms)), IsEmpty());
  }
  arrivals.Expect(50, At(11));
  ASSERT_TRUE(arrivals.NextDue().has_value());
  EXPECT_LT(*arrivals.NextDue() - At(11), milliseconds(1)) << "at once";
  EXPECT_THAT(arrivals.TakeDue(At(11)), ElementsAre('a'));
}

TEST_F(ArrivalsTest, ALateOneDoesNotMakeAnArrivalWait) {
  arrivals.Expect(1, At(0));
  arrivals.Expect(2, At(9));
  EXPECT_THAT(arrivals.Arrive(2, 'b', At(12)), ElementsAre('b'));
}

TEST_F(ArrivalsTest, WithoutAnArrivalThereIsNothingToTake) {
  arrivals.Expect(1, At(0));
  EXPECT_EQ(arrivals.NextDue(), At(10));
  EXPECT_THAT(arrivals.TakeDue(At(10)), IsEmpty());
  EXPECT_EQ(arrivals.NextDue(), std::nullopt);
}

TEST_F(ArrivalsTest, OnceClosedNobodyWaits) {
  arrivals.Expect(1, At(0));
  arrivals.Expect(2, At(0));
  EXPECT_THAT(arrivals.Arrive(1, 'a', At(1)), IsEmpty());
  EXPECT_THAT(arrivals.Close(), ElementsAre('a'));
  arrivals.Expect(3, At(2));
  EXPECT_THAT(arrivals.Arrive(2, 'b', At(2)), ElementsAre('b'));
}

}  // namespace
}  // namespace fedmoe
