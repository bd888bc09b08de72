// A client's memory is that of its trunk and its experts only: the peak of this process while a
// client trains, against the capacity model's prediction for the experts that it holds, and against
// that for the whole model.
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <map>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <malloc.h>

#include "client/local_trainer.h"
#include "common/counter_rng.h"
#include "federation/capacity.h"
#include "moe/model_options.h"

namespace fedmoe {
namespace {

constexpr double kMebibyte = 1024.0 * 1024.0;
constexpr int kContext = 16;
constexpr int kClasses = 30;

// A field of /proc/self/status in MiB.
double StatusMebibytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(field + ":")) return std::stod(line.substr(field.size() + 1)) / 1024.0;
  }
  ADD_FAILURE() << "no " << field << " in /proc/self/status";
  return 0.0;
}

// Few positions, and experts that are nearly all of the model: 8 MiB each.
ModelOptions LargeModel(int moe_layers) {
  ModelOptions options;
  options.preset = "moe_transformer";
  options.inputs = kContext;
  options.classes = kClasses;
  options.width = 128;
  options.depth = options.moe_layers = moe_layers;
  options.expert_width = 8192;
  options.experts = 16;
  options.top_k = 2;
  return options;
}

Dataset RandomText(int classes) {
  Dataset data;
  data.name = "noise";
  data.shape = {kContext};
  data.classes = classes;
  CounterRng rng(1);
  for (int i = 0; i <= 16 * kContext; ++i) {
    data.tokens.push_back(
        static_cast<std::uint16_t>(rng.NextBelow(static_cast<std::uint64_t>(classes))));
  }
  data.documents = {{0, 16 * kContext + 1}};
  for (int i = 0; i < 16; ++i) data.windows.push_back({i * kContext, 0});
  return data;
}

TaskAssignment TaskFor(std::vector<ExpertIndex> experts) {
  TaskAssignment task;
  task.task = 1;
  task.client = "small";
  task.experts = std::move(experts);
  task.training.batch_size = 1;
  return task;
}

std::vector<float> ShardOf(const ModelSpec& spec, int shard) {
  std::vector<float> values(static_cast<std::size_t>(spec.ShardElements(shard)));
  std::span<float> rest = values;
  for (const int index : spec.BlocksOf(shard)) {
    const ParameterBlock& block = spec.blocks[static_cast<std::size_t>(index)];
    const auto elements = static_cast<std::size_t>(block.ElementCount());
    InitializeBlock(block, 1, rest.first(elements));
    rest = rest.subspan(elements);
  }
  return values;
}

// Receives its shards, trains and is gone.
void Train(const ModelSpec& spec, const TaskAssignment& task, LocalTrainer& trainer) {
  std::map<int, std::vector<float>> received;
  received[kTrunkShard] = ShardOf(spec, kTrunkShard);
  for (const ExpertIndex expert : task.experts) {
    received[ShardOfExpert(expert)] = ShardOf(spec, ShardOfExpert(expert));
  }
  const auto shards = [&](int shard) { return std::span<const float>(received.at(shard)); };
  const Result<TrainResult> result = trainer.Train(task, shards, {}, {});
  ASSERT_TRUE(result.ok()) << result.status().ToString();
  for (const ExpertIndex held : task.experts) {
    EXPECT_GT(result->feedback.tokens[static_cast<std::size_t>(held)], 0.0) << held;
  }
  EXPECT_EQ(result->feedback.steps, 16);
}

// A client from its spec to its last step, received values and data included. Returns the rise of
// the process's peak over what it held before, in MiB.
double PeakMebibytes(const ModelSpec& spec, const TaskAssignment& task) {
  malloc_trim(0);  // what was freed before shall not be used again,
  std::ofstream("/proc/self/clear_refs") << "5\n";  // and the peak begins here
  const double before = StatusMebibytes("VmRSS");
  LocalTrainer trainer(LocalData{RandomText(kClasses), {}});
  EXPECT_TRUE(trainer.Prepare(spec, 1).ok());
  Train(spec, task, trainer);
  return StatusMebibytes("VmHWM") - before;
}

// A client with two experts trains within a budget that the whole model's training exceeds
// `times` over, and takes what the capacity model says. That counts the model; the matrix library's
// packed blocks come on top.
void ExpectTwoExpertsWithinTheBudget(int moe_layers, const std::vector<ExpertIndex>& held,
                                     double times) {
  SetTorchThreads(1);
  // What libtorch loads and starts when it is first used is no model's.
  ModelOptions tiny = LargeModel(1);
  tiny.width = 32;
  tiny.expert_width = 32;
  tiny.experts = 2;
  PeakMebibytes(BuildModelSpec(tiny).value(), TaskFor({0, 1}));

  const ModelSpec spec = BuildModelSpec(LargeModel(moe_layers)).value();
  const TaskAssignment task = TaskFor(held);
  const auto predicted = [&](int experts) {
    return PredictMemoryBytes(spec, task.training, experts) / kMebibyte;
  };
  const double whole = predicted(spec.experts);
  const double budget = whole / times;
  const double used = PeakMebibytes(spec, task);
  std::printf(
      "MoE layers of 16 experts: %d; the whole model takes %.1f MiB to train, %.0f times the "
      "budget of %.1f MiB; with 2 experts %.1f MiB are predicted and the peak was %.1f MiB\n",
      moe_layers, whole, times, budget, predicted(2), used);
  EXPECT_LE(predicted(2), budget);
  EXPECT_LE(used, budget);
  EXPECT_LE(used, 1.1 * predicted(2));
  // The measurement sees the model: its values, gradients, received copy and momentum.
  EXPECT_GE(used, 4.0 * 2.0 * static_cast<double>(spec.ShardBytes(1)) / kMebibyte);
}

// 16 experts are eight times 2; the trunk, which every client has, takes from that.
TEST(TrainerMemory, TwoOfSixteenExperts) { ExpectTwoExpertsWithinTheBudget(1, {3, 11}, 7.0); }

TEST(TrainerMemory, TwoExpertsOfAModelEightTimesTheBudget) {
  ExpectTwoExpertsWithinTheBudget(2, {5, 27}, 8.0);
}

}  // namespace
}  // namespace fedmoe
