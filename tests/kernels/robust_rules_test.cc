#include "kernels/robust_rules.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "common/counter_rng.h"

namespace fedmoe {
namespace {

constexpr std::uint64_t kSeed = 20260221;
constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

ParallelFor BackwardThreads() {
  return [](int parts, const std::function<void(int)>& body) {
    std::vector<std::jthread> threads;
    for (int part = parts - 1; part >= 0; --part) threads.emplace_back([&, part] { body(part); });
  };
}

// Updates as float32, with many equal values and zeros of both signs.
struct Updates {
  Updates(CounterRng& rng, std::size_t clients, std::size_t size) {
    for (std::size_t s = 0; s < clients; ++s) {
      values.emplace_back(size);
      for (float& value : values.back()) {
        value = rng.NextBelow(4) == 0 ? (rng.NextBelow(2) == 0 ? 0.0F : -0.0F)
                                      : static_cast<float>(rng.NextNormal());
      }
    }
    for (const std::vector<float>& each : values) {
      sources.push_back({Encoding::kFloat32, 0, size, std::as_bytes(std::span(each))});
    }
  }

  std::vector<std::vector<float>> values;
  std::vector<EncodedValues> sources;
};

std::vector<float> SortedColumn(const Updates& updates, std::size_t i) {
  std::vector<float> column;
  for (const std::vector<float>& each : updates.values) column.push_back(each[i]);
  std::sort(column.begin(), column.end());
  return column;
}

bool SameBits(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

TEST(RobustRules, MedianAndTrimmedMeanAreThoseOfSortedColumns) {
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  CounterRng rng(kSeed);
  for (std::size_t clients = 1; clients <= 19; ++clients) {
    const Updates updates(rng, clients, 700);
    std::vector<float> median(700, kPoison);
    ASSERT_TRUE(CoordinateMedian(updates.sources, 0, median).ok());
    const int trim = static_cast<int>((clients - 1) / 3);
    std::vector<float> trimmed(700, kPoison);
    ASSERT_TRUE(TrimmedMean(updates.sources, trim, 0, trimmed).ok());
    for (std::size_t i = 0; i < 700; ++i) {
      const std::vector<float> column = SortedColumn(updates, i);
      const double middle = (0.0 + static_cast<double>(column[(clients - 1) / 2]) +
                             static_cast<double>(column[clients / 2])) /
                            2.0;
      ASSERT_TRUE(SameBits(median[i], static_cast<float>(middle))) << clients << " clients, " << i;
      const double sum = std::accumulate(column.begin() + trim, column.end() - trim, 0.0);
      const double mean = sum / static_cast<double>(clients - 2 * static_cast<std::size_t>(trim));
      ASSERT_TRUE(SameBits(trimmed[i], static_cast<float>(mean))) << clients << " clients, " << i;
    }
  }
}

TEST(RobustRules, OrderThreadsAndWindowsDoNotChangeABit) {
  SCOPED_TRACE("seed " + std::to_string(kSeed + 1));
  CounterRng rng(kSeed + 1);
  constexpr std::size_t kSize = 300'000;
  const Updates updates(rng, 5, kSize);
  std::vector<EncodedValues> backward(updates.sources.rbegin(), updates.sources.rend());
  std::vector<float> median(kSize, kPoison);
  std::vector<float> other(kSize, kPoison);
  ASSERT_TRUE(CoordinateMedian(updates.sources, 0, median).ok());
  ASSERT_TRUE(CoordinateMedian(backward, 0, other, BackwardThreads()).ok());
  EXPECT_TRUE(std::equal(median.begin(), median.end(), other.begin(), SameBits));
  std::vector<float> window(1000, kPoison);
  ASSERT_TRUE(CoordinateMedian(updates.sources, 262'000, window).ok());
  EXPECT_TRUE(std::equal(window.begin(), window.end(), median.begin() + 262'000, SameBits));

  std::vector<double> distances(25, 0.0);
  ASSERT_TRUE(AddSquaredDistances(updates.sources, 0, kSize, distances).ok());
  std::vector<double> threaded(25, 0.0);
  ASSERT_TRUE(AddSquaredDistances(updates.sources, 0, kSize, threaded, BackwardThreads()).ok());
  EXPECT_EQ(threaded, distances);
  std::vector<double> windows(25, 0.0);
  ASSERT_TRUE(AddSquaredDistances(updates.sources, 0, 1 << 18, windows).ok());
  ASSERT_TRUE(AddSquaredDistances(updates.sources, 1 << 18, kSize - (1 << 18), windows).ok());
  EXPECT_EQ(windows, distances);
}

TEST(RobustRules, DistancesAndNormsAreThoseOfPlainLoops) {
  SCOPED_TRACE("seed " + std::to_string(kSeed + 2));
  CounterRng rng(kSeed + 2);
  for (const std::size_t size : {1, 7, 8, 511, 513, 5000}) {
    const Updates updates(rng, 6, size);
    std::vector<double> distances(36, 0.0);
    ASSERT_TRUE(AddSquaredDistances(updates.sources, 0, size, distances).ok());
    std::vector<double> norms(6, 0.0);
    ASSERT_TRUE(AddSquaredNorms(updates.sources, 0, size, norms).ok());
    for (std::size_t a = 0; a < 6; ++a) {
      double norm = 0.0;
      for (const float value : updates.values[a]) norm += std::pow(double{value}, 2);
      ASSERT_NEAR(norms[a], norm, 1e-12 * norm + 1e-30);
      for (std::size_t b = 0; b < 6; ++b) {
        double distance = 0.0;
        for (std::size_t i = 0; i < size; ++i) {
          distance += std::pow(double{updates.values[a][i]} - double{updates.values[b][i]}, 2);
        }
        ASSERT_NEAR(distances[a * 6 + b], distance, 1e-6 * distance + 1e-30) << a << " " << b;
        ASSERT_EQ(distances[a * 6 + b], distances[b * 6 + a]);
      }
    }
  }
}

TEST(RobustRules, ReadEveryEncoding) {
  SCOPED_TRACE("seed " + std::to_string(kSeed + 3));
  CounterRng rng(kSeed + 3);
  constexpr std::size_t kSize = 1000;
  const Updates updates(rng, kEncodings, kSize);
  std::vector<std::vector<std::byte>> payloads;
  std::vector<EncodedValues> sources;
  std::vector<std::vector<float>> decoded;
  for (std::uint32_t s = 0; s < kEncodings; ++s) {
    const auto encoding = static_cast<Encoding>(s);
    payloads.emplace_back(EncodedBytes(encoding, kSize, 100));
    ASSERT_TRUE(EncodeValues(encoding, updates.values[s], 0, s, payloads.back()).ok());
    sources.push_back({encoding, 0, kSize, payloads.back()});
    decoded.emplace_back(kSize);
    ASSERT_TRUE(DecodeValues(sources.back(), 0, decoded.back()).ok());
  }
  std::vector<EncodedValues> floats;
  for (const std::vector<float>& each : decoded) {
    floats.push_back({Encoding::kFloat32, 0, kSize, std::as_bytes(std::span(each))});
  }
  std::vector<float> a(kSize, kPoison);
  std::vector<float> b(kSize, kPoison);
  ASSERT_TRUE(TrimmedMean(sources, 1, 0, a).ok());
  ASSERT_TRUE(TrimmedMean(floats, 1, 0, b).ok());
  EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), SameBits));
}

// Every set of the nearest others, by trying all of them.
double BruteForceScore(const std::vector<double>& distances, int n, int source, int nearest) {
  double least = std::numeric_limits<double>::infinity();
  for (unsigned set = 0; set < (1U << n); ++set) {
    if ((set >> source & 1U) != 0 || std::popcount(set) != nearest) continue;
    double sum = 0.0;
    for (int b = 0; b < n; ++b) {
      if ((set >> b & 1U) != 0) sum += distances[static_cast<std::size_t>(source * n + b)];
    }
    least = std::min(least, sum);
  }
  return least;
}

TEST(Krum, SelectsWhatBruteForceSelects) {
  SCOPED_TRACE("seed " + std::to_string(kSeed + 4));
  CounterRng rng(kSeed + 4);
  for (int trial = 0; trial < 60; ++trial) {
    const int attackers = static_cast<int>(rng.NextBelow(4));
    const int n = 2 * attackers + 3 + static_cast<int>(rng.NextBelow(3));
    std::vector<double> distances(static_cast<std::size_t>(n * n), 0.0);
    for (int a = 0; a < n; ++a) {
      for (int b = a + 1; b < n; ++b) {
        // Whole numbers, so that scores tie and sums are exact.
        const double distance = static_cast<double>(rng.NextBelow(5));
        distances[static_cast<std::size_t>(a * n + b)] = distance;
        distances[static_cast<std::size_t>(b * n + a)] = distance;
      }
    }
    std::vector<std::pair<double, int>> scores;
    for (int a = 0; a < n; ++a) {
      scores.emplace_back(BruteForceScore(distances, n, a, n - attackers - 2), a);
    }
    std::sort(scores.begin(), scores.end());
    for (const int selected : {1, n - attackers}) {
      std::vector<int> expected;
      for (int i = 0; i < selected; ++i)
        expected.push_back(scores[static_cast<std::size_t>(i)].second);
      std::sort(expected.begin(), expected.end());
      const auto chosen = SelectByKrum(distances, n, attackers, selected);
      ASSERT_TRUE(chosen.ok());
      ASSERT_EQ(*chosen, expected) << n << " sources, " << attackers << " attackers";
    }
  }
}

TEST(Krum, LeavesOutTheOneThatLies) {
  CounterRng rng(kSeed + 5);
  Updates updates(rng, 7, 100);
  for (std::size_t s = 0; s < 7; ++s) {
    for (std::size_t i = 0; i < 100; ++i) {
      updates.values[s][i] = 1.0F + 0.01F * updates.values[s][i] + (s == 2 ? 5.0F : 0.0F);
    }
  }
  std::vector<double> distances(49, 0.0);
  ASSERT_TRUE(AddSquaredDistances(updates.sources, 0, 100, distances).ok());
  EXPECT_EQ(*SelectByKrum(distances, 7, 1, 6), (std::vector<int>{0, 1, 3, 4, 5, 6}));
}

TEST(Krum, AsksForEnoughSources) {
  const std::vector<double> distances(16, 0.0);
  EXPECT_EQ(SelectByKrum(distances, 4, 1, 1).status().message(),
            "krum against 1 attackers needs 5 sources, there are 4");
  EXPECT_EQ(SelectByKrum(distances, 4, 0, 5).status().message(),
            "krum can select 1 to 4 sources, not 5");
  EXPECT_EQ(SelectByKrum(distances, 3, 0, 1).status().message(), "a table of 9 sums has 16");
}

TEST(RobustRules, RefuseWhatTheyCannotDo) {
  CounterRng rng(kSeed + 6);
  const Updates updates(rng, 4, 10);
  std::vector<float> out(10);
  EXPECT_EQ(TrimmedMean(updates.sources, 2, 0, out).message(),
            "a mean of 4 sources cannot be trimmed by 2 at each end");
  EXPECT_EQ(TrimmedMean(updates.sources, -1, 0, out).message(),
            "a mean of 4 sources cannot be trimmed by -1 at each end");
  EXPECT_EQ(CoordinateMedian({}, 0, out).message(), "a median needs at least one source");
  EXPECT_EQ(CoordinateMedian(updates.sources, 1, out).message(),
            "source 0: elements 1 to 11 are not within 0 to 10");
  std::vector<double> table(3, 0.0);
  EXPECT_EQ(AddSquaredNorms(updates.sources, 0, 10, table).message(), "a table of 4 sums has 3");
}

TEST(ClipFactor, BringsTheNormToTheLimit) {
  EXPECT_EQ(ClipFactor(4.0, 2.0), 1.0);
  EXPECT_EQ(ClipFactor(0.0, 2.0), 1.0);
  EXPECT_DOUBLE_EQ(ClipFactor(100.0, 2.0), 0.2);
}

}  // namespace
}  // namespace fedmoe
