// A shard as trainers download it: a list of encoded blocks, made of its float32 values and its
// digest by a function that knows no more. docs/update_format.md has the grammar and a worked
// example.
//
//   encoded-shard := frame block*        a block for each of PartsOf(), as in an update
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "common/file_system.h"
#include "common/result.h"
#include "federation/model_spec.h"
#include "federation/task.h"

namespace fedmoe {

inline constexpr std::uint32_t kEncodedShardVersion = 1;

// Fills `out` with the shard's bytes from `offset` on.
using ShardSource = std::function<Status(std::uint64_t offset, std::span<std::byte> out)>;

// Hands the encoded shard to `sink` piece by piece, in order; pieces are at most 1 MiB, and never
// more than one part is in memory. `shard` names a shard of `spec` and how it is encoded; its
// `bytes` do not count. int8 and int4 round stochastically, keyed by (digest, parameter, part): the
// same shard gives the same bytes whenever it is encoded. Stops at the first error of either
// function. FAILED_PRECONDITION names the block whose values do not fit the encoding, and what
// does.
Status EncodeShard(const ShardReference& shard, const ModelSpec& spec, const ShardSource& source,
                   const std::function<Status(std::span<const std::byte>)>& sink);

// Checks the whole file: that it is this shard in this encoding, every checksum, every length, and
// that all values are finite. DATA_LOSS "the encoded shard expert.3 is damaged: ...".
Status VerifyEncodedShard(const RandomAccessFile& file, const ShardReference& shard,
                          const ModelSpec& spec);

// The same, then its values into `out`, which has the shard's elements.
Status DecodeShard(const RandomAccessFile& file, const ShardReference& shard, const ModelSpec& spec,
                   std::span<float> out);

}  // namespace fedmoe
