// CRC-32C for transport and SHA-256 for identity.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace fedmoe {

// CRC-32C (Castagnoli, RFC 3720). Uses the CPU's instruction where it is there. `seed` is the CRC
// of the bytes before, so that Crc32c(b, Crc32c(a)) == Crc32c(a + b).
std::uint32_t Crc32c(std::span<const std::byte> bytes, std::uint32_t seed = 0);
// The same from tables, on any CPU: what Crc32c falls back on, and the reference that it is tested
// against.
std::uint32_t Crc32cPortable(std::span<const std::byte> bytes, std::uint32_t seed = 0);

// A SHA-256 digest as 64 lower-case hexadecimal characters: the name of a shard.
using Digest = std::string;
inline constexpr std::size_t kDigestLength = 64;

// Incremental SHA-256 (OpenSSL). Not thread-safe.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;
  void Update(std::span<const std::byte> bytes);
  // The digest of all that was given; the object is spent.
  Digest Finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

Digest Sha256Of(std::span<const std::byte> bytes);
Digest Sha256Of(std::string_view text);

// True for 64 lower-case hexadecimal characters.
bool IsDigest(std::string_view text);

}  // namespace fedmoe
