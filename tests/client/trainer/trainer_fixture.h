// A small model, data that can be learned, and a task for the trainer.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "client/local_trainer.h"
#include "common/counter_rng.h"
#include "moe/model_options.h"
#include "tests/moe/reference_moe.h"

namespace fedmoe {

constexpr std::uint64_t kSeed = 5;

inline ModelOptions SmallModel() {
  ModelOptions options;
  options.inputs = 6;
  options.classes = 3;
  options.width = 8;
  options.expert_width = 5;
  options.experts = 4;
  options.top_k = 2;
  return options;
}

// Labels are the largest of the first three features.
inline Dataset MakeData(int size, std::uint64_t seed) {
  Dataset data;
  data.name = "triples";
  data.shape = {6};
  data.classes = 3;
  CounterRng rng(seed);
  for (int i = 0; i < size; ++i) {
    std::vector<float> x;
    for (int d = 0; d < 6; ++d) x.push_back(static_cast<float>(rng.NextNormal()));
    data.labels.push_back(
        static_cast<std::int32_t>(std::max_element(x.begin(), x.begin() + 3) - x.begin()));
    data.values.insert(data.values.end(), x.begin(), x.end());
  }
  return data;
}

inline void ExpectSameBytes(const TrainResult& a, const TrainResult& b) {
  ASSERT_EQ(a.blocks.size(), b.blocks.size());
  for (std::size_t i = 0; i < a.blocks.size(); ++i) {
    EXPECT_EQ(a.blocks[i].parameter, b.blocks[i].parameter);
    EXPECT_EQ(a.blocks[i].delta, b.blocks[i].delta);
  }
  EXPECT_EQ(a.state, b.state);
  EXPECT_EQ(a.feedback.train_loss, b.feedback.train_loss);
  EXPECT_EQ(a.feedback.affinity, b.feedback.affinity);
  EXPECT_EQ(a.feedback.expert_loss, b.feedback.expert_loss);
}

class TrainerTest : public ::testing::Test {
 protected:
  TrainerTest() {
    SetTorchThreads(1);
    UseModel(SmallModel());
    task_.task = 7;
    task_.client = "north";
    task_.round = 2;
    task_.seed = kSeed;
    task_.experts = {1, 3};
    task_.training.batch_size = 16;
    task_.training.held_mass_lambda = 0.3;
  }

  void UseModel(const ModelOptions& options) {
    options_ = options;
    Result<ModelSpec> spec = BuildModelSpec(options);
    ASSERT_TRUE(spec.ok()) << spec.status().ToString();
    spec_ = std::move(spec).value();
    shards_.clear();
    for (int shard = 0; shard < spec_.ShardCount(); ++shard) {
      for (const int index : spec_.BlocksOf(shard)) {
        const ParameterBlock& block = spec_.blocks[static_cast<std::size_t>(index)];
        std::vector<float> values(static_cast<std::size_t>(block.ElementCount()));
        InitializeBlock(block, kSeed, values);
        shards_[shard].insert(shards_[shard].end(), values.begin(), values.end());
      }
    }
  }

  ShardValues Shards() {
    return [this](int shard) { return std::span<const float>(shards_[shard]); };
  }

  std::unique_ptr<LocalTrainer> MakeTrainer(int size = 80) {
    auto trainer =
        std::make_unique<LocalTrainer>(LocalData{MakeData(size, 31), MakeData(size / 2, 32)});
    const Status status = trainer->Prepare(spec_, kSeed);
    EXPECT_TRUE(status.ok()) << status.ToString();
    return trainer;
  }

  TrainResult Train(LocalTrainer& trainer, std::span<const std::byte> state = {}) {
    Result<TrainResult> result = trainer.Train(task_, Shards(), state, {});
    EXPECT_TRUE(result.ok()) << result.status().ToString();
    return result.ok() ? std::move(result).value() : TrainResult{};
  }

  // The received values plus the deltas.
  void Apply(const TrainResult& result) {
    for (const BlockDelta& block : result.blocks) {
      const int shard = spec_.ShardOf(block.parameter);
      std::size_t offset = 0;
      for (const int index : spec_.BlocksOf(shard)) {
        if (index == block.parameter) break;
        offset +=
            static_cast<std::size_t>(spec_.blocks[static_cast<std::size_t>(index)].ElementCount());
      }
      for (std::size_t i = 0; i < block.delta.size(); ++i) {
        shards_[shard][offset + i] += block.delta[i];
      }
    }
  }

  // The same model in float64; a local gate has its initial values.
  ReferenceMoe Reference() {
    ReferenceMoe reference{options_, task_.experts, {}};
    for (int shard = 0; shard < spec_.ShardCount(); ++shard) {
      std::size_t offset = 0;
      for (const int index : spec_.BlocksOf(shard)) {
        const ParameterBlock& block = spec_.blocks[static_cast<std::size_t>(index)];
        const auto first = shards_[shard].begin() + static_cast<std::ptrdiff_t>(offset);
        reference.blocks[block.name] = Vector(first, first + block.ElementCount());
        offset += static_cast<std::size_t>(block.ElementCount());
      }
    }
    for (const int index : spec_.BlocksOf(-1)) {
      const ParameterBlock& block = spec_.blocks[static_cast<std::size_t>(index)];
      std::vector<float> values(static_cast<std::size_t>(block.ElementCount()));
      InitializeBlock(block, kSeed, values);
      reference.blocks[block.name] = Vector(values.begin(), values.end());
    }
    return reference;
  }

  static Vector ExampleOf(const Dataset& data, std::int64_t index) {
    std::vector<float> values(static_cast<std::size_t>(data.ExampleElements()));
    data.CopyExample(index, values);
    return {values.begin(), values.end()};
  }

  ModelOptions options_;
  ModelSpec spec_;
  std::map<int, std::vector<float>> shards_;
  TaskAssignment task_;
};

}  // namespace fedmoe
