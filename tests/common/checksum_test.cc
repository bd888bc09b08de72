#include "common/checksum.h"

#include <algorithm>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "common/counter_rng.h"
#include "common/file_system.h"

namespace fedmoe {
namespace {

std::vector<std::byte> RandomBytes(std::size_t count, std::uint64_t key) {
  CounterRng random(key);
  std::vector<std::byte> bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.NextU32() & 0xFF);
  return bytes;
}

// The polynomial division bit by bit, as RFC 3720 defines it.
std::uint32_t Crc32cReference(std::span<const std::byte> bytes) {
  std::uint32_t crc = 0xFFFFFFFF;
  for (const std::byte byte : bytes) {
    crc ^= static_cast<unsigned char>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78 : 0);
  }
  return ~crc;
}

struct CrcCase {
  std::string bytes;
  std::uint32_t crc;
};

TEST(Crc32c, AgreesWithThePublishedVectors) {
  std::string ascending(32, '\0');
  for (std::size_t i = 0; i < ascending.size(); ++i) ascending[i] = static_cast<char>(i);
  const std::string descending(ascending.rbegin(), ascending.rend());
  // The check value of the catalogue, then RFC 3720, appendix B.4.
  const std::vector<CrcCase> cases = {
      {"123456789", 0xE3069283},
      {std::string(32, '\0'), 0x8A9136AA},
      {std::string(32, '\xFF'), 0x62A8AB43},
      {ascending, 0x46DD794E},
      {descending, 0x113FDB5C},
      {"", 0},
  };
  for (const CrcCase& c : cases) {
    EXPECT_EQ(Crc32c(AsBytes(c.bytes)), c.crc);
    EXPECT_EQ(Crc32cPortable(AsBytes(c.bytes)), c.crc);
  }
}

TEST(Crc32c, FastAndPortableAgreeWithTheReferenceAtEveryLengthAndAlignment) {
  const std::vector<std::byte> bytes = RandomBytes(80, 1);
  for (std::size_t offset = 0; offset < 9; ++offset) {
    for (std::size_t length = 0; offset + length <= bytes.size(); ++length) {
      const auto part = std::span(bytes).subspan(offset, length);
      const std::uint32_t expected = Crc32cReference(part);
      ASSERT_EQ(Crc32c(part), expected) << "offset " << offset << ", length " << length;
      ASSERT_EQ(Crc32cPortable(part), expected) << "offset " << offset << ", length " << length;
    }
  }
}

TEST(Crc32c, LongInputsAgreeWithTheReferenceAroundTheLengthOfTheLanes) {
  const std::vector<std::byte> bytes = RandomBytes(70'000, 7);
  for (const std::size_t length : {12'287u, 12'288u, 12'289u, 24'575u, 24'576u, 40'000u, 69'999u}) {
    for (const std::size_t offset : {0u, 1u}) {
      const auto part = std::span(bytes).subspan(offset, length);
      ASSERT_EQ(Crc32c(part, 5), Crc32cPortable(part, 5)) << offset << ", " << length;
      ASSERT_EQ(Crc32c(part), Crc32cReference(part)) << offset << ", " << length;
    }
  }
}

TEST(Crc32c, ContinuesFromTheChecksumOfTheBytesBefore) {
  const std::vector<std::byte> bytes = RandomBytes(1000, 2);
  const std::uint32_t whole = Crc32c(bytes);
  for (std::size_t cut = 0; cut <= bytes.size(); ++cut) {
    const auto head = std::span(bytes).first(cut);
    const auto tail = std::span(bytes).subspan(cut);
    ASSERT_EQ(Crc32c(tail, Crc32c(head)), whole) << "cut at " << cut;
    ASSERT_EQ(Crc32cPortable(tail, Crc32cPortable(head)), whole) << "cut at " << cut;
  }
}

TEST(Crc32c, SeesEverySingleFlippedBit) {
  std::vector<std::byte> bytes = RandomBytes(64, 3);
  const std::uint32_t whole = Crc32c(bytes);
  for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    bytes[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    ASSERT_NE(Crc32c(bytes), whole) << "bit " << bit;
    bytes[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
  }
}

TEST(Sha256, AgreesWithThePublishedVectors) {
  // FIPS 180-4 examples.
  EXPECT_EQ(Sha256Of(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Of("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Sha256Of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

TEST(Sha256, TakesItsInputInPieces) {
  const std::vector<std::byte> bytes = RandomBytes(300, 4);
  for (std::size_t cut = 0; cut <= bytes.size(); cut += 7) {
    Sha256 sha256;
    sha256.Update(std::span(bytes).first(cut));
    Sha256 moved = std::move(sha256);
    moved.Update(std::span(bytes).subspan(cut));
    ASSERT_EQ(moved.Finish(), Sha256Of(bytes)) << "cut at " << cut;
  }
}

TEST(Digests, AreSixtyFourLowerCaseHexadecimalCharacters) {
  const std::string digest = Sha256Of("abc");
  EXPECT_TRUE(IsDigest(digest));
  EXPECT_FALSE(IsDigest(""));
  EXPECT_FALSE(IsDigest(digest.substr(1)));
  EXPECT_FALSE(IsDigest(digest + "0"));
  for (const char wrong : {'g', 'B', '/', '.', ' ', '\0'}) {
    std::string altered = digest;
    altered[5] = wrong;
    EXPECT_FALSE(IsDigest(altered)) << altered;
  }
}

}  // namespace
}  // namespace fedmoe
