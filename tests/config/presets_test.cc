// The preset moe_mlp as a list of blocks: names, shapes, owners, initial values, costs.
#include <cmath>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "moe/model_options.h"

namespace fedmoe {
namespace {

using ::testing::ElementsAre;

ModelOptions Small() {
  ModelOptions options;
  options.inputs = 5;
  options.classes = 3;
  options.width = 4;
  options.expert_width = 6;
  options.experts = 2;
  options.top_k = 1;
  return options;
}

ModelSpec Build(const ModelOptions& options) {
  const Result<ModelSpec> spec = BuildModelSpec(options);
  EXPECT_TRUE(spec.ok()) << spec.status().message();
  return spec.ok() ? *spec : ModelSpec{};
}

std::string ErrorOf(const ModelOptions& options) {
  const Result<ModelSpec> spec = BuildModelSpec(options);
  return spec.ok() ? "accepted" : spec.status().message();
}

std::vector<float> Values(const ModelSpec& spec, const std::string& name) {
  const int index = spec.Find(name);
  EXPECT_GE(index, 0) << name;
  if (index < 0) return {};
  std::vector<float> values(spec.blocks[index].ElementCount());
  InitializeBlock(spec.blocks[index], 1, values);
  return values;
}

TEST(PresetsTest, BlocksHaveTheirNamesAndShapesInOrder) {
  std::vector<std::string> lines;
  for (const ParameterBlock& block : Build(Small()).blocks) {
    std::string line = block.name;
    for (const std::int64_t extent : block.shape) line += " " + std::to_string(extent);
    lines.push_back(line);
  }
  EXPECT_THAT(
      lines,
      ElementsAre("trunk.weight 4 5", "trunk.bias 4", "gate.weight 2 4", "experts.0.up.weight 6 4",
                  "experts.0.up.bias 6", "experts.0.down.weight 4 6", "experts.0.down.bias 4",
                  "experts.1.up.weight 6 4", "experts.1.up.bias 6", "experts.1.down.weight 4 6",
                  "experts.1.down.bias 4", "norm.scale 4", "head.weight 3 4", "head.bias 3"));
}

TEST(PresetsTest, TheSpecIsValidAndCarriesTheOptions) {
  const ModelSpec spec = Build(Small());
  EXPECT_TRUE(ValidateModelSpec(spec).ok()) << ValidateModelSpec(spec).message();
  EXPECT_EQ(spec.preset, "moe_mlp");
  EXPECT_EQ(spec.experts, 2);
  EXPECT_EQ(spec.top_k, 1);
  EXPECT_EQ(spec.gate_mode, GateMode::kSharedAll);
}

TEST(PresetsTest, ShardsHoldTheTrunkAndEachExpert) {
  const ModelSpec spec = Build(Small());
  EXPECT_EQ(spec.ShardCount(), 3);
  EXPECT_THAT(spec.BlocksOf(kTrunkShard), ElementsAre(0, 1, 2, 11, 12, 13));
  EXPECT_THAT(spec.BlocksOf(ShardOfExpert(0)), ElementsAre(3, 4, 5, 6));
  EXPECT_THAT(spec.BlocksOf(ShardOfExpert(1)), ElementsAre(7, 8, 9, 10));
  EXPECT_EQ(spec.ShardElements(kTrunkShard), 20 + 4 + 8 + 4 + 12 + 3);
  EXPECT_EQ(spec.ShardElements(ShardOfExpert(1)), 24 + 6 + 24 + 4);
}

TEST(PresetsTest, TheGateModeSaysWhoOwnsAndHowItMerges) {
  ModelOptions options = Small();
  const auto gate = [&] { return Build(options).blocks[2]; };
  options.gate_mode = GateMode::kSharedAll;
  EXPECT_EQ(gate().owner, BlockOwner::kTrunk);
  EXPECT_EQ(gate().merge, MergeRule::kByExamples);
  options.gate_mode = GateMode::kSharedRows;
  EXPECT_EQ(gate().owner, BlockOwner::kTrunk);
  EXPECT_EQ(gate().merge, MergeRule::kRowsByTokens);
  options.gate_mode = GateMode::kLocal;
  EXPECT_EQ(gate().owner, BlockOwner::kClient);
  EXPECT_EQ(Build(options).ShardOf(2), -1);
  EXPECT_THAT(Build(options).BlocksOf(kTrunkShard), ElementsAre(0, 1, 11, 12, 13));
}

TEST(PresetsTest, TheOtherBlocksBelongToTheTrunkOrTheirExpert) {
  const ModelSpec spec = Build(Small());
  for (const ParameterBlock& block : spec.blocks) {
    const bool expert = block.name.starts_with("experts.");
    EXPECT_EQ(block.owner, expert ? BlockOwner::kExpert : BlockOwner::kTrunk) << block.name;
    EXPECT_EQ(block.merge, expert ? MergeRule::kByTokens : MergeRule::kByExamples) << block.name;
    EXPECT_EQ(block.expert, expert ? block.name[8] - '0' : -1) << block.name;
  }
}

TEST(PresetsTest, AGateOnTheDataHasItsInputs) {
  ModelOptions options = Small();
  options.gate_input = GateInput::kData;
  const ParameterBlock gate = Build(options).blocks[2];
  EXPECT_THAT(gate.shape, ElementsAre(2, 5));
  EXPECT_DOUBLE_EQ(gate.scale, 1.0 / std::sqrt(5.0));
}

TEST(PresetsTest, InitializersKeepTheVarianceOfTheLayersOutput) {
  const ModelSpec spec = Build(Small());
  const auto block = [&](const char* name) { return spec.blocks[spec.Find(name)]; };
  EXPECT_EQ(block("trunk.weight").initializer, Initializer::kUniform);
  EXPECT_DOUBLE_EQ(block("trunk.weight").scale, std::sqrt(6.0 / 5));
  EXPECT_EQ(block("gate.weight").initializer, Initializer::kNormal);
  EXPECT_DOUBLE_EQ(block("gate.weight").scale, 0.5);
  EXPECT_DOUBLE_EQ(block("experts.1.up.weight").scale, std::sqrt(6.0 / 4));
  EXPECT_DOUBLE_EQ(block("experts.1.down.weight").scale, 0.5 * std::sqrt(3.0 / 6));
  EXPECT_DOUBLE_EQ(block("head.weight").scale, std::sqrt(3.0 / 4));
  EXPECT_EQ(block("norm.scale").initializer, Initializer::kOnes);
  for (const char* name : {"trunk.bias", "experts.0.up.bias", "experts.0.down.bias", "head.bias"}) {
    EXPECT_EQ(block(name).initializer, Initializer::kZeros) << name;
  }
}

TEST(PresetsTest, ExpertsStartAlikeOrApart) {
  ModelOptions options = Small();
  for (const std::string part : {"up.weight", "down.weight"}) {
    options.expert_initialization = ExpertInitialization::kAlike;
    ModelSpec spec = Build(options);
    EXPECT_EQ(Values(spec, "experts.0." + part), Values(spec, "experts.1." + part));
    EXPECT_EQ(spec.blocks[spec.Find("experts.1." + part)].init_key, "experts.*." + part);
    options.expert_initialization = ExpertInitialization::kApart;
    spec = Build(options);
    EXPECT_NE(Values(spec, "experts.0." + part), Values(spec, "experts.1." + part));
  }
}

TEST(PresetsTest, CostsAreThoseOfTheMatrices) {
  const ModelSpec spec = Build(Small());
  EXPECT_EQ(spec.trunk_flops, 2 * (5 * 4 + 4 * 2 + 4 * 3));
  EXPECT_EQ(spec.expert_flops, 2 * (4 * 6 + 6 * 4));
  EXPECT_EQ(spec.trunk_activations, 4 * 4 + 5 + 2 * 3 + 2 * 2);
  EXPECT_EQ(spec.expert_activations, 2 * 6 + 2 * 4);
}

TEST(PresetsTest, OptionsOutOfRangeAreNamed) {
  const auto with = [](auto change) {
    ModelOptions options;
    change(options);
    return ErrorOf(options);
  };
  EXPECT_EQ(with([](ModelOptions& o) { o.preset = "x"; }),
            "model.preset must be one of moe_mlp (got 'x')");
  EXPECT_EQ(with([](ModelOptions& o) { o.inputs = 0; }),
            "model.inputs must be 1 to 1048576 (got 0)");
  EXPECT_EQ(with([](ModelOptions& o) { o.classes = (1 << 20) + 1; }),
            "model.classes must be 1 to 1048576 (got 1048577)");
  EXPECT_EQ(with([](ModelOptions& o) { o.width = -1; }),
            "model.width must be 1 to 1048576 (got -1)");
  EXPECT_EQ(with([](ModelOptions& o) { o.expert_width = 0; }),
            "model.expert_width must be 1 to 1048576 (got 0)");
  EXPECT_EQ(with([](ModelOptions& o) { o.experts = 4097; }),
            "model.experts must be 1 to 4096 (got 4097)");
  EXPECT_EQ(with([](ModelOptions& o) { o.top_k = 9; }),
            "model.top_k must be 1 to model.experts (got 9 > 8)");
  EXPECT_EQ(with([](ModelOptions& o) { o.top_k = 0; }),
            "model.top_k must be 1 to model.experts (got 0)");
  EXPECT_EQ(with([](ModelOptions& o) { o.experts = o.top_k = 1; }), "accepted");
}

}  // namespace
}  // namespace fedmoe
