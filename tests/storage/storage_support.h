// A small model, its contents, and file helpers for the tests of storage.
#pragma once

#include <cstddef>
#include <fstream>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "common/file_system.h"
#include "federation/model_spec.h"
#include "storage/shard_store.h"

namespace fedmoe {

#define ASSERT_OK(expression) ASSERT_EQ((expression).ToString(), "OK")
#define EXPECT_OK(expression) EXPECT_EQ((expression).ToString(), "OK")

inline std::string ReadAll(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

inline void WriteAll(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

inline std::unique_ptr<RandomAccessFile> OpenFile(const std::string& path) {
  return PosixFileSystem().Open(path).value();
}

// A trunk of 6 + 2 values, three experts of 5 values each, and a block of the client's own.
inline ModelSpec SmallSpec() {
  ModelSpec spec;
  spec.preset = "moe_mlp";
  spec.experts = 3;
  spec.top_k = 1;
  spec.blocks.push_back({.name = "trunk.weight", .shape = {2, 3}});
  spec.blocks.push_back({.name = "gate", .shape = {1}, .owner = BlockOwner::kClient});
  for (int expert = 0; expert < 3; ++expert) {
    const std::string name = "experts." + std::to_string(expert);
    spec.blocks.push_back({.name = name + ".weight",
                           .shape = {2, 2},
                           .owner = BlockOwner::kExpert,
                           .expert = expert,
                           .merge = MergeRule::kByTokens});
    spec.blocks.push_back({.name = name + ".bias",
                           .shape = {1},
                           .owner = BlockOwner::kExpert,
                           .expert = expert,
                           .merge = MergeRule::kByTokens});
  }
  spec.blocks.push_back({.name = "head.bias", .shape = {2}});
  return spec;
}

// Value i is start + i.
inline std::vector<float> Ramp(std::int64_t count, float start) {
  std::vector<float> values;
  for (std::int64_t i = 0; i < count; ++i) values.push_back(start + static_cast<float>(i));
  return values;
}

// The shard with values Ramp(start), first moments Ramp(start + 1000) and second moments
// Ramp(start + 2000), given one element at a time and interleaved.
inline ShardContent RampContent(const ModelSpec& spec, int shard, float start,
                                int moment_count = 0) {
  const std::int64_t count = spec.ShardElements(shard);
  const auto write = [=](const ShardContent::Sinks& sinks) -> Status {
    for (std::int64_t i = 0; i < count; ++i) {
      const float value = start + static_cast<float>(i);
      const float first = value + 1000.0f;
      const float second = value + 2000.0f;
      FEDMOE_RETURN_IF_ERROR(sinks.values(std::span(&value, 1)));
      if (moment_count > 0) FEDMOE_RETURN_IF_ERROR(sinks.first(std::span(&first, 1)));
      if (moment_count > 1) FEDMOE_RETURN_IF_ERROR(sinks.second(std::span(&second, 1)));
    }
    return Status::Ok();
  };
  return {.shard = shard,
          .moment_count = moment_count,
          .steps = moment_count > 0 ? 1 : 0,
          .write = write};
}

inline std::vector<ShardContent> AllShards(const ModelSpec& spec, float start,
                                           int moment_count = 0) {
  std::vector<ShardContent> contents;
  for (int shard = 0; shard < spec.ShardCount(); ++shard) {
    contents.push_back(
        RampContent(spec, shard, start + 100.0f * static_cast<float>(shard), moment_count));
  }
  return contents;
}

inline std::vector<float> FloatsOf(std::span<const std::byte> bytes) {
  const auto* begin = reinterpret_cast<const float*>(bytes.data());
  return {begin, begin + bytes.size() / sizeof(float)};
}

// The shard's values as the store gives them, or an empty list after a failure.
inline std::vector<float> ReadValues(const ShardStore& store, const Digest& digest) {
  const auto region = store.ReadShard(digest);
  if (!region.ok()) {
    ADD_FAILURE() << region.status().ToString();
    return {};
  }
  return FloatsOf((*region)->bytes());
}

}  // namespace fedmoe
