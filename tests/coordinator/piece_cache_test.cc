// What is read once is shared, never stale, and let go.
#include "coordinator/piece_cache.h"

#include <atomic>
#include <deque>
#include <future>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "common/checksum.h"
#include "common/file_system.h"

namespace fedmoe {
namespace {

// Counts what is read; each reading of a name gives the same bytes.
struct Source {
  std::atomic<int> reads{0};
  PieceCache::Read Of(char letter) {
    return [this, letter](std::string& bytes) {
      ++reads;
      std::fill(bytes.begin(), bytes.end(), letter);
      return Status::Ok();
    };
  }
};

void Touch(PieceCache& cache, const std::string& name, Source& source) {
  EXPECT_TRUE(cache.Get(name, 10, source.Of('x')).ok());
}

TEST(PieceCacheTest, IsReadOnceWhileSomebodyFetches) {
  PieceCache cache(100);
  Source source;
  EXPECT_EQ(cache.Get("a", 10, source.Of('a')).value()->bytes, std::string(10, 'a'));
  EXPECT_EQ(cache.Get("a", 10, source.Of('a')).value()->bytes, std::string(10, 'a'));
  EXPECT_EQ(source.reads, 2) << "nobody fetches";
  cache.Join();
  const SharedBytes first = cache.Get("a", 10, source.Of('a')).value();
  EXPECT_EQ(first->crc32c, Crc32c(AsBytes(std::string_view(first->bytes))));
  EXPECT_EQ(cache.Get("a", 10, source.Of('a')).value(), first);
  EXPECT_EQ(source.reads, 3);
  cache.Join();
  cache.Leave();
  EXPECT_EQ(cache.Get("a", 10, source.Of('a')).value(), first);
  cache.Leave();
  cache.Join();
  EXPECT_NE(cache.Get("a", 10, source.Of('a')).value(), first);
  EXPECT_EQ(first->bytes, std::string(10, 'a')) << "it is held here";
}

TEST(PieceCacheTest, OfAnotherLengthIsAnotherPiece) {
  PieceCache cache(100);
  cache.Join();
  Source source;
  EXPECT_EQ(cache.Get("a", 10, source.Of('a')).value()->bytes.size(), 10U);
  EXPECT_EQ(cache.Get("a", 20, source.Of('a')).value()->bytes.size(), 20U);
  EXPECT_EQ(cache.Get("a", 20, source.Of('a')).value()->bytes.size(), 20U);
  EXPECT_EQ(source.reads, 2);
}

TEST(PieceCacheTest, DropsWhatWasNotAskedForTheLongest) {
  PieceCache cache(30);
  cache.Join();
  Source source;
  for (const char* name : {"a", "b", "c", "a", "d"}) Touch(cache, name, source);
  EXPECT_EQ(source.reads, 4);
  Touch(cache, "a", source);
  Touch(cache, "c", source);
  EXPECT_EQ(source.reads, 4);
  Touch(cache, "b", source);
  EXPECT_EQ(source.reads, 5);
  EXPECT_EQ(cache.Get("e", 31, source.Of('e')).value()->bytes.size(), 31U);
  EXPECT_EQ(cache.Get("e", 31, source.Of('e')).value()->bytes.size(), 31U);
  EXPECT_EQ(source.reads, 7) << "larger than all";
}

TEST(PieceCacheTest, AnErrorIsForWhoGotIt) {
  PieceCache cache(100);
  cache.Join();
  Source source;
  const auto fails = [](std::string&) { return Internal("no"); };
  EXPECT_EQ(cache.Get("a", 10, fails).status(), Internal("no"));
  EXPECT_EQ(cache.Get("a", 10, source.Of('a')).value()->bytes, std::string(10, 'a'));
  EXPECT_EQ(cache.Get("a", 10, fails).value()->bytes, std::string(10, 'a'));
}

TEST(PieceCacheTest, WhatIsClearedIsReadAgain) {
  PieceCache cache(100);
  cache.Join();
  Source source;
  Touch(cache, "a", source);
  cache.Clear();
  EXPECT_EQ(cache.Get("a", 10, source.Of('b')).value()->bytes, std::string(10, 'b'));
}

TEST(PieceCacheTest, MemoryIsUsedAgainByTheNextPiece) {
  PieceCache cache(100);
  cache.Join();
  Source source;
  SharedBytes piece = cache.ReadOnce(100'000, source.Of('a')).value();
  const char* const memory = piece->bytes.data();
  piece.reset();
  const SharedBytes shorter = cache.ReadOnce(40'000, source.Of('c')).value();
  EXPECT_NE(shorter->bytes.data(), memory) << "it would hold on to more than it needs";
  piece = cache.ReadOnce(100'000, source.Of('b')).value();
  EXPECT_EQ(piece->bytes.data(), memory);
  EXPECT_EQ(piece->bytes, std::string(100'000, 'b'));
}

// One reads, the other waits for it, or reads by itself where that fails.
TEST(PieceCacheTest, WhoAsksMeanwhileGetsWhatIsBeingRead) {
  for (const bool fails : {false, true}) {
    PieceCache cache(100);
    cache.Join();
    std::promise<void> reading, let_go;
    Result<SharedBytes> first = Internal("not yet");
    std::thread reader([&] {
      first = cache.Get("a", 10, [&](std::string& bytes) {
        reading.set_value();
        let_go.get_future().wait();
        bytes.assign(bytes.size(), 'a');
        return fails ? Internal("no") : Status::Ok();
      });
    });
    reading.get_future().wait();
    Source source;
    Result<SharedBytes> second = Internal("not yet");
    std::thread waiter([&] { second = cache.Get("a", 10, source.Of('b')); });
    let_go.set_value();
    reader.join();
    waiter.join();
    ASSERT_TRUE(second.ok());
    EXPECT_EQ(first.ok(), !fails);
    EXPECT_EQ(source.reads, fails ? 1 : 0);
    EXPECT_EQ((*second)->bytes, std::string(10, fails ? 'b' : 'a'));
  }
}

TEST(PieceCacheTest, OutlivesNothingThatItGaveOut) {
  auto cache = std::make_unique<PieceCache>(100);
  cache->Join();
  Source source;
  const SharedBytes piece = cache->Get("a", 10, source.Of('a')).value();
  cache->Leave();
  cache.reset();
  EXPECT_EQ(piece->bytes, std::string(10, 'a'));
}

// Threads that read the same pieces one after another and hold some, as clients of a round do.
TEST(PieceCacheTest, WhatThreadsHoldStaysAsItWas) {
  PieceCache cache(800'000);
  Source source;
  constexpr int kThreads = 4;
  constexpr int kPieces = 400;
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<unsigned>(t));
      std::deque<std::pair<char, SharedBytes>> held;
      const auto check = [&](const std::pair<char, SharedBytes>& piece) {
        const ShardBytes& bytes = *piece.second;
        const bool same = bytes.bytes == std::string(bytes.bytes.size(), piece.first) &&
                          Crc32c(AsBytes(std::string_view(bytes.bytes))) == bytes.crc32c;
        if (!same) ++wrong;
      };
      cache.Join();
      for (int i = 0; i < kPieces; ++i) {
        const auto letter = static_cast<char>('a' + i % 26);
        const std::uint64_t length = random() % 2 == 0 ? 70'000 : 100'000;
        held.emplace_back(letter, cache.Get(std::to_string(i), length, source.Of(letter)).value());
        if (held.size() < 5) continue;
        check(held.front());
        held.pop_front();
        if (random() % 100 == 0) cache.Clear();
      }
      cache.Leave();
      for (const auto& piece : held) check(piece);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace fedmoe
