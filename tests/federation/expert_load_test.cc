#include "federation/expert_load.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fedmoe {
namespace {

using testing::DoubleEq;
using testing::ElementsAre;

TEST(CoefficientOfVariation, IsThePopulationDeviationOverTheMean) {
  // Mean 5, squared deviations 9 1 1 1 0 0 4 16, variance 4.
  EXPECT_DOUBLE_EQ(CoefficientOfVariation(std::vector<double>{2, 4, 4, 4, 5, 5, 7, 9}), 0.4);
  EXPECT_DOUBLE_EQ(CoefficientOfVariation(std::vector<std::int64_t>{2, 4, 4, 4, 5, 5, 7, 9}), 0.4);
  EXPECT_DOUBLE_EQ(CoefficientOfVariation(std::vector<std::int64_t>{0, 0, 0, 4}), std::sqrt(3.0));
  EXPECT_EQ(CoefficientOfVariation(std::vector<double>{3, 3, 3}), 0.0);
}

TEST(CoefficientOfVariation, IsZeroWhereTheMeanIs) {
  EXPECT_EQ(CoefficientOfVariation(std::vector<double>{}), 0.0);
  EXPECT_EQ(CoefficientOfVariation(std::vector<std::int64_t>{0, 0}), 0.0);
}

TEST(IntegerFloorCv, IsTheCvOfTheMostEvenSplit) {
  EXPECT_EQ(IntegerFloorCv(16, 8), 0.0);
  EXPECT_DOUBLE_EQ(IntegerFloorCv(10, 8),
                   CoefficientOfVariation(std::vector<std::int64_t>{2, 2, 1, 1, 1, 1, 1, 1}));
  EXPECT_DOUBLE_EQ(IntegerFloorCv(3, 4),
                   CoefficientOfVariation(std::vector<std::int64_t>{1, 1, 1, 0}));
  // Mean 2.5, deviation 0.5.
  EXPECT_DOUBLE_EQ(IntegerFloorCv(5, 2), 0.2);
  EXPECT_EQ(IntegerFloorCv(0, 4), 0.0);
  EXPECT_EQ(IntegerFloorCv(4, 0), 0.0);
}

TEST(BoundsFor, RoundTheTargetOutwards) {
  // 10 assignments over 4 experts: 2.5 each.
  const LoadBounds bounds = BoundsFor(ExpertLoad::Of(4), std::vector<int>{2, 3, 1, 4}, {});
  EXPECT_EQ(bounds.target, 2.5);
  EXPECT_THAT(bounds.lower, ElementsAre(2, 2, 2, 2));
  EXPECT_THAT(bounds.upper, ElementsAre(3, 3, 3, 3));
}

TEST(BoundsFor, WidenWithTheSlack) {
  // (1 - 0.5) 2.5 = 1.25 down to 1; (1 + 0.5) 2.5 = 3.75 up to 4.
  const LoadBounds bounds =
      BoundsFor(ExpertLoad::Of(4), std::vector<int>{2, 3, 1, 4}, {.slack = 0.5});
  EXPECT_THAT(bounds.lower, ElementsAre(1, 1, 1, 1));
  EXPECT_THAT(bounds.upper, ElementsAre(4, 4, 4, 4));
}

TEST(BoundsFor, ShiftWithTheDeficit) {
  ExpertLoad load = ExpertLoad::Of(4);
  load.deficit = {1.5, 0.0, -0.5, -1.0};
  // 8 clients of one expert: target 2; sums 3.5, 2, 1.5, 1.
  const LoadBounds bounds = BoundsFor(load, std::vector<int>(8, 1), {});
  EXPECT_THAT(bounds.lower, ElementsAre(3, 2, 1, 1));
  EXPECT_THAT(bounds.upper, ElementsAre(4, 2, 2, 1));
}

TEST(BoundsFor, StayWithinZeroAndTheNumberOfClients) {
  ExpertLoad load = ExpertLoad::Of(2);
  load.deficit = {2.0, -2.0};
  // Target 1: sums 3 and -1, of two clients.
  const LoadBounds bounds = BoundsFor(load, std::vector<int>{1, 1}, {});
  EXPECT_THAT(bounds.lower, ElementsAre(2, 0));
  EXPECT_THAT(bounds.upper, ElementsAre(2, 0));
}

TEST(BoundsFor, TakeWholeNumbersThatRoundingMissedAsWhole) {
  ExpertLoad load = ExpertLoad::Of(3);
  const LoadOptions options;
  const std::vector<double> tokens(3, 0.0);
  // Four assignments over three experts; after three rounds each deficit is a whole number.
  for (const std::vector<std::int64_t>& round :
       {std::vector<std::int64_t>{2, 1, 1}, {1, 2, 1}, {1, 1, 2}}) {
    RecordRound(load, round, tokens, options);
  }
  const LoadBounds bounds = BoundsFor(load, std::vector<int>{3, 3, 3}, options);
  EXPECT_THAT(bounds.lower, ElementsAre(3, 3, 3));
  EXPECT_THAT(bounds.upper, ElementsAre(3, 3, 3));
}

TEST(RecordRound, AddsTotalsAndMovesTheAverage) {
  ExpertLoad load = ExpertLoad::Of(2);
  const LoadOptions options{.average_beta = 0.25};
  RecordRound(load, std::vector<std::int64_t>{3, 1}, std::vector<double>{80, 40}, options);
  RecordRound(load, std::vector<std::int64_t>{1, 1}, std::vector<double>{0, 20}, options);
  EXPECT_THAT(load.assignments, ElementsAre(4, 2));
  EXPECT_THAT(load.round_assignments, ElementsAre(1, 1));
  EXPECT_THAT(load.tokens, ElementsAre(80, 60));
  EXPECT_THAT(load.round_tokens, ElementsAre(0, 20));
  // 0.25 * 80 = 20, then 0.75 * 20; 0.25 * 40 = 10, then 0.75 * 10 + 0.25 * 20.
  EXPECT_THAT(load.average_tokens, ElementsAre(DoubleEq(15.0), DoubleEq(12.5)));
}

TEST(RecordRound, AddsTargetMinusActualToTheDeficitAndClips) {
  ExpertLoad load = ExpertLoad::Of(2);
  const std::vector<double> tokens(2, 0.0);
  RecordRound(load, std::vector<std::int64_t>{3, 0}, tokens, {});  // target 1.5
  EXPECT_THAT(load.deficit, ElementsAre(DoubleEq(-1.5), DoubleEq(1.5)));
  RecordRound(load, std::vector<std::int64_t>{3, 0}, tokens, {});  // would be 3
  EXPECT_THAT(load.deficit, ElementsAre(DoubleEq(-2.0), DoubleEq(2.0)));
  RecordRound(load, std::vector<std::int64_t>{0, 1}, tokens, {});  // target 0.5
  EXPECT_THAT(load.deficit, ElementsAre(DoubleEq(-1.5), DoubleEq(1.5)));
}

TEST(RecordRound, TakesEachLayersMeanAsItsTarget) {
  ExpertLoad load = ExpertLoad::Of(4);
  RecordRound(load, std::vector<std::int64_t>{2, 0, 1, 0}, std::vector<double>(4, 0.0), {}, 2);
  // Targets 1 and 1/2; over all it would be 3/4.
  EXPECT_THAT(load.deficit,
              ElementsAre(DoubleEq(-1.0), DoubleEq(1.0), DoubleEq(-0.5), DoubleEq(0.5)));
}

}  // namespace
}  // namespace fedmoe
