#include "wire/chunk_pacer.h"

#include <gtest/gtest.h>

namespace fedmoe {
namespace {

constexpr std::size_t kKiB = 1024;

// The chunks of a transfer over a link of `bytes_per_s`, each of which also waits `delay_s`.
ChunkPacer After(int chunks, double bytes_per_s, double delay_s = 0.0, std::size_t transfers = 1) {
  ChunkPacer pacer(transfers);
  for (int i = 0; i < chunks; ++i) {
    const auto bytes = static_cast<double>(pacer.next_bytes());
    pacer.Record(pacer.next_bytes(), bytes / bytes_per_s + delay_s);
  }
  return pacer;
}

TEST(ChunkPacerTest, BeginsSmallAndUnknown) {
  const ChunkPacer pacer(1);
  EXPECT_EQ(pacer.next_bytes(), 128 * kKiB);
  EXPECT_FALSE(pacer.fast());
}

TEST(ChunkPacerTest, AFastLinkGetsWholeChunksInSteps) {
  EXPECT_EQ(After(1, 1e9).next_bytes(), 512 * kKiB);
  EXPECT_EQ(After(2, 1e9).next_bytes(), kWireChunkBytes);
  EXPECT_TRUE(After(1, 1e9).fast());
}

TEST(ChunkPacerTest, ASlowLinkGetsWhatItMovesInTwoSeconds) {
  EXPECT_EQ(After(1, 32.0 * kKiB).next_bytes(), 64 * kKiB);
  EXPECT_EQ(After(3, 1.0 * kKiB).next_bytes(), 16 * kKiB);
  EXPECT_FALSE(After(1, 32.0 * kKiB).fast());
}

// Chunks that waiting made short would wait for less, and so on down.
TEST(ChunkPacerTest, DelayAloneDoesNotShortenChunks) {
  EXPECT_EQ(After(8, 1e9, 0.3).next_bytes(), kWireChunkBytes);
  EXPECT_EQ(After(8, 1e9, 1.5).next_bytes(), kWireChunkBytes);
}

TEST(ChunkPacerTest, ALinkThatBecomesSlowIsFollowedAtOnce) {
  ChunkPacer pacer = After(4, 1e9);
  pacer.Record(kWireChunkBytes, 64.0);
  EXPECT_EQ(pacer.next_bytes(), 32 * kKiB);
  EXPECT_FALSE(pacer.fast());
}

TEST(ChunkPacerTest, ManyTransfersShareEightMiB) {
  EXPECT_EQ(After(8, 1e9, 0.0, 8).next_bytes(), 1024 * kKiB);
  EXPECT_EQ(After(8, 1e9, 0.0, 16).next_bytes(), 512 * kKiB);
  EXPECT_EQ(After(8, 1e9, 0.0, 64).next_bytes(), 128 * kKiB);
  EXPECT_EQ(After(8, 1e9, 0.0, 10'000).next_bytes(), 128 * kKiB);
  ChunkPacer pacer = After(8, 1e9);
  pacer.Share(32);
  EXPECT_EQ(pacer.next_bytes(), 256 * kKiB);
}

TEST(ChunkPacerTest, AShortLastChunkTellsNothing) {
  ChunkPacer pacer = After(4, 1e9);
  pacer.Record(100, 10.0);
  EXPECT_EQ(pacer.next_bytes(), kWireChunkBytes);
  EXPECT_TRUE(pacer.fast());
}

}  // namespace
}  // namespace fedmoe
