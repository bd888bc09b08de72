// How a client sends what it learned, and what a model travels to it as.
#pragma once

#include <cstdint>
#include <vector>

#include "federation/model_spec.h"
#include "kernels/codec.h"

namespace fedmoe {

// Travels with every task.
struct UploadOptions {
  Encoding encoding = Encoding::kFloat32;
  double top_k_fraction = 0.1;  // topk: values sent of every block, above 0 to 1
  bool zstd = false;            // compress blocks that become smaller by it
};

// topk: how many of a block's values are sent; at least one of any.
std::uint64_t KeptElements(const UploadOptions& upload, std::uint64_t elements);
// What a block of so many values is sent as: f32 where topk would take no fewer bytes.
Encoding BlockEncodingOf(const UploadOptions& upload, std::uint64_t elements);
// Of a large block, before compression.
double UploadBytesPerElement(const UploadOptions& upload);

// What trainers download. Each shard that a task names says it of itself (ShardReference).
struct DownloadOptions {
  Encoding encoding = Encoding::kFloat32;  // any but topk: a model needs all of its values
  bool zstd = false;                       // compress blocks that become smaller by it
  // Otherwise shards travel as they lie in the checkpoint.
  bool encoded() const { return encoding != Encoding::kFloat32 || zstd; }
  bool operator==(const DownloadOptions&) const = default;
};

// Of a large block, before compression.
double DownloadBytesPerElement(const DownloadOptions& download);

// An encoded shard is a frame, then a block for every part of the shard, each with a frame of its
// own; frames and padded payloads are multiples of so many bytes (docs/update_format.md).
inline constexpr std::uint64_t kEncodedShardFrameBytes = 64;
// Parameter blocks of more elements are cut into parts, so that no more than one part need be in
// memory wherever a shard is encoded or read.
inline constexpr std::uint64_t kEncodedPartElements = std::uint64_t{1} << 18;

// Elements [first, first + elements) of a parameter block.
struct ShardPart {
  int parameter = 0;
  std::uint64_t first = 0;
  std::uint64_t elements = 0;
  bool operator==(const ShardPart&) const = default;
};
// The parts of a shard, in the order of its bytes.
std::vector<ShardPart> PartsOf(const ModelSpec& spec, int shard);

// What a shard takes on its way to a client; with zstd the most that it may take.
std::int64_t DownloadBytes(const ModelSpec& spec, int shard, const DownloadOptions& download);

}  // namespace fedmoe
