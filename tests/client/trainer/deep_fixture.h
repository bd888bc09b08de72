// Small models of two MoE layers, and images and text for them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tests/client/trainer/trainer_fixture.h"
#include "tests/moe/reference_deep.h"

namespace fedmoe {

inline ModelOptions SmallTransformer() {
  ModelOptions options;
  options.preset = "moe_transformer";
  options.inputs = 8;
  options.classes = 5;
  options.width = 16;
  options.depth = options.moe_layers = 2;
  options.heads = 2;
  options.expert_width = 12;
  options.experts = 4;
  return options;
}

// One token an example: a window of MakeText.
inline ModelOptions SmallTextMlp() {
  ModelOptions options;
  options.inputs = 8;
  options.classes = 5;
  options.embedding = 3;
  options.width = 16;
  options.expert_width = 12;
  options.experts = 4;
  options.gate_input = GateInput::kData;
  options.gate_normalisation = GateNormalisation::kPopulation;
  return options;
}

inline ModelOptions SmallCnn() {
  ModelOptions options;
  options.preset = "moe_cnn";
  options.channels = 1;
  options.inputs = 64;
  options.classes = 3;
  options.width = 8;
  options.depth = options.moe_layers = 2;
  options.expert_width = 6;
  options.experts = 4;
  return options;
}

// One document of ids 0, 1, ..., period - 1, 0, 1, ...; windows of 8 side by side.
inline Dataset MakeText(int windows, int period = 5) {
  Dataset data;
  data.name = "verses";
  data.shape = {8};
  data.classes = 5;
  for (int i = 0; i < 8 * windows + 1; ++i) {
    data.tokens.push_back(static_cast<std::uint16_t>(i % period));
  }
  data.documents = {{0, 8 * windows + 1}};
  for (int i = 0; i < windows; ++i) data.windows.push_back({8 * i, 0});
  return data;
}

// Text without a pattern.
inline Dataset MakeRandomText(int windows, std::uint64_t seed) {
  Dataset data = MakeText(windows);
  CounterRng rng(seed);
  for (std::uint16_t& id : data.tokens) id = static_cast<std::uint16_t>(rng.NextBelow(5));
  return data;
}

// Bytes of 8 x 8: those of label 0 are bright on the left, of 1 on the right, of 2 nowhere.
inline Dataset MakeImages(int size, std::uint64_t seed) {
  Dataset data;
  data.name = "panes";
  data.shape = {1, 8, 8};
  data.classes = 3;
  CounterRng rng(seed);
  for (int i = 0; i < size; ++i) {
    data.labels.push_back(i % 3);
    for (int at = 0; at < 64; ++at) {
      const bool bright = i % 3 < 2 && (at % 8 >= 4) == (i % 3 == 1);
      data.pixels.push_back(static_cast<std::uint8_t>(rng.NextBelow(60) + (bright ? 150 : 0)));
    }
  }
  return data;
}

class DeepTrainerTest : public TrainerTest {
 protected:
  void UseTransformer() {
    UseModel(SmallTransformer());
    task_.experts = {1, 3, 4, 5};
    task_.training.batch_size = 4;
  }
  void UseCnn() {
    UseModel(SmallCnn());
    task_.experts = {0, 2, 5, 6};
    task_.training.batch_size = 8;
  }

  std::unique_ptr<LocalTrainer> TrainerOf(Dataset train, Dataset holdout = {}) {
    auto trainer = std::make_unique<LocalTrainer>(LocalData{std::move(train), std::move(holdout)});
    const Status status = trainer->Prepare(spec_, kSeed);
    EXPECT_TRUE(status.ok()) << status.ToString();
    return trainer;
  }

  std::vector<float> DeltaOf(const TrainResult& result, const std::string& name) const {
    for (const BlockDelta& block : result.blocks) {
      if (block.parameter == spec_.Find(name)) return block.delta;
    }
    return {};
  }
};

}  // namespace fedmoe
