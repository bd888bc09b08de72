// What a node can do: the numbers are sane and the sources are read right; no speed decides.
#include "client/benchmark.h"

#include <cmath>

#include <gtest/gtest.h>

namespace fedmoe {
namespace {

TEST(MeasureExpertFlops, IsAPositiveFiniteRate) {
  const double flops_per_s = MeasureExpertFlops(32, 48, 0.0);
  EXPECT_GT(flops_per_s, 0.0);
  EXPECT_TRUE(std::isfinite(flops_per_s));
}

TEST(ParseMemAvailable, ReadsKibibytesAsBytes) {
  EXPECT_EQ(ParseMemAvailable("MemTotal:       100 kB\nMemFree:         7 kB\n"
                              "MemAvailable:         3 kB\nBuffers:   9 kB\n"),
            3U * 1024U);
}

TEST(ParseMemAvailable, IsZeroWhereTheLineIsMissing) {
  EXPECT_EQ(ParseMemAvailable(""), 0U);
  EXPECT_EQ(ParseMemAvailable("MemTotal: 100 kB\nMemAvailable: many\n"), 0U);
}

TEST(ParseMemoryStat, FindsTheLineOfTheName) {
  const std::string stat = "anon 7\nfile 9\ninactive_file 5\nactive_file 4\n";
  EXPECT_EQ(ParseMemoryStat(stat, "inactive_file"), 5U);
  EXPECT_EQ(ParseMemoryStat(stat, "total_inactive_file"), 0U);
  EXPECT_EQ(ParseMemoryStat("", "inactive_file"), 0U);
}

TEST(MemoryLeft, CountsTheCacheAsFreeAndIsNeverNoLimit) {
  EXPECT_EQ(MemoryLeft(100, 60, 0), 40U);
  EXPECT_EQ(MemoryLeft(100, 90, 50), 60U);
  EXPECT_EQ(MemoryLeft(100, 90, 200), 100U);
  EXPECT_EQ(MemoryLeft(100, 100, 0), 1U);
  EXPECT_EQ(MemoryLeft(100, 150, 10), 1U);
}

TEST(MeasureMemoryBudget, IsSomethingOnThisMachine) { EXPECT_GT(MeasureMemoryBudget(), 0U); }

}  // namespace
}  // namespace fedmoe
