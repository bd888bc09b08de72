#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "storage/encoded_shard.h"
#include "tests/fuzz/encoded_shard_case.h"
#include "tests/fuzz/fuzz_check.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/seeds.h"

namespace fedmoe {
namespace {

// Smooth, so that compressed it takes few bytes.
std::string Encoded(const ShardReference& shard) {
  std::string bytes;
  const Status status = EncodeShard(
      shard, UpdateSpec(),
      [](std::uint64_t, std::span<std::byte> out) {
        const std::span<float> values(reinterpret_cast<float*>(out.data()),
                                      out.size() / sizeof(float));
        for (float& value : values) value = 0.5f;
        return Status::Ok();
      },
      [&bytes](std::span<const std::byte> piece) {
        bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
        return Status::Ok();
      });
  FUZZ_CHECK(status.ok(), status.ToString());
  return bytes;
}

}  // namespace

std::vector<Seed> EncodedShardSeeds() {
  std::vector<Seed> seeds;
  for (int encoding = 0; encoding < static_cast<int>(Encoding::kTopK); ++encoding) {
    for (const int more : {0, kFuzzZstd, kFuzzZstd | kFuzzLarge}) {
      const ShardReference shard = FuzzShard(encoding | more);
      const std::string bytes = Encoded(shard);
      const std::string name = ShardKey(shard).substr(kDigestLength + 1);
      for (const int repair : {0, kFuzzRepair}) {
        const std::string suffix = repair != 0 ? ".repaired" : "";
        const int options = encoding | more | repair;
        seeds.push_back({name + suffix, SeedInput().Byte(options).Rest(bytes).bytes()});
        std::string cut = bytes.substr(0, bytes.size() - 64);
        seeds.push_back({name + ".cut" + suffix, SeedInput().Byte(options).Rest(cut).bytes()});
        // Another shard's: no file of it is taken for this one.
        std::string other = bytes;
        other[16] = static_cast<char>(other[16] ^ 1);
        seeds.push_back({name + ".other" + suffix, SeedInput().Byte(options).Rest(other).bytes()});
      }
    }
  }
  // Other frames and blocks than this shard has, their checksums right; and no whole frame.
  const std::string bytes = Encoded(FuzzShard(0));
  for (std::size_t at = 4; at < 128; at += 4) {
    std::string other = bytes;
    other[at] = static_cast<char>(other[at] ^ 1);
    seeds.push_back(
        {"f32.byte-" + std::to_string(at), SeedInput().Byte(kFuzzRepair).Rest(other).bytes()});
  }
  seeds.push_back({"f32.short", SeedInput().Byte(0).Rest(bytes.substr(0, 63)).bytes()});
  return seeds;
}

}  // namespace fedmoe
