// Bounds on what comes over the wire. Anything beyond is INVALID_ARGUMENT, whoever sent it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fedmoe {

// Bytes of a shard or an update in one message; the rest of the message is framing.
inline constexpr std::size_t kWireChunkBytes = 1 << 20;
// Of one message to the coordinator: a chunk, or what goes with the most experts.
inline constexpr std::size_t kMaxRequestBytes = kWireChunkBytes + (std::size_t{512} << 10);

inline constexpr int kMaxExperts = 4096;
inline constexpr std::size_t kMaxNameLength = 256;  // run name, device, preset, run id
inline constexpr std::size_t kMaxInstanceLength = 64;
inline constexpr std::size_t kMaxTextLength = 4096;  // details and reasons
inline constexpr std::size_t kMaxModelOptions = 256;
inline constexpr std::int64_t kMaxShardBytes = std::int64_t{1} << 40;
inline constexpr std::uint64_t kMaxUpdateBytesOnWire = std::uint64_t{1} << 42;
inline constexpr std::int64_t kMaxDurationMs = std::int64_t{366} * 24 * 3'600 * 1'000;
inline constexpr int kMaxBatchSize = 1 << 24;
inline constexpr int kMaxEpochs = 1 << 16;
inline constexpr int kMaxBatches = 1 << 30;
inline constexpr double kMaxRouterNumber = 100.0;  // loss weights and noise of the gate
inline constexpr int kMaxRandomCrop = 1024;        // px

}  // namespace fedmoe
