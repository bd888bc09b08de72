// The presets as lists of blocks: names, shapes, owners, initial values, costs; and what they
// refuse.
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

// "name extent extent" of each block.
std::vector<std::string> Lines(const ModelSpec& spec) {
  std::vector<std::string> lines;
  for (const ParameterBlock& block : spec.blocks) {
    std::string line = block.name;
    for (const std::int64_t extent : block.shape) line += " " + std::to_string(extent);
    lines.push_back(line);
  }
  return lines;
}

TEST(PresetsTest, BlocksHaveTheirNamesAndShapesInOrder) {
  EXPECT_THAT(
      Lines(Build(Small())),
      ElementsAre("trunk.weight 4 5", "trunk.bias 4", "gate.weight 2 4", "experts.0.up.weight 6 4",
                  "experts.0.up.bias 6", "experts.0.down.weight 4 6", "experts.0.down.bias 4",
                  "experts.1.up.weight 6 4", "experts.1.up.bias 6", "experts.1.down.weight 4 6",
                  "experts.1.down.bias 4", "norm.scale 4", "head.weight 3 4", "head.bias 3"));
}

TEST(PresetsTest, AnMlpThatReadsTextEmbedsEveryIdOfTheWindow) {
  ModelOptions options = Small();
  options.embedding = 2;
  options.gate_normalisation = GateNormalisation::kPopulation;
  const auto first = [&](GateInput input) {
    options.gate_input = input;
    std::vector<std::string> lines = Lines(Build(options));
    lines.resize(6);
    return lines;
  };
  EXPECT_THAT(first(GateInput::kToken),
              ElementsAre("embedding.weight 3 2", "trunk.weight 4 10", "trunk.bias 4",
                          "gate.weight 2 4", "gate.mean 4", "gate.square 4"));
  EXPECT_EQ(first(GateInput::kSequence)[3], "gate.weight 2 2");
  EXPECT_EQ(first(GateInput::kData)[3], "gate.weight 2 3");
  EXPECT_EQ(first(GateInput::kData)[4], "gate.mean 3");
  options.gate_mode = GateMode::kLocal;  // what is common stays common
  const ModelSpec spec = Build(options);
  EXPECT_EQ(spec.blocks[spec.Find("gate.weight")].owner, BlockOwner::kClient);
  EXPECT_EQ(spec.blocks[spec.Find("gate.mean")].owner, BlockOwner::kTrunk);
  EXPECT_THAT(Values(spec, "gate.square"), ElementsAre(0.0F, 0.0F, 0.0F));
}

TEST(PresetsTest, TheExpertsOwnGatesAreMergedRowByRow) {
  ModelOptions options = Small();
  options.post_hoc_batches = 2;
  const ModelSpec spec = Build(options);
  EXPECT_TRUE(ValidateModelSpec(spec).ok()) << ValidateModelSpec(spec).message();
  const ParameterBlock& own = spec.blocks[spec.Find("gate.post_hoc")];
  EXPECT_THAT(own.shape, ElementsAre(2, 4));
  EXPECT_EQ(own.merge, MergeRule::kRowsByTokens);
  EXPECT_EQ(own.owner, BlockOwner::kTrunk);
  EXPECT_EQ(spec.blocks[spec.Find("gate.weight")].merge, MergeRule::kByExamples);
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
            "model.preset must be one of moe_mlp, moe_cnn, moe_transformer (got 'x')");
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

ModelOptions SmallCnn() {
  ModelOptions options = Small();
  options.preset = "moe_cnn";
  options.channels = 2;
  options.inputs = 2 * 10 * 10;
  options.width = 8;
  options.depth = 1;
  options.top_k = 2;
  return options;
}

ModelOptions SmallTransformer() {
  ModelOptions options = Small();
  options.preset = "moe_transformer";
  options.inputs = 7;  // positions
  options.depth = 2;
  options.moe_layers = 2;
  return options;
}

TEST(CnnPreset, BlocksHaveTheirNamesAndShapesInOrder) {
  EXPECT_THAT(
      Lines(Build(SmallCnn())),
      ElementsAre(
          "stem.weight 2 2 3 3", "stem.norm.scale 2", "stem.norm.bias 2",
          "blocks.0.conv1.weight 2 2 3 3", "blocks.0.norm1.scale 2", "blocks.0.norm1.bias 2",
          "blocks.0.conv2.weight 2 2 3 3", "blocks.0.norm2.scale 2", "blocks.0.norm2.bias 2",
          "blocks.1.conv1.weight 4 2 3 3", "blocks.1.norm1.scale 4", "blocks.1.norm1.bias 4",
          "blocks.1.conv2.weight 4 4 3 3", "blocks.1.norm2.scale 4", "blocks.1.norm2.bias 4",
          "blocks.1.skip.weight 4 2 1 1",  //
          "blocks.2.conv1.weight 8 4 3 3", "blocks.2.norm1.scale 8", "blocks.2.norm1.bias 8",
          "blocks.2.conv2.weight 8 8 3 3", "blocks.2.norm2.scale 8", "blocks.2.norm2.bias 8",
          "blocks.2.skip.weight 8 4 1 1", "blocks.2.ffn_norm.scale 8",
          "blocks.2.gate.weight 2 8",  //
          "blocks.2.experts.0.up.weight 6 8", "blocks.2.experts.0.up.bias 6",
          "blocks.2.experts.0.down.weight 8 6", "blocks.2.experts.0.down.bias 8",
          "blocks.2.experts.1.up.weight 6 8", "blocks.2.experts.1.up.bias 6",
          "blocks.2.experts.1.down.weight 8 6", "blocks.2.experts.1.down.bias 8", "norm.scale 8",
          "head.weight 3 8", "head.bias 3"));
}

// 10 x 10 pixels; the stem's halved to 5 x 5, then 3 x 3 and 2 x 2 positions.
TEST(CnnPreset, CostsAreThoseOfTheConvolutionsAndMatrices) {
  const ModelSpec spec = Build(SmallCnn());
  EXPECT_EQ(spec.tokens_per_example, 4);
  const double stem = 2 * 2 * 9 * 100;
  const double first = (2 * 2 * 9 + 2 * 2 * 9) * 25;
  const double second = (4 * 2 * 9 + 4 * 4 * 9 + 4 * 2) * 9;
  const double third = (8 * 4 * 9 + 8 * 8 * 9 + 8 * 4) * 4;
  const double gate = 4 * 2 * 8;
  EXPECT_EQ(spec.trunk_flops, 2 * (stem + first + second + third + gate + 8 * 3));
  EXPECT_EQ(spec.expert_flops, 2 * (8 * 6 + 6 * 8));
  // Three values for each output of a convolution; a token's norms and gate.
  EXPECT_EQ(spec.trunk_activations,
            200 + 3 * (2 * 100 + 4 * 25 + 12 * 9 + 24 * 4) + 4 * (2 * 2 + 2 * 8) + 8 + 2 * 3);
  EXPECT_EQ(spec.expert_activations, 2 * 6 + 2 * 8);
}

TEST(TransformerPreset, BlocksHaveTheirNamesAndShapesInOrder) {
  ModelOptions options = SmallTransformer();
  options.experts = 1;
  options.moe_layers = 1;
  options.dense_width = 5;
  EXPECT_THAT(Lines(Build(options)),
              ElementsAre("embedding.weight 3 4",  //
                          "blocks.0.attention_norm.scale 4",
                          "blocks.0.attention.query_key_value.weight 12 4",
                          "blocks.0.attention.output.weight 4 4", "blocks.0.ffn_norm.scale 4",
                          "blocks.0.ffn.up.weight 5 4", "blocks.0.ffn.up.bias 5",
                          "blocks.0.ffn.down.weight 4 5", "blocks.0.ffn.down.bias 4",
                          "blocks.1.attention_norm.scale 4",
                          "blocks.1.attention.query_key_value.weight 12 4",
                          "blocks.1.attention.output.weight 4 4", "blocks.1.ffn_norm.scale 4",
                          "blocks.1.gate.weight 1 4",  //
                          "blocks.1.experts.0.up.weight 6 4", "blocks.1.experts.0.up.bias 6",
                          "blocks.1.experts.0.down.weight 4 6", "blocks.1.experts.0.down.bias 4",
                          "norm.scale 4", "head.weight 3 4"));
}

TEST(TransformerPreset, CostsAreThoseOfAttentionAndMatrices) {
  ModelOptions options = SmallTransformer();
  options.moe_layers = 1;
  options.dense_width = 5;
  const ModelSpec spec = Build(options);
  EXPECT_EQ(spec.tokens_per_example, 7);
  // A position: four projections, scores and mix over 7 positions, of each of two blocks; a dense
  // FFN, a gate of two rows, and the head.
  const double attention = 4 * 4 * 4 + 2 * 7 * 4;
  EXPECT_EQ(spec.trunk_flops, 7 * 2 * (2 * attention + 2 * 4 * 5 + 2 * 4 + 4 * 3));
  // 12 values a feature in each block, the scores twice, the dense FFN, gate, logits, and the ends.
  EXPECT_EQ(spec.trunk_activations,
            7 * (2 * (12 * 4 + 2 * 1 * 7) + (2 * 5 + 2 * 4) + 2 * 2 + 2 * 3 + 2 * 4));
  EXPECT_EQ(spec.expert_flops, 2 * (4 * 6 + 6 * 4));
}

TEST(LayersTest, ExpertsAreNumberedThroughAllLayers) {
  ModelOptions options = SmallTransformer();
  options.depth = 3;
  options.gate_mode = GateMode::kSharedRows;
  options.zero_experts = options.copy_experts = 1;
  options.constant_experts = 2;
  const ModelSpec spec = Build(options);
  EXPECT_EQ(spec.layers, 2);
  EXPECT_EQ(spec.experts, 4);
  EXPECT_EQ(spec.ShardCount(), 5);
  for (int layer = 0; layer < 2; ++layer) {
    // The first of three blocks has a dense FFN.
    const std::string prefix = "blocks." + std::to_string(1 + layer) + ".";
    for (int expert = 0; expert < 2; ++expert) {
      const int index = spec.Find(prefix + "experts." + std::to_string(expert) + ".down.weight");
      ASSERT_GE(index, 0);
      EXPECT_EQ(spec.blocks[index].expert, layer * 2 + expert);
      EXPECT_EQ(spec.ShardOf(index), ShardOfExpert(layer * 2 + expert));
    }
    // The gate's rows: the layer's experts, then those without computation.
    const ParameterBlock& gate = spec.blocks[spec.Find(prefix + "gate.weight")];
    EXPECT_THAT(gate.shape, ElementsAre(2 + 4, 4));
    EXPECT_EQ(gate.merge, MergeRule::kRowsByTokens);
    EXPECT_EQ(gate.expert, layer * 2);
    for (const char* name : {"constants.0.mix.weight", "constants.1.value"}) {
      EXPECT_EQ(spec.ShardOf(spec.Find(prefix + name)), kTrunkShard) << name;
    }
  }
  EXPECT_EQ(spec.Find("blocks.0.gate.weight"), -1);
  EXPECT_TRUE(ValidateModelSpec(spec).ok()) << ValidateModelSpec(spec).message();
}

TEST(LayersTest, ExpertsAlikeAreAlikeWithinTheirLayer) {
  ModelOptions options = SmallTransformer();
  options.expert_initialization = ExpertInitialization::kAlike;
  const ModelSpec spec = Build(options);
  const auto values = [&](const char* name) { return Values(spec, name); };
  EXPECT_EQ(values("blocks.1.experts.0.up.weight"), values("blocks.1.experts.1.up.weight"));
  EXPECT_NE(values("blocks.0.experts.0.up.weight"), values("blocks.1.experts.0.up.weight"));
  EXPECT_EQ(spec.blocks[spec.Find("blocks.1.experts.0.up.weight")].init_key,
            "blocks.1.experts.*.up.weight");
}

TEST(LayersTest, ADenseModelHasNoExperts) {
  for (ModelOptions options : {Small(), SmallCnn(), SmallTransformer()}) {
    options.moe_layers = 0;
    const ModelSpec spec = Build(options);
    EXPECT_EQ(spec.layers, 0);
    EXPECT_EQ(spec.experts, 0);
    EXPECT_EQ(spec.top_k, 0);
    EXPECT_EQ(spec.ShardCount(), 1);
    const std::string prefix = options.preset == "moe_mlp"   ? ""
                               : options.preset == "moe_cnn" ? "blocks.2."
                                                             : "blocks.1.";
    EXPECT_GE(spec.Find(prefix + "ffn.up.weight"), 0);
    EXPECT_EQ(spec.Find(prefix + "gate.weight"), -1);
    EXPECT_TRUE(ValidateModelSpec(spec).ok()) << ValidateModelSpec(spec).message();
  }
}

TEST(LayersTest, GatedExpertsHaveThreeMatricesAndNoBias) {
  ModelOptions options = Small();
  options.expert_activation = ExpertActivation::kSwiGlu;
  options.shared_expert_width = 3;
  options.selection_bias = true;
  options.constant_experts = 1;
  const ModelSpec spec = Build(options);
  EXPECT_THAT(
      Lines(spec),
      ElementsAre("trunk.weight 4 5", "trunk.bias 4", "gate.weight 3 4", "gate.bias 3",
                  "experts.0.gate.weight 6 4", "experts.0.up.weight 6 4",
                  "experts.0.down.weight 4 6", "experts.1.gate.weight 6 4",
                  "experts.1.up.weight 6 4", "experts.1.down.weight 4 6", "shared.gate.weight 3 4",
                  "shared.up.weight 3 4", "shared.down.weight 4 3", "constants.0.mix.weight 2 4",
                  "constants.0.value 4", "norm.scale 4", "head.weight 3 4", "head.bias 3"));
  EXPECT_EQ(spec.expert_flops, 2 * 3 * 4 * 6);
  EXPECT_EQ(spec.expert_activations, 3 * 6 + 2 * 4);
  // The gate has three rows; the shared expert is run for every token.
  EXPECT_EQ(spec.trunk_flops, 2 * (5 * 4 + 4 * 3 + 3 * 4 + 3 * 4 * 3));
  EXPECT_EQ(spec.trunk_activations, 4 * 4 + 5 + 2 * 3 + 2 * 3 + (3 * 3 + 2 * 4));
  EXPECT_EQ(spec.blocks[spec.Find("gate.bias")].owner, BlockOwner::kTrunk);
  options.gate_mode = GateMode::kLocal;
  const ModelSpec local = Build(options);
  EXPECT_EQ(local.blocks[local.Find("gate.bias")].owner, BlockOwner::kClient);
}

TEST(ModelOptionsTest, ZerosStandForThePresetsOwnChoice) {
  ModelOptions options;
  EXPECT_EQ(options.Depth(), 0);
  options.preset = "moe_cnn";
  EXPECT_EQ(options.Depth(), 1);
  EXPECT_EQ(options.Channels(), 1);
  options.inputs = 784;
  EXPECT_EQ(options.ImageSize(), 28);
  options.preset = "moe_transformer";
  EXPECT_EQ(options.Depth(), 4);
  EXPECT_EQ(options.Heads(), 2);
  options.width = 32;
  EXPECT_EQ(options.Heads(), 1);
  EXPECT_EQ(options.DenseWidth(), 64);
}

// The same change to the default options of a preset, and the words that refuse it.
template <typename Change>
std::string Refusal(ModelOptions options, Change change) {
  change(options);
  return ErrorOf(options);
}

TEST(PresetErrors, RangesOfEveryPreset) {
  const auto with = [](auto change) { return Refusal(ModelOptions(), change); };
  EXPECT_EQ(with([](ModelOptions& o) { o.depth = -1; }), "model.depth must be 0 to 256 (got -1)");
  EXPECT_EQ(with([](ModelOptions& o) { o.dense_width = -1; }),
            "model.dense_width must be 0 to 1048576 (got -1)");
  EXPECT_EQ(with([](ModelOptions& o) { o.shared_expert_width = -1; }),
            "model.shared_expert_width must be 0 to 1048576 (got -1)");
  EXPECT_EQ(with([](ModelOptions& o) { o.zero_experts = 65; }),
            "model.zero_computation.zero must be 0 to 64 (got 65)");
  EXPECT_EQ(with([](ModelOptions& o) { o.copy_experts = -1; }),
            "model.zero_computation.copy must be 0 to 64 (got -1)");
  EXPECT_EQ(with([](ModelOptions& o) { o.constant_experts = 65; }),
            "model.zero_computation.constant must be 0 to 64 (got 65)");
  EXPECT_EQ(with([](ModelOptions& o) { o.moe_layers = 2; }),
            "model.moe_layers must be 0 to 1 (got 2)");
  EXPECT_EQ(with([](ModelOptions& o) { o.moe_layers = -1; }),
            "model.moe_layers must be 0 to 1 (got -1)");
  // Of a dense model, the experts' options are of no account.
  EXPECT_EQ(with([](ModelOptions& o) { o.moe_layers = o.top_k = o.experts = 0; }), "accepted");
}

TEST(PresetErrors, OfWhatIsForTheWholeModel) {
  const auto with = [](auto change) { return Refusal(Small(), change); };
  EXPECT_EQ(with([](ModelOptions& o) { o.soup = 1.5; }), "model.soup must be 0 to 1 (got 1.5)");
  EXPECT_EQ(with([](ModelOptions& o) { o.soup = std::nan(""); }),
            "model.soup must be 0 to 1 (got nan)");
  EXPECT_EQ(with([](ModelOptions& o) { o.post_hoc_batches = -1; }),
            "model.gate.post_hoc_batches must be 0 to 1048576 (got -1)");
  EXPECT_EQ(with([](ModelOptions& o) {
              o.post_hoc_batches = 3;
              o.gate_mode = GateMode::kLocal;
            }),
            "model.gate.post_hoc_batches must be 0 with model.gate.mode local (got 3): nobody "
            "routes over all experts");
  EXPECT_EQ(with([](ModelOptions& o) {
              o.post_hoc_batches = 3;
              o.copy_experts = 1;
            }),
            "model.gate.post_hoc_batches must be 0 with model.zero_computation (got 3): nobody "
            "trains a gate for what is nobody's");
}

TEST(PresetErrors, KeysThatMlpHasNoUseFor) {
  const auto with = [](auto change) { return Refusal(Small(), change); };
  EXPECT_EQ(with([](ModelOptions& o) { o.channels = 3; }),
            "model.channels is not a key of moe_mlp (got 3); leave it out");
  EXPECT_EQ(with([](ModelOptions& o) { o.depth = 2; }),
            "model.depth is not a key of moe_mlp (got 2); leave it out");
  EXPECT_EQ(with([](ModelOptions& o) { o.heads = 4; }),
            "model.heads is not a key of moe_mlp (got 4); leave it out");
  EXPECT_EQ(with([](ModelOptions& o) { o.gate_input = GateInput::kSequence; }),
            "model.gate.input must be token or data for moe_mlp without model.embedding (got "
            "sequence): an example is one token");
  EXPECT_EQ(with([](ModelOptions& o) { o.embedding = -1; }),
            "model.embedding must be 0 to 209715 (got -1)");
  EXPECT_EQ(with([](ModelOptions& o) {
              o.embedding = 1;
              o.gate_input = GateInput::kSequence;
            }),
            "accepted");
}

TEST(PresetErrors, OfCnn) {
  const auto with = [](auto change) { return Refusal(SmallCnn(), change); };
  EXPECT_EQ(with([](ModelOptions& o) { o.heads = 2; }),
            "model.heads is not a key of moe_cnn (got 2); leave it out");
  EXPECT_EQ(with([](ModelOptions& o) { o.embedding = 2; }),
            "model.embedding is not a key of moe_cnn (got 2); leave it out");
  EXPECT_EQ(with([](ModelOptions& o) { o.gate_input = GateInput::kData; }),
            "model.gate.input must be token or sequence for moe_cnn (got data)");
  EXPECT_EQ(with([](ModelOptions& o) { o.channels = -1; }),
            "model.channels must be 0 to 1024 (got -1)");
  EXPECT_EQ(with([](ModelOptions& o) { o.inputs = 201; }),
            "model.inputs must be model.channels x size x size for moe_cnn, size at least 8 (got "
            "201 with 2 channels)");
  EXPECT_EQ(with([](ModelOptions& o) { o.inputs = 2 * 7 * 7; }),
            "model.inputs must be model.channels x size x size for moe_cnn, size at least 8 (got "
            "98 with 2 channels)");
  EXPECT_EQ(with([](ModelOptions& o) { o.width = 10; }),
            "model.width must be a multiple of 4 for moe_cnn (got 10)");
  EXPECT_EQ(with([](ModelOptions& o) { o.moe_layers = 2; }),
            "model.moe_layers must be 0 to 1 (got 2)");
  EXPECT_EQ(with([](ModelOptions& o) { o.depth = o.moe_layers = 2; }), "accepted");
}

TEST(PresetErrors, OfTransformer) {
  const auto with = [](auto change) { return Refusal(SmallTransformer(), change); };
  EXPECT_EQ(with([](ModelOptions& o) { o.channels = 1; }),
            "model.channels is not a key of moe_transformer (got 1); leave it out");
  EXPECT_EQ(with([](ModelOptions& o) { o.embedding = 2; }),
            "model.embedding is not a key of moe_transformer (got 2); leave it out");
  EXPECT_EQ(with([](ModelOptions& o) { o.heads = -1; }), "model.heads must be 0 to 4 (got -1)");
  EXPECT_EQ(with([](ModelOptions& o) { o.heads = 5; }), "model.heads must be 0 to 4 (got 5)");
  EXPECT_EQ(with([](ModelOptions& o) { o.heads = 4; }),
            "model.width must be a multiple of 2 x model.heads for moe_transformer (got 4 with 4 "
            "heads): a head's features turn in pairs");
  EXPECT_EQ(with([](ModelOptions& o) { o.experts = 2049; }),
            "model.experts must be 1 to 2048 (got 2049)");
  EXPECT_EQ(with([](ModelOptions& o) { o.heads = 2; }), "accepted");
}

}  // namespace
}  // namespace fedmoe
