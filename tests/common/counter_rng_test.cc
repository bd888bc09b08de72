#include "common/counter_rng.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <set>
#include <vector>

#include <gtest/gtest.h>

namespace fedmoe {
namespace {

// The streams are fixed, so these tests give one outcome for ever; a bound of 5 standard errors is
// there for whoever changes the generator.
constexpr int kDraws = 200000;
constexpr double kErrors = 5.0;

struct Moments {
  double mean = 0.0;
  double variance = 0.0;
};

template <typename Draw>
Moments MomentsOf(Draw draw) {
  std::vector<double> values(kDraws);
  std::generate(values.begin(), values.end(), draw);
  Moments moments;
  for (const double value : values) moments.mean += value / kDraws;
  for (const double value : values) {
    moments.variance += (value - moments.mean) * (value - moments.mean) / kDraws;
  }
  return moments;
}

TEST(Philox, AgreesWithThePublishedVectors) {
  // kat_vectors of Random123, philox4x32 with 10 rounds.
  using Block = std::array<std::uint32_t, 4>;
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (Block{0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8}));
  EXPECT_EQ(Philox4x32({0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF}, {0xFFFFFFFF, 0xFFFFFFFF}),
            (Block{0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD}));
  EXPECT_EQ(Philox4x32({0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344}, {0xA4093822, 0x299F31D0}),
            (Block{0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1}));
}

TEST(CounterRng, ReadsTheBlocksOfItsKeyInOrder) {
  constexpr std::uint64_t kKey = 0x299F31D0A4093822;
  CounterRng random(kKey);
  for (std::uint32_t block = 0; block < 3; ++block) {
    for (const std::uint32_t word : Philox4x32({block, 0, 0, 0}, {0xA4093822, 0x299F31D0})) {
      EXPECT_EQ(random.NextU32(), word);
    }
  }
  CounterRng words(0);
  EXPECT_EQ(words.NextU64(), 0xE169C58D6627E8D5);
}

TEST(CounterRng, CopiesGoOnAlone) {
  CounterRng random(5);
  random.NextU32();
  random.NextNormal();
  CounterRng copy = random;
  std::vector<double> first;
  for (int i = 0; i < 10; ++i) first.push_back(random.NextNormal());
  for (int i = 0; i < 10; ++i) EXPECT_EQ(copy.NextNormal(), first[static_cast<std::size_t>(i)]);
}

TEST(Keys, AreThePublishedFinaliser) {
  // The first output of SplitMix64 from state 0.
  EXPECT_EQ(MixKey({}), 0xE220A8397B1DCDAF);
}

// Pinned: a change of these values would silently change every seeded run.
TEST(Keys, NeverChangeTheirValues) {
  EXPECT_EQ(KeyOf(""), 0xF52A15E9A9B5E89B);
  EXPECT_EQ(KeyOf("client-1"), 0x38B3FD2438251CB2);
  EXPECT_EQ(MixKey({1, 2, 3}), 0x4E2889B21BA43FF3);
  EXPECT_EQ(CounterRng::For(7, "client-1", 3, "batches").NextU64(), 0x5DCF866A60DC4322);
}

TEST(Keys, DependOnEveryWordAndOnTheirOrder) {
  const std::set<std::uint64_t> keys = {MixKey({}),     MixKey({0}),    MixKey({0, 0}),
                                        MixKey({1, 2}), MixKey({2, 1}), MixKey({1, 2, 0}),
                                        MixKey({3})};
  EXPECT_EQ(keys.size(), 7u);
}

TEST(Keys, GiveEverySeedClientRoundAndPurposeItsOwnStream) {
  std::set<std::uint64_t> first_draws;
  std::size_t streams = 0;
  for (const std::uint64_t seed : {0u, 1u, 2u}) {
    for (const char* client : {"", "a", "b", "ab"}) {
      for (const std::int64_t round : {-1, 0, 1, 2}) {
        for (const char* purpose : {"init", "batches", "b"}) {
          first_draws.insert(CounterRng::For(seed, client, round, purpose).NextU64());
          ++streams;
        }
      }
    }
  }
  EXPECT_EQ(first_draws.size(), streams);
}

TEST(NextUniform, IsUniformOnTheUnitInterval) {
  CounterRng random(11);
  double lowest = 1.0;
  double highest = 0.0;
  const Moments moments = MomentsOf([&] {
    const double value = random.NextUniform();
    lowest = std::min(lowest, value);
    highest = std::max(highest, value);
    return value;
  });
  EXPECT_GE(lowest, 0.0);
  EXPECT_LT(highest, 1.0);
  EXPECT_LT(lowest, 1e-3);
  EXPECT_GT(highest, 1.0 - 1e-3);
  EXPECT_NEAR(moments.mean, 0.5, kErrors * std::sqrt(1.0 / 12.0 / kDraws));
  EXPECT_NEAR(moments.variance, 1.0 / 12.0, kErrors * std::sqrt(1.0 / 180.0 / kDraws));
}

TEST(NextNormal, IsStandardNormal) {
  CounterRng random(12);
  int within_one = 0;
  int beyond_two = 0;
  const Moments moments = MomentsOf([&] {
    const double value = random.NextNormal();
    within_one += std::abs(value) < 1.0 ? 1 : 0;
    beyond_two += std::abs(value) > 2.0 ? 1 : 0;
    return value;
  });
  EXPECT_NEAR(moments.mean, 0.0, kErrors * std::sqrt(1.0 / kDraws));
  EXPECT_NEAR(moments.variance, 1.0, kErrors * std::sqrt(2.0 / kDraws));
  EXPECT_NEAR(within_one / double{kDraws}, 0.682689, kErrors * std::sqrt(0.2166 / kDraws));
  EXPECT_NEAR(beyond_two / double{kDraws}, 0.045500, kErrors * std::sqrt(0.0434 / kDraws));
}

TEST(NextNormal, TheTwoDrawsOfAPairAreUncorrelated) {
  CounterRng random(13);
  double product = 0.0;
  for (int i = 0; i < kDraws; ++i) {
    const double first = random.NextNormal();
    product += first * random.NextNormal() / kDraws;
  }
  EXPECT_NEAR(product, 0.0, kErrors * std::sqrt(1.0 / kDraws));
}

TEST(NextGamma, HasTheMeanAndVarianceOfItsShape) {
  for (const double shape : {0.1, 0.3, 1.0, 2.5, 20.0}) {
    CounterRng random(14);
    const Moments moments = MomentsOf([&] { return random.NextGamma(shape); });
    // The fourth central moment of Gamma(a, 1) is 3 a^2 + 6 a.
    EXPECT_NEAR(moments.mean, shape, kErrors * std::sqrt(shape / kDraws)) << shape;
    EXPECT_NEAR(moments.variance, shape,
                kErrors * std::sqrt((2.0 * shape * shape + 6.0 * shape) / kDraws))
        << shape;
  }
}

TEST(NextGamma, StaysAboveZeroWhereTheTrueDrawUnderflows) {
  CounterRng random(15);
  for (int i = 0; i < 10000; ++i) ASSERT_GT(random.NextGamma(1e-3), 0.0);
}

TEST(NextBelow, DrawsEveryValueEquallyOften) {
  constexpr std::uint64_t kBound = 10;
  CounterRng random(16);
  std::vector<int> counts(kBound, 0);
  for (int i = 0; i < kDraws; ++i) {
    const std::uint64_t value = random.NextBelow(kBound);
    ASSERT_LT(value, kBound);
    ++counts[value];
  }
  double chi_square = 0.0;
  constexpr double kExpected = double{kDraws} / kBound;
  for (const int count : counts)
    chi_square += (count - kExpected) * (count - kExpected) / kExpected;
  // The 99.99 % point of chi-square with 9 degrees of freedom.
  EXPECT_LT(chi_square, 33.7);
}

TEST(NextBelow, HasNoBiasAtABoundWhereAPlainRemainderHas) {
  // Below 3/4 of 2^64, the lowest third would get half of the plain remainders.
  constexpr std::uint64_t kThird = std::uint64_t{1} << 62;
  CounterRng random(17);
  int low = 0;
  for (int i = 0; i < kDraws; ++i) low += random.NextBelow(3 * kThird) < kThird ? 1 : 0;
  EXPECT_NEAR(low / double{kDraws}, 1.0 / 3.0, kErrors * std::sqrt(2.0 / 9.0 / kDraws));
}

TEST(NextBelow, OneLeavesNoChoice) {
  CounterRng random(18);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(random.NextBelow(1), 0u);
}

TEST(Shuffle, GivesEveryOrderEquallyOftenAndRepeats) {
  CounterRng random(19);
  std::vector<int> counts(6, 0);
  constexpr int kShuffles = 60000;
  for (int i = 0; i < kShuffles; ++i) {
    std::vector<int> items = {0, 1, 2};
    random.Shuffle(items);
    ++counts[static_cast<std::size_t>(items[0] * 2 + (items[1] > items[2] ? 1 : 0))];
  }
  for (const int count : counts) {
    EXPECT_NEAR(count, kShuffles / 6.0, kErrors * std::sqrt(kShuffles * 5.0 / 36.0));
  }
  std::vector<int> once(100);
  std::iota(once.begin(), once.end(), 0);
  std::vector<int> again = once;
  CounterRng(20).Shuffle(once);
  CounterRng(20).Shuffle(again);
  EXPECT_EQ(once, again);
  EXPECT_FALSE(std::is_sorted(once.begin(), once.end()));
}

}  // namespace
}  // namespace fedmoe
