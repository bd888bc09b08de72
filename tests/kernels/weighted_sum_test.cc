#include "kernels/weighted_sum.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "common/counter_rng.h"

namespace fedmoe {
namespace {

constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

std::vector<std::uint32_t> Bits(const std::vector<float>& values) {
  std::vector<std::uint32_t> bits;
  for (const float value : values) bits.push_back(std::bit_cast<std::uint32_t>(value));
  return bits;
}

std::vector<float> RandomValues(CounterRng& rng, std::size_t count) {
  std::vector<float> values(count);
  // Magnitudes from 2^-20 to 2^20, so that the order of the sum shows in its bits.
  for (float& value : values) {
    value = static_cast<float>(rng.NextNormal() * std::exp2(40.0 * rng.NextUniform() - 20.0));
  }
  return values;
}

TEST(WeightedSum, AddsWeightTimesSource) {
  const std::vector<float> a{1.0F, 2.0F, 3.0F};
  const std::vector<float> b{10.0F, -20.0F, 0.5F};
  const std::vector<const float*> sources{a.data(), b.data()};
  const std::vector<double> weights{0.25, 0.75};
  std::vector<float> out(3, kPoison);
  WeightedSum(sources, weights, out);
  EXPECT_EQ(out, (std::vector<float>{7.75F, -14.5F, 1.125F}));
}

TEST(WeightedSum, SumsInDoubleAndRoundsOnce) {
  // In float, 1e8 + 1 is 1e8 and the one would be lost.
  const std::vector<float> big{1e8F};
  const std::vector<float> one{1.0F};
  const std::vector<float> minus{-1e8F};
  const std::vector<const float*> sources{big.data(), one.data(), minus.data()};
  const std::vector<double> weights{1.0, 1.0, 1.0};
  std::vector<float> out(1, kPoison);
  WeightedSum(sources, weights, out);
  EXPECT_EQ(out[0], 1.0F);
}

TEST(WeightedSum, SumsInSourceOrder) {
  // (2^60 - 2^60) + 1 is 1, (2^60 + 1) - 2^60 is 0 in float64.
  const std::vector<float> big{0x1p60F};
  const std::vector<float> one{1.0F};
  const std::vector<const float*> cancelled_first{big.data(), big.data(), one.data()};
  const std::vector<const float*> cancelled_last{big.data(), one.data(), big.data()};
  std::vector<float> out(1, kPoison);
  WeightedSum(cancelled_first, std::vector<double>{1.0, -1.0, 1.0}, out);
  EXPECT_EQ(out[0], 1.0F);
  WeightedSum(cancelled_last, std::vector<double>{1.0, 1.0, -1.0}, out);
  EXPECT_EQ(out[0], 0.0F);
}

TEST(WeightedSum, DoesNotReadASourceOfWeightZero) {
  const std::vector<float> a{2.0F};
  const std::vector<float> poisoned{kPoison};
  const std::vector<const float*> sources{poisoned.data(), a.data(), nullptr};
  const std::vector<double> weights{0.0, 0.5, 0.0};
  std::vector<float> out(1, kPoison);
  WeightedSum(sources, weights, out);
  EXPECT_EQ(out[0], 1.0F);
  out[0] = kPoison;
  WeightedSumReference(sources, weights, out);
  EXPECT_EQ(out[0], 1.0F);
}

TEST(WeightedSum, GivesZerosWithoutASource) {
  std::vector<float> out(5, kPoison);
  WeightedSum({}, {}, out);
  EXPECT_EQ(Bits(out), std::vector<std::uint32_t>(5, 0));
}

TEST(WeightedSum, EqualsTheReferenceBitForBit) {
  constexpr std::uint64_t kSeed = 20260101;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  CounterRng rng(kSeed);
  for (const std::size_t size :
       {0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 255, 1023, 1024, 1025, 2049, 4999}) {
    for (const std::size_t count : {1, 2, 3, 5, 8}) {
      std::vector<std::vector<float>> values;
      std::vector<const float*> sources;
      std::vector<double> weights;
      for (std::size_t s = 0; s < count; ++s) {
        values.push_back(RandomValues(rng, size + 1));
        weights.push_back(s == 1 ? 0.0 : rng.NextUniform());
      }
      // An offset of one float: nothing may rely on alignment.
      for (const std::vector<float>& source : values) sources.push_back(source.data() + 1);
      std::vector<float> fast(size, kPoison);
      std::vector<float> reference(size, kPoison);
      WeightedSum(sources, weights, fast);
      WeightedSumReference(sources, weights, reference);
      ASSERT_EQ(Bits(fast), Bits(reference)) << size << " values, " << count << " sources";
    }
  }
}

TEST(WeightedSum, GroupsOfSourcesGiveTheSameBits) {
  constexpr std::uint64_t kSeed = 20260102;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  CounterRng rng(kSeed);
  for (const std::size_t size : {1, 17, 1023, 1024, 2049}) {
    std::vector<std::vector<float>> values;
    std::vector<const float*> sources;
    std::vector<double> weights;
    for (std::size_t s = 0; s < 7; ++s) {
      values.push_back(RandomValues(rng, size));
      weights.push_back(s == 4 ? 0.0 : rng.NextUniform());
    }
    for (const std::vector<float>& source : values) sources.push_back(source.data());
    std::vector<float> whole(size, kPoison);
    WeightedSum(sources, weights, whole);
    for (const std::size_t group : {1, 2, 3, 7}) {
      std::vector<double> sums(size, 0.0);
      for (std::size_t first = 0; first < sources.size(); first += group) {
        const std::size_t count = std::min(group, sources.size() - first);
        AccumulateWeighted(std::span(sources).subspan(first, count),
                           std::span(weights).subspan(first, count), sums);
      }
      std::vector<float> grouped(size, kPoison);
      RoundSums(sums, grouped);
      ASSERT_EQ(Bits(grouped), Bits(whole)) << size << " values in groups of " << group;
    }
  }
}

TEST(WeightedSum, WritesNothingPastTheOutput) {
  const std::vector<float> a(1030, 1.0F);
  const std::vector<const float*> sources{a.data()};
  const std::vector<double> weights{1.0};
  std::vector<float> out(1030, -7.0F);
  WeightedSum(sources, weights, std::span(out).subspan(1, 1027));
  EXPECT_EQ(out[0], -7.0F);
  EXPECT_EQ(out[1], 1.0F);
  EXPECT_EQ(out[1027], 1.0F);
  EXPECT_EQ(out[1028], -7.0F);
  EXPECT_EQ(out[1029], -7.0F);
}

TEST(AllFinite, FindsASingleBadValueAnywhere) {
  constexpr std::size_t kSize = 16'384 + 37;
  std::vector<float> values(kSize, 1.0F);
  values[3] = std::numeric_limits<float>::max();
  values[4] = std::numeric_limits<float>::lowest();
  values[5] = std::numeric_limits<float>::denorm_min();
  EXPECT_TRUE(AllFinite(values));
  EXPECT_TRUE(AllFinite({}));
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {kPoison, -kPoison, infinity, -infinity}) {
    for (const std::size_t place :
         {std::size_t{0}, std::size_t{1}, std::size_t{16'383}, std::size_t{16'384}, kSize - 1}) {
      const float before = values[place];
      values[place] = bad;
      EXPECT_FALSE(AllFinite(values)) << bad << " at " << place;
      values[place] = before;
    }
  }
  EXPECT_TRUE(AllFinite(values));
}

}  // namespace
}  // namespace fedmoe
