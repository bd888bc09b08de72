// moe_cnn and moe_transformer: against plain loops in float64, what may see what, and that every
// block of every preset takes part.
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "moe/moe_cnn.h"
#include "moe/moe_transformer.h"
#include "moe/torch.h"
#include "tests/moe/model_fixture.h"
#include "tests/moe/reference_deep.h"

namespace fedmoe {
namespace {

using ::testing::ElementsAre;

ModelOptions Cnn(int channels, int size) {
  ModelOptions options;
  options.preset = "moe_cnn";
  options.channels = channels;
  options.inputs = channels * size * size;
  options.classes = 5;
  options.width = 16;
  options.expert_width = 9;
  options.experts = 4;
  return options;
}

ModelOptions Transformer() {
  ModelOptions options;
  options.preset = "moe_transformer";
  options.inputs = 9;  // positions
  options.classes = 7;
  options.width = 12;
  options.depth = 2;
  options.heads = 3;
  options.moe_layers = 2;
  options.expert_width = 10;
  options.experts = 4;
  return options;
}

std::unique_ptr<MoeModel> RandomModel(const ModelOptions& options, std::vector<ExpertIndex> held,
                                      CounterRng& rng, double scale = 0.5) {
  std::unique_ptr<MoeModel> model = BuildMoeModel(options, SpecOf(options), std::move(held));
  FillNormal(model->parameters().Values(), rng, scale);
  return model;
}

ReferenceBlocks BlocksOf(const MoeModel& model) {
  ReferenceBlocks blocks;
  for (const int index : model.parameters().HeldBlocks()) {
    const std::vector<float> values = ValuesOf(model.parameters().Parameter(index));
    blocks[model.spec().blocks[static_cast<std::size_t>(index)].name] =
        Vector(values.begin(), values.end());
  }
  return blocks;
}

void ExpectRow(const torch::Tensor& logits, std::int64_t row, const Vector& expected) {
  for (std::size_t c = 0; c < expected.size(); ++c) {
    ASSERT_NEAR(logits[row][static_cast<std::int64_t>(c)].item<double>(), expected[c],
                1e-4 * (1.0 + std::abs(expected[c])))
        << row;
  }
}

TEST(MoeCnn, EqualsThePlainLoopsInFloat64) {
  for (const int size : {8, 11}) {  // 11: every halving rounds up
    for (const int depth : {1, 2}) {
      SCOPED_TRACE("size " + std::to_string(size) + ", depth " + std::to_string(depth));
      ModelOptions options = Cnn(2, size);
      options.depth = depth;
      options.experts = options.top_k = 1;
      CounterRng rng(static_cast<std::uint64_t>(10 * size + depth));
      const auto model = RandomModel(options, {0}, rng);
      const torch::Tensor inputs = RandomInputs(options, 2, rng);
      const torch::Tensor logits = model->Forward(inputs).logits;
      const ReferenceBlocks blocks = BlocksOf(*model);
      for (std::int64_t row = 0; row < 2; ++row) {
        const std::vector<float> input = ValuesOf(inputs[row]);
        ExpectRow(logits, row, ReferenceCnn(options, blocks, Vector(input.begin(), input.end())));
      }
    }
  }
}

TEST(MoeCnn, TakesTheImagesOfMnistAndCifar) {
  for (const auto& [channels, size] : {std::pair(1, 28), std::pair(3, 32)}) {
    const ModelOptions options = Cnn(channels, size);
    CounterRng rng(2);
    const auto model = RandomModel(options, {0, 3}, rng);
    const torch::Tensor inputs = RandomInputs(options, 3, rng);
    const MoeOutput output = model->Forward(inputs);
    EXPECT_EQ(output.logits.sizes(), (std::vector<std::int64_t>{3, 5}));
    ASSERT_EQ(output.layers.size(), 1U);
    // 4 x 4 tokens an image.
    EXPECT_EQ(model->spec().tokens_per_example, 16);
    EXPECT_EQ(output.layers[0].selected.sizes(), (std::vector<std::int64_t>{3 * 16, 2}));
    // An image may also come with its shape.
    const torch::Tensor shaped = inputs.view({3, channels, size, size});
    EXPECT_TRUE(model->Forward(shaped).logits.equal(output.logits));
  }
}

TEST(MoeCnn, AnImageDoesNotSeeTheOthersOfItsBatch) {
  for (const GateInput input : {GateInput::kToken, GateInput::kSequence}) {
    ModelOptions options = Cnn(1, 12);
    options.gate_input = input;
    CounterRng rng(3);
    const auto model = RandomModel(options, {0, 1, 2, 3}, rng);
    const torch::Tensor inputs = RandomInputs(options, 4, rng);
    const torch::Tensor together = model->Forward(inputs).logits;
    for (std::int64_t row = 0; row < 4; ++row) {
      const torch::Tensor alone = model->Forward(inputs.narrow(0, row, 1)).logits[0];
      EXPECT_LT(LargestDifference(alone, together[row]), 1e-4F);
    }
  }
}

TEST(MoeCnn, AGateOnTheSequenceSendsAllTokensOfAnImageTheSameWay) {
  ModelOptions options = Cnn(1, 28);
  CounterRng rng(4);
  for (const GateInput input : {GateInput::kToken, GateInput::kSequence}) {
    options.gate_input = input;
    const auto model = RandomModel(options, {0, 1, 2, 3}, rng);
    const MoeOutput output = model->Forward(RandomInputs(options, 3, rng));
    const torch::Tensor logits = output.layers[0].logits.view({3, 16, 4});
    const bool same = logits.eq(logits.narrow(1, 0, 1)).all().item<bool>();
    EXPECT_EQ(same, input == GateInput::kSequence);
    EXPECT_GT(LargestDifference(logits[0][0], logits[1][0]), 0.0F);
  }
}

TEST(MoeCnn, TheLastFfnsAreTheMoeLayers) {
  ModelOptions options = Cnn(1, 8);
  options.depth = 2;
  CounterRng rng(5);
  const auto model = RandomModel(options, {2}, rng);
  std::vector<std::string> names;
  for (const int index : model->parameters().HeldBlocks()) {
    const std::string& name = model->spec().blocks[static_cast<std::size_t>(index)].name;
    if (name.find("up.weight") != std::string::npos) names.push_back(name);
  }
  EXPECT_THAT(names, ElementsAre("blocks.4.ffn.up.weight", "blocks.5.experts.2.up.weight"));
  EXPECT_FALSE(
      model->parameters().Parameter(model->spec().Find("blocks.5.experts.1.up.bias")).defined());
  EXPECT_THROW(model->parameters().Named("blocks.5.experts.1.up.bias"), c10::Error);
  EXPECT_THROW(model->parameters().Named("blocks.9"), c10::Error);
}

TEST(MoeTransformer, EqualsThePlainLoopsInFloat64) {
  for (const int moe_layers : {0, 1, 2}) {
    SCOPED_TRACE("MoE layers: " + std::to_string(moe_layers));
    ModelOptions options = Transformer();
    options.moe_layers = moe_layers;
    options.experts = options.top_k = 1;
    CounterRng rng(static_cast<std::uint64_t>(20 + moe_layers));
    const auto model = RandomModel(options, AllExperts(SpecOf(options)), rng);
    const torch::Tensor ids = RandomInputs(options, 2, rng);
    const torch::Tensor logits = model->Forward(ids).logits;
    ASSERT_EQ(logits.sizes(), (std::vector<std::int64_t>{2 * 9, 7}));
    const ReferenceBlocks blocks = BlocksOf(*model);
    for (std::int64_t example = 0; example < 2; ++example) {
      const auto* id = ids[example].data_ptr<std::int64_t>();
      const std::vector<int> window(id, id + 9);
      const std::vector<Vector> expected = ReferenceTransformer(options, blocks, window);
      for (std::int64_t p = 0; p < 9; ++p) {
        ExpectRow(logits, example * 9 + p, expected[static_cast<std::size_t>(p)]);
      }
    }
  }
}

TEST(MoeTransformer, NoPositionSeesWhatComesAfterIt) {
  for (const GateInput input : {GateInput::kToken, GateInput::kSequence, GateInput::kData}) {
    ModelOptions options = Transformer();
    options.gate_input = input;
    options.zero_experts = options.constant_experts = 1;
    options.shared_expert_width = 3;
    CounterRng rng(6);
    const auto model = RandomModel(options, {0, 1, 2, 3, 4, 5, 6, 7}, rng);
    const torch::Tensor ids = RandomInputs(options, 1, rng);
    const MoeOutput before = model->Forward(ids);
    for (const std::int64_t changed : {1, 5, 8}) {
      torch::Tensor other = ids.clone();
      other[0][changed] = (other[0][changed] + 1).remainder(7);
      const MoeOutput after = model->Forward(other);
      for (std::int64_t p = 0; p < 9; ++p) {
        const float difference = LargestDifference(before.logits[p], after.logits[p]);
        if (p < changed) {
          EXPECT_LT(difference, 1e-6F) << p << " saw " << changed;
        }
        if (p == changed) {
          EXPECT_GT(difference, 1e-3F) << p;
        }
      }
      EXPECT_TRUE(before.layers[1]
                      .selected.narrow(0, 0, changed)
                      .equal(after.layers[1].selected.narrow(0, 0, changed)));
    }
  }
}

TEST(MoeTransformer, AWindowMayBeShorterThanTheContext) {
  const ModelOptions options = Transformer();
  CounterRng rng(7);
  const auto model = RandomModel(options, {0, 1, 4, 5}, rng);
  const torch::Tensor ids = RandomInputs(options, 1, rng);
  const torch::Tensor whole = model->Forward(ids).logits;
  const torch::Tensor start = model->Forward(ids.narrow(1, 0, 4)).logits;
  ASSERT_EQ(start.size(0), 4);
  EXPECT_LT(LargestDifference(start, whole.narrow(0, 0, 4)), 1e-5F);
}

TEST(MoeTransformer, AGateOnTheDataReadsTheSharesOfWhatCameSoFar) {
  ModelOptions options = Transformer();
  options.gate_input = GateInput::kData;
  options.gate_normalisation = GateNormalisation::kPopulation;
  CounterRng rng(9);
  const auto model = RandomModel(options, {0, 1, 4, 5}, rng);
  const torch::Tensor ids = torch::tensor({{2, 0, 2, 1}}, torch::kInt64);
  torch::Tensor shares = torch::zeros({4, options.classes});
  for (int position = 0; position < 4; ++position) {
    for (int before = 0; before <= position; ++before) {
      shares[position][ids[0][before].item<std::int64_t>()] +=
          1.0F / static_cast<float>(position + 1);
    }
  }
  for (const GateOutput& layer : model->Forward(ids).layers) {
    EXPECT_LT(LargestDifference(layer.read, Standardise(shares)), 1e-5F);
  }
}

TEST(MoeTransformer, AGateOnTheSequenceReadsTheMeanOfWhatCameSoFar) {
  ModelOptions options = Transformer();
  options.depth = options.moe_layers = 1;
  options.gate_input = GateInput::kSequence;
  CounterRng rng(8);
  const auto model = RandomModel(options, {0, 1, 2, 3}, rng);
  const torch::Tensor ids = RandomInputs(options, 1, rng);
  const torch::Tensor by_sequence = model->Forward(ids).layers[0].logits;
  options.gate_input = GateInput::kToken;
  const auto other = BuildMoeModel(options, SpecOf(options), {0, 1, 2, 3});
  other->parameters().Values().copy_(model->parameters().Values());
  // At the first position they are one, later they differ.
  const torch::Tensor by_token = other->Forward(ids).layers[0].logits;
  EXPECT_LT(LargestDifference(by_sequence[0], by_token[0]), 1e-5F);
  EXPECT_GT(LargestDifference(by_sequence[4], by_token[4]), 1e-3F);
  // Ids that are all the same have one mean everywhere.
  const torch::Tensor constant = torch::full({1, 9}, 3, torch::kInt64);
  const torch::Tensor flat = model->Forward(constant).layers[0].logits;
  EXPECT_LT(LargestDifference(flat, flat.narrow(0, 0, 1)), 1e-4F);
}

// One block of attention, one head of 8, whose last pair of features, which hardly turns, holds all
// queries off the id 0: what stands behind a prefix of that id is computed as if it stood first.
TEST(MoeTransformer, AttentionDependsOnRelativePositionsOnly) {
  ModelOptions options = Transformer();
  options.width = 8;
  options.heads = options.depth = 1;
  options.moe_layers = 0;
  CounterRng rng(9);
  const auto model = RandomModel(options, {}, rng);
  {
    const torch::NoGradGuard no_gradient;
    const ParameterStore& store = model->parameters();
    store.Named("blocks.0.attention_norm.scale").fill_(1.0F);
    torch::Tensor embedding = store.Named("embedding.weight");
    embedding.sign_();  // all of one norm
    embedding.select(1, 3).fill_(1.0F);
    embedding[0][3] = -1.0F;
    torch::Tensor all = store.Named("blocks.0.attention.query_key_value.weight");
    for (const int row : {3, 7, 8 + 3, 8 + 7}) all[row].zero_();
    all[3][3] = all[8 + 3][3] = 5.0F;
  }
  const torch::NoGradGuard no_gradient;
  const auto logits = [&](std::vector<std::int64_t> ids) {
    const auto positions = static_cast<std::int64_t>(ids.size());
    return model->Forward(torch::tensor(ids, torch::kInt64).view({1, positions})).logits;
  };
  const torch::Tensor first = logits({5, 2, 6, 1});
  const torch::Tensor shifted = logits({0, 0, 0, 5, 2, 6, 1});
  EXPECT_LT(LargestDifference(first, shifted.narrow(0, 3, 4)), 2e-3F);
  // Without positions, the order of what came before would not count.
  const torch::Tensor swapped = logits({2, 5, 6, 1});
  EXPECT_GT(LargestDifference(first[3], swapped[3]), 2e-2F);
}

ModelOptions RandomOptions(CounterRng& rng) {
  const auto below = [&](int limit) {
    return static_cast<int>(rng.NextBelow(static_cast<std::uint64_t>(limit)));
  };
  ModelOptions options;
  const char* presets[] = {"moe_mlp", "moe_cnn", "moe_transformer"};
  options.preset = presets[below(3)];
  const bool mlp = options.preset == "moe_mlp";
  options.classes = 2 + below(5);
  options.width = 4 * (2 + below(3));
  options.inputs = options.preset == "moe_cnn" ? 64 * 2 : 6 + below(4);
  options.channels = options.preset == "moe_cnn" ? 2 : 0;
  options.depth = mlp ? 0 : 1 + below(2);
  options.heads = options.preset == "moe_transformer" ? 1 + below(2) : 0;
  options.moe_layers = below((mlp ? 1 : options.depth) + 1);
  options.dense_width = 7 * below(2);
  options.expert_width = 6 + below(4);
  options.experts = 1 + below(5);
  options.top_k = 1 + below(options.experts);
  options.expert_activation = static_cast<ExpertActivation>(below(4));
  options.shared_expert_width = 6 * below(2);
  options.zero_experts = below(2);
  options.copy_experts = below(2);
  options.constant_experts = below(3);
  options.gate_mode = static_cast<GateMode>(below(3));
  const GateInput inputs[] = {GateInput::kToken, mlp ? GateInput::kData : GateInput::kSequence};
  options.gate_input = inputs[below(2)];
  options.selection_bias = below(2) == 1;
  options.expert_initialization = static_cast<ExpertInitialization>(below(2));
  return options;
}

// Random values alone may silence a whole stage of a few channels.
void AddInitialValues(const MoeModel& model) {
  const torch::NoGradGuard no_gradient;
  for (const int index : model.parameters().HeldBlocks()) {
    const ParameterBlock& block = model.spec().blocks[static_cast<std::size_t>(index)];
    std::vector<float> values(static_cast<std::size_t>(block.ElementCount()));
    InitializeBlock(block, 1, values);
    model.parameters().Parameter(index).add_(torch::tensor(values).view(block.shape));
  }
}

// How many tokens chose the block's expert or constant expert; many for other blocks.
double TokensOf(const ParameterBlock& block, const ModelOptions& options, const MoeOutput& output) {
  for (const FfnPlace& place : FfnPlaces(options)) {
    if (place.layer < 0 || !block.name.starts_with(place.prefix)) continue;
    const std::string name = block.name.substr(place.prefix.size());
    int row = -1;
    if (name.starts_with("experts.")) row = std::stoi(name.substr(8));
    if (name.starts_with("constants.")) {
      row = options.experts + options.zero_experts + options.copy_experts +
            std::stoi(name.substr(10));
    }
    if (row < 0) continue;
    const torch::Tensor& selected = output.layers[static_cast<std::size_t>(place.layer)].selected;
    return selected.eq(row).sum().item<double>();
  }
  return 1e9;
}

TEST(BuildMoeModel, EveryBlockOfEverySpecTakesPart) {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    CounterRng rng(seed);
    const ModelOptions options = RandomOptions(rng);
    const ModelSpec spec = SpecOf(options);
    SCOPED_TRACE("seed " + std::to_string(seed) + ", " + options.preset);
    ASSERT_TRUE(ValidateModelSpec(spec).ok()) << ValidateModelSpec(spec).ToString();
    const auto model = RandomModel(options, AllExperts(spec), rng, 0.1);
    AddInitialValues(*model);
    ASSERT_EQ(model->parameters().HeldBlocks().size(), spec.blocks.size());
    const MoeOutput output = model->Forward(RandomInputs(options, 40, rng));
    ASSERT_EQ(output.layers.size(), static_cast<std::size_t>(options.moe_layers));
    torch::Tensor loss = TaskLoss(output, options.classes);
    // With one expert chosen, whose weight is 1, only the gate's own losses train it.
    for (const GateOutput& layer : output.layers) loss = loss + RouterZLoss(layer);
    loss.backward();
    const torch::Tensor before = model->parameters().Values().clone();
    model->UpdateSelectionBias(output, 0.125);
    std::int64_t offset = 0;
    for (std::size_t i = 0; i < spec.blocks.size(); ++i) {
      const ParameterBlock& block = spec.blocks[i];
      const torch::Tensor parameter = model->parameters().Parameter(static_cast<int>(i));
      ASSERT_EQ(parameter.sizes().vec(), block.shape) << block.name;
      const torch::Tensor was = before.narrow(0, offset, block.ElementCount());
      offset += block.ElementCount();
      const bool bias = block.name.ends_with("gate.bias");
      if (!bias) {
        EXPECT_TRUE(parameter.flatten().equal(was)) << block.name;
      }
      const double tokens = TokensOf(block, options, output);
      const float gradient = parameter.grad().abs().sum().item<float>();
      if (bias || tokens == 0.0) {
        EXPECT_EQ(gradient, 0.0F) << block.name;
      }
      // Of fewer tokens, every hidden unit may be silent.
      if (!bias && tokens > 10.0) {
        EXPECT_GT(gradient, 0.0F) << block.name;
      }
    }
  }
}

// A part of the experts, or none: the module holds the trunk and theirs.
TEST(BuildMoeModel, HoldsTheTrunkAndTheExpertsGiven) {
  for (std::uint64_t seed = 101; seed <= 130; ++seed) {
    CounterRng rng(seed);
    const ModelOptions options = RandomOptions(rng);
    const ModelSpec spec = SpecOf(options);
    SCOPED_TRACE("seed " + std::to_string(seed) + ", " + options.preset);
    std::vector<ExpertIndex> held;
    for (int e = 0; e < spec.experts; ++e) {
      if (rng.NextBelow(3) == 0) held.push_back(e);
    }
    const auto model = RandomModel(options, held, rng);
    std::int64_t elements = 0;
    for (int i = 0; i < static_cast<int>(spec.blocks.size()); ++i) {
      const ParameterBlock& block = spec.blocks[static_cast<std::size_t>(i)];
      const bool expected = block.owner != BlockOwner::kExpert ||
                            std::find(held.begin(), held.end(), block.expert) != held.end();
      ASSERT_EQ(model->parameters().Parameter(i).defined(), expected) << block.name;
      if (expected) elements += block.ElementCount();
    }
    EXPECT_EQ(model->parameters().Values().numel(), elements);
    const MoeOutput output = model->Forward(RandomInputs(options, 4, rng));
    EXPECT_TRUE(output.logits.isfinite().all().item<bool>());
    TaskLoss(output, options.classes).backward();
    model->ReleaseGradients();
    EXPECT_FALSE(model->parameters().Gradients().defined());
  }
}

}  // namespace
}  // namespace fedmoe
