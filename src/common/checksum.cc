#include "common/checksum.h"

#include <algorithm>
#include <cstring>
#include <exception>

#include <openssl/evp.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace fedmoe {
namespace {

// The Castagnoli polynomial 0x1EDC6F41 with its bits reversed, as the reflected algorithm needs it.
constexpr std::uint32_t kReflectedPolynomial = 0x82F63B78;
constexpr std::size_t kSlices = 8;
using CrcTables = std::array<std::array<std::uint32_t, 256>, kSlices>;

// tables[k][b]: the CRC of byte b followed by k zero bytes, so that eight bytes are taken at a
// step.
constexpr CrcTables MakeCrcTables() {
  CrcTables tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) {
      crc = (crc >> 1) ^ ((crc & 1) != 0 ? kReflectedPolynomial : 0);
    }
    tables[0][byte] = crc;
  }
  for (std::size_t slice = 1; slice < kSlices; ++slice) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t before = tables[slice - 1][byte];
      tables[slice][byte] = (before >> 8) ^ tables[0][before & 0xFF];
    }
  }
  return tables;
}

constexpr CrcTables kCrcTables = MakeCrcTables();

#if defined(__x86_64__)
// The instruction takes a word every cycle but gives its result only after three: three lanes keep
// it busy. A lane's register is brought past the lanes that follow by tables.
constexpr std::size_t kLaneBytes = 4096;

// shift[k][b]: what byte k of the register, with the value b, becomes after kLaneBytes zero bytes.
using ShiftTables = std::array<std::array<std::uint32_t, 256>, 4>;

ShiftTables MakeShiftTables() {
  std::array<std::uint32_t, 32> of_bit{};
  for (std::size_t bit = 0; bit < of_bit.size(); ++bit) {
    std::uint32_t crc = std::uint32_t{1} << bit;
    for (std::size_t i = 0; i < kLaneBytes; ++i) crc = (crc >> 8) ^ kCrcTables[0][crc & 0xFF];
    of_bit[bit] = crc;
  }
  ShiftTables tables{};
  for (std::size_t k = 0; k < tables.size(); ++k) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      for (std::size_t bit = 0; bit < 8; ++bit) {
        if ((byte >> bit & 1) != 0) tables[k][byte] ^= of_bit[8 * k + bit];
      }
    }
  }
  return tables;
}

std::uint32_t PastALane(const ShiftTables& tables, std::uint32_t crc) {
  return tables[0][crc & 0xFF] ^ tables[1][crc >> 8 & 0xFF] ^ tables[2][crc >> 16 & 0xFF] ^
         tables[3][crc >> 24];
}

__attribute__((target("sse4.2"))) std::uint32_t ThreeLanes(const ShiftTables& tables,
                                                           const std::byte* bytes,
                                                           std::uint32_t crc) {
  std::uint64_t first = crc, second = 0, third = 0;
  for (std::size_t i = 0; i < kLaneBytes; i += sizeof(std::uint64_t)) {
    std::uint64_t words[3];
    for (std::size_t lane = 0; lane < 3; ++lane) {
      std::memcpy(&words[lane], bytes + lane * kLaneBytes + i, sizeof(words[lane]));
    }
    first = _mm_crc32_u64(first, words[0]);
    second = _mm_crc32_u64(second, words[1]);
    third = _mm_crc32_u64(third, words[2]);
  }
  const std::uint32_t both =
      PastALane(tables, static_cast<std::uint32_t>(first)) ^ static_cast<std::uint32_t>(second);
  return PastALane(tables, both) ^ static_cast<std::uint32_t>(third);
}

__attribute__((target("sse4.2"))) std::uint32_t Crc32cSse42(std::span<const std::byte> bytes,
                                                            std::uint32_t seed) {
  static const ShiftTables tables = MakeShiftTables();
  std::uint64_t crc = ~seed;
  while (bytes.size() >= 3 * kLaneBytes) {
    crc = ThreeLanes(tables, bytes.data(), static_cast<std::uint32_t>(crc));
    bytes = bytes.subspan(3 * kLaneBytes);
  }
  while (bytes.size() >= sizeof(std::uint64_t)) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data(), sizeof(word));
    crc = _mm_crc32_u64(crc, word);
    bytes = bytes.subspan(sizeof(word));
  }
  auto tail = static_cast<std::uint32_t>(crc);
  for (const std::byte byte : bytes) tail = _mm_crc32_u8(tail, static_cast<unsigned char>(byte));
  return ~tail;
}
#endif

}  // namespace

std::uint32_t Crc32cPortable(std::span<const std::byte> bytes, std::uint32_t seed) {
  std::uint32_t crc = ~seed;
  while (bytes.size() >= kSlices) {
    std::uint32_t next = 0;
    for (std::size_t i = 0; i < kSlices; ++i) {
      std::uint32_t byte = static_cast<unsigned char>(bytes[i]);
      if (i < 4) byte ^= (crc >> (8 * i)) & 0xFF;
      next ^= kCrcTables[kSlices - 1 - i][byte];
    }
    crc = next;
    bytes = bytes.subspan(kSlices);
  }
  for (const std::byte byte : bytes) {
    crc = (crc >> 8) ^ kCrcTables[0][(crc ^ static_cast<unsigned char>(byte)) & 0xFF];
  }
  return ~crc;
}

std::uint32_t Crc32c(std::span<const std::byte> bytes, std::uint32_t seed) {
#if defined(__x86_64__)
  static const bool has_sse42 = __builtin_cpu_supports("sse4.2") != 0;
  if (has_sse42) return Crc32cSse42(bytes, seed);
#endif
  return Crc32cPortable(bytes, seed);
}

struct Sha256::State {
  State() : context(EVP_MD_CTX_new()) {
    // Only a lack of memory or an OpenSSL without SHA-256 gets here; nothing could be named without
    // it.
    if (context == nullptr || EVP_DigestInit_ex(context, EVP_sha256(), nullptr) != 1) {
      std::terminate();
    }
  }
  ~State() { EVP_MD_CTX_free(context); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  EVP_MD_CTX* context;
};

Sha256::Sha256() : state_(std::make_unique<State>()) {}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::Update(std::span<const std::byte> bytes) {
  if (EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) != 1) std::terminate();
}

Digest Sha256::Finish() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> raw{};
  unsigned int length = 0;
  if (EVP_DigestFinal_ex(state_->context, raw.data(), &length) != 1 ||
      length != kDigestLength / 2) {
    std::terminate();
  }
  constexpr std::string_view kHexadecimal = "0123456789abcdef";
  Digest digest;
  digest.reserve(kDigestLength);
  for (std::size_t i = 0; i < length; ++i) {
    digest += kHexadecimal[raw[i] >> 4];
    digest += kHexadecimal[raw[i] & 0xF];
  }
  return digest;
}

Digest Sha256Of(std::span<const std::byte> bytes) {
  Sha256 sha256;
  sha256.Update(bytes);
  return sha256.Finish();
}

Digest Sha256Of(std::string_view text) {
  return Sha256Of(std::as_bytes(std::span(text.data(), text.size())));
}

bool IsDigest(std::string_view text) {
  return text.size() == kDigestLength && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

}  // namespace fedmoe
