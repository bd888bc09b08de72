// Encoded shards as a client takes them from a coordinator, and a coordinator from its disk. Input:
// a byte of options (encoded_shard_case.h), then the bytes of the encoded shard.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "storage/encoded_shard.h"
#include "tests/fuzz/allocation_meter.h"
#include "tests/fuzz/block_repair.h"
#include "tests/fuzz/encoded_shard_case.h"
#include "tests/fuzz/fuzz_check.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/memory_file.h"

namespace fedmoe {
namespace {

// What reading one may take beside its values: a piece of 1 MiB, the chunks around it, and as much
// again where the file's mapping is a copy.
constexpr std::size_t kMaxReadBytes = std::size_t{4} << 20;

// Values that came of an encoding fit it: what has no scale of its own (int8, int4) is the same
// again.
void CheckEncodesAgain(std::span<const float> values, const ShardReference& shard,
                       const ModelSpec& spec) {
  std::string bytes;
  const Status encoded = EncodeShard(
      shard, spec,
      [&](std::uint64_t offset, std::span<std::byte> out) {
        std::memcpy(out.data(), std::as_bytes(values).data() + offset, out.size());
        return Status::Ok();
      },
      [&](std::span<const std::byte> piece) {
        bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
        return Status::Ok();
      });
  const bool scaled = shard.encoding == Encoding::kInt8 || shard.encoding == Encoding::kInt4;
  if (!encoded.ok()) {
    FUZZ_CHECK(scaled && encoded.code() == StatusCode::kFailedPrecondition, encoded.ToString());
    return;
  }
  ShardReference whole = shard;
  whole.bytes = static_cast<std::int64_t>(bytes.size());
  std::vector<float> again(values.size());
  const Status decoded = DecodeShard(MemoryFile(bytes), whole, spec, again);
  FUZZ_CHECK(decoded.ok(), decoded.ToString());
  FUZZ_CHECK(scaled || std::equal(values.begin(), values.end(), again.begin()),
             EncodingName(shard.encoding));
}

void CheckShard(const std::string& bytes, const ShardReference& shard) {
  static const ModelSpec spec = UpdateSpec();
  const MemoryFile file(bytes);
  std::vector<float> values(static_cast<std::size_t>(spec.ShardElements(shard.shard)));
  const AllocationMeter meter;
  const Status verified = VerifyEncodedShard(file, shard, spec);
  const Status decoded = DecodeShard(file, shard, spec, values);
  FUZZ_CHECK(meter.PeakBytes() <= kMaxReadBytes, std::to_string(meter.PeakBytes()));
  FUZZ_CHECK(verified == decoded, verified.ToString() + " is not " + decoded.ToString());
  if (!decoded.ok()) {
    FUZZ_CHECK(decoded.code() == StatusCode::kDataLoss, decoded.ToString());
    return;
  }
  // With zstd the most that may come; without it, what comes.
  const auto most = static_cast<std::size_t>(shard.bytes);
  FUZZ_CHECK(shard.zstd ? bytes.size() <= most : bytes.size() == most,
             std::to_string(bytes.size()));
  for (const float value : values) {
    FUZZ_CHECK(std::abs(value) <= kMaxEncodedMagnitude, std::to_string(value));
  }
  CheckEncodesAgain(values, shard, spec);
}

}  // namespace
}  // namespace fedmoe

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fedmoe::FuzzInput input(data, size);
  const int options = input.TakeByte();
  std::string bytes = input.TakeRest();
  if ((options & fedmoe::kFuzzRepair) != 0) fedmoe::RepairFrames(bytes);
  fedmoe::CheckShard(bytes, fedmoe::FuzzShard(options));
  return 0;
}
