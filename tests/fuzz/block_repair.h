// Makes checksums of frames and blocks right, without which hardly a mutation would come past them.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "common/checksum.h"
#include "common/file_system.h"
#include "storage/update_format.h"

namespace fedmoe {

inline constexpr std::size_t kFrameBytes =
    64;  // of an update's preamble, of a shard's, of a header

template <typename T>
T LoadAt(const std::string& bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(value));
  return value;
}

template <typename T>
void StoreAt(T value, std::string& bytes, std::size_t at) {
  std::memcpy(bytes.data() + at, &value, sizeof(value));
}

inline std::uint32_t CrcOfBytes(const std::string& bytes, std::size_t begin, std::size_t count) {
  return Crc32c(AsBytes(std::string_view(bytes)).subspan(begin, count));
}

// Of what begins with a frame that counts the blocks behind it at byte 12: an update or an encoded
// shard.
inline void RepairFrames(std::string& bytes) {
  constexpr std::size_t kCrcAt = 60;
  constexpr std::size_t kBlockCountAt = 12;
  constexpr std::size_t kPayloadBytesAt = 16;
  constexpr std::size_t kPayloadCrcAt = 24;
  if (bytes.size() < kFrameBytes) return;
  StoreAt(CrcOfBytes(bytes, 0, kCrcAt), bytes, kCrcAt);
  const auto count = LoadAt<std::uint32_t>(bytes, kBlockCountAt);
  std::size_t at = kFrameBytes;
  for (std::uint32_t i = 0; i < count && bytes.size() - at >= kFrameBytes; ++i) {
    const auto payload = LoadAt<std::uint64_t>(bytes, at + kPayloadBytesAt);
    const std::size_t begin = at + kFrameBytes;
    const bool whole = payload <= bytes.size() - begin;
    if (whole) StoreAt(CrcOfBytes(bytes, begin, payload), bytes, at + kPayloadCrcAt);
    StoreAt(CrcOfBytes(bytes, at, kCrcAt), bytes, at + kCrcAt);
    if (!whole) return;
    const std::size_t end = begin + payload;
    at = (end + kUpdateAlignment - 1) / kUpdateAlignment * kUpdateAlignment;
    if (at > bytes.size()) return;
  }
}

}  // namespace fedmoe
