#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/counter_rng.h"
#include "storage/update_format.h"
#include "tests/fuzz/fuzz_check.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/seeds.h"
#include "tests/fuzz/update_case.h"

namespace fedmoe {
namespace {

constexpr int kRepair = 8;  // the option of update_blocks_fuzz.cc

// Where the parts of an update of UpdateBytes() begin.
constexpr std::size_t kFirstHeader = 64;
constexpr std::size_t kFirstPayload = 128;

std::vector<float> Values(std::size_t count, bool smooth) {
  CounterRng rng(7);
  std::vector<float> values(count, smooth ? 0.5f : 0.0f);
  for (float& value : values) {
    if (!smooth) value = static_cast<float>(rng.NextNormal());
  }
  return values;
}

std::string Encoded(std::span<const OutgoingBlock> blocks) {
  std::string bytes;
  const Status status = EncodeUpdate(kFuzzTask, blocks, [&bytes](std::span<const std::byte> piece) {
    bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
    return Status::Ok();
  });
  FUZZ_CHECK(status.ok(), status.ToString());
  return bytes;
}

// Of the blocks `parameters`; the large ones smooth, so that they take few bytes.
std::string UpdateBytes(const std::vector<int>& parameters, Encoding encoding, bool zstd) {
  const ModelSpec spec = UpdateSpec();
  std::vector<EncodedBlock> encoded;
  for (const int parameter : parameters) {
    const auto count = static_cast<std::size_t>(
        spec.blocks.at(static_cast<std::size_t>(parameter)).ElementCount());
    const Result<EncodedBlock> block =
        EncodeBlock(Values(count, zstd),
                    {.encoding = encoding, .kept = (count + 9) / 10, .key = 5, .zstd = zstd});
    FUZZ_CHECK(block.ok(), block.status().ToString());
    encoded.push_back(*block);
  }
  std::vector<OutgoingBlock> blocks;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    blocks.push_back({.parameter = parameters[i], .delta = {}, .encoded = &encoded[i]});
  }
  return Encoded(blocks);
}

std::string WithOptions(int options, const std::string& update) {
  return SeedInput().Byte(options).Rest(update).bytes();
}

template <typename T>
std::string Overwritten(std::string bytes, std::size_t at, T value) {
  const std::string_view raw(reinterpret_cast<const char*>(&value), sizeof(value));
  return bytes.replace(at, raw.size(), raw);
}

void AddGood(std::vector<Seed>& seeds) {
  for (std::uint32_t number = 0; number < kEncodings; ++number) {
    const auto encoding = static_cast<Encoding>(number);
    const std::string name = EncodingName(encoding);
    const int options = static_cast<int>(number);
    const std::string plain = UpdateBytes({0, 1, 2}, encoding, false);
    seeds.push_back({name, WithOptions(options, plain)});
    seeds.push_back({name + "_repaired", WithOptions(options | kRepair, plain)});
    seeds.push_back(
        {name + "_zstd", WithOptions(options | kRepair, UpdateBytes({0, 1, 2}, encoding, true))});
    // Of topk the indices do not compress.
    if (encoding == Encoding::kTopK) continue;
    seeds.push_back({name + "_chunks",
                     WithOptions(options | kRepair, UpdateBytes({0, 1, 2, 3}, encoding, true))});
  }
}

// What is wrong with the structure; each is refused by another check.
void AddMalformed(std::vector<Seed>& seeds) {
  const std::string good = UpdateBytes({0, 1, 2}, Encoding::kFloat32, false);
  const auto add = [&seeds](const std::string& name, int options, const std::string& bytes) {
    seeds.push_back({"bad_" + name, WithOptions(options, bytes)});
  };
  add("short", 0, good.substr(0, 40));
  add("magic", 0, Overwritten(good, 0, 'x'));
  add("version", 0, Overwritten(good, 8, std::uint32_t{1}));
  add("preamble_checksum", 0, Overwritten(good, 60, std::uint32_t{1}));
  add("preamble_reserved", kRepair, Overwritten(good, 40, std::uint32_t{1}));
  add("task", kRepair, Overwritten(good, 16, std::uint64_t{8}));
  add("cut", 0, good.substr(0, good.size() - 64));
  add("block_count", kRepair, Overwritten(good, 12, std::uint32_t{7}));
  add("missing_header", kRepair, Overwritten(good, 12, std::uint32_t{4}));
  add("tail", kRepair, Overwritten(good, 12, std::uint32_t{2}));
  add("header_checksum", 0, Overwritten(good, kFirstHeader + 60, std::uint32_t{1}));
  add("header_reserved", kRepair, Overwritten(good, kFirstHeader + 44, std::uint32_t{1}));
  add("parameter", kRepair, Overwritten(good, kFirstHeader, std::uint32_t{0x80000000}));
  add("order", kRepair, Overwritten(good, kFirstHeader, std::uint32_t{5}));
  add("payload_bytes", kRepair,
      Overwritten(good, kFirstHeader + 16, std::numeric_limits<std::uint64_t>::max()));
  add("compression", kRepair, Overwritten(good, kFirstHeader + 28, std::uint32_t{2}));
  add("raw_bytes", kRepair, Overwritten(good, kFirstHeader + 32, std::uint64_t{28}));
  add("elements", kRepair, Overwritten(good, kFirstHeader + 8, std::uint64_t{7}));
  add("encoding", kRepair, Overwritten(good, kFirstHeader + 4, std::uint32_t{6}));
  add("padding", kRepair, Overwritten(good, kFirstPayload + 24, 'x'));
  add("payload_checksum", 0, Overwritten(good, kFirstPayload, 'x'));
  add("nan", kRepair, Overwritten(good, kFirstPayload, std::numeric_limits<float>::quiet_NaN()));
  add("huge", kRepair, Overwritten(good, kFirstPayload, 2e18f));
  add("twice", kRepair, Overwritten(good, kFirstHeader + 64 + 64, std::uint32_t{0}));
  add("not_held", kRepair, UpdateBytes({0, 1, 2, 4}, Encoding::kFloat32, false));
  add("client_state", kRepair, UpdateBytes({0, 1, 2, 5}, Encoding::kFloat32, false));
  add("missing", kRepair, UpdateBytes({0, 2}, Encoding::kFloat32, false));
  add("other_encoding", kRepair, UpdateBytes({0, 1, 2}, Encoding::kInt8, false));
}

// Of an update whose first block is compressed, in one chunk with its length at kFirstPayload.
void AddDamagedChunks(std::vector<Seed>& seeds) {
  const std::string good = UpdateBytes({2, 3}, Encoding::kFloat32, true);
  const auto add = [&seeds](const std::string& name, int options, const std::string& bytes) {
    seeds.push_back({"chunk_" + name, WithOptions(options, bytes)});
  };
  // Without the trunk an update is not complete: its blocks come first.
  const std::string whole = UpdateBytes({0, 1, 2, 3}, Encoding::kFloat32, true);
  // The trunk's blocks are too short to compress: three of 64 + 64 bytes come before expert 0's.
  const std::size_t header = 64 + 128 + 128;
  const std::size_t table = header + 64;
  const std::size_t frame = table + 4;
  add("without_trunk", kRepair, good);
  add("checksum", 0, Overwritten(whole, frame, 'x'));
  add("frame", kRepair, Overwritten(whole, frame, 'x'));
  add("length_zero", kRepair, Overwritten(whole, table, std::uint32_t{0}));
  add("length_huge", kRepair, Overwritten(whole, table, std::uint32_t{100'000}));
  add("length_short", kRepair, Overwritten(whole, table, std::uint32_t{5}));
  add("no_table", kRepair, Overwritten(whole, header + 16, std::uint64_t{3}));
  add("of_another_length", kRepair,
      Overwritten(Overwritten(whole, header + 8, std::uint64_t{69}), header + 32,
                  std::uint64_t{276}));
}

// Payloads whose lengths are right and whose values are not: the trunk's weight, of six elements.
void AddBadValues(std::vector<Seed>& seeds) {
  const auto add = [&seeds](const std::string& name, Encoding encoding, std::size_t at,
                            auto value) {
    const std::string good = UpdateBytes({0, 1, 2}, encoding, false);
    seeds.push_back({"value_" + name, WithOptions(static_cast<int>(encoding) | kRepair,
                                                  Overwritten(good, kFirstPayload + at, value))});
  };
  constexpr float kInf = std::numeric_limits<float>::infinity();
  add("bf16_nan", Encoding::kBfloat16, 2, std::uint16_t{0x7fc0});
  add("bf16_huge", Encoding::kBfloat16, 2, std::uint16_t{0x7f00});
  add("f16_inf", Encoding::kFloat16, 2, std::uint16_t{0x7c00});
  add("f16_subnormal", Encoding::kFloat16, 2, std::uint16_t{0x0001});
  add("int8_scale_inf", Encoding::kInt8, 0, kInf);
  add("int8_scale_negative", Encoding::kInt8, 0, -1.0f);
  add("int8_scale_huge", Encoding::kInt8, 0, 1e17f);
  add("int4_scale_nan", Encoding::kInt4, 0, std::numeric_limits<float>::quiet_NaN());
  add("int4_unused_half", Encoding::kInt4, 4, std::uint8_t{0x11});
  add("topk_nan", Encoding::kTopK, 4, std::numeric_limits<float>::quiet_NaN());
  add("topk_index", Encoding::kTopK, 0, std::uint32_t{6});
}

}  // namespace

std::vector<Seed> UpdateSeeds() {
  std::vector<Seed> seeds;
  AddGood(seeds);
  AddMalformed(seeds);
  AddDamagedChunks(seeds);
  AddBadValues(seeds);
  return seeds;
}

}  // namespace fedmoe
