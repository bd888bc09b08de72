#include "federation/model_spec.h"

#include <cmath>
#include <functional>
#include <limits>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fedmoe {
namespace {

using testing::ElementsAre;

ModelSpec Spec() {
  ModelSpec spec;
  spec.preset = "test";
  spec.experts = 2;
  spec.top_k = 1;
  spec.gate_mode = GateMode::kSharedRows;
  spec.blocks = {
      {.name = "trunk.weight",
       .shape = {3, 4},
       .initializer = Initializer::kUniform,
       .scale = 0.5,
       .init_key = "trunk"},
      {.name = "experts.0.weight",
       .shape = {5},
       .owner = BlockOwner::kExpert,
       .expert = 0,
       .merge = MergeRule::kByTokens,
       .initializer = Initializer::kNormal,
       .scale = 2.0,
       .init_key = "experts"},
      {.name = "gate.weight", .shape = {2, 7}, .expert = 0, .merge = MergeRule::kRowsByTokens},
      {.name = "experts.1.weight",
       .shape = {5},
       .owner = BlockOwner::kExpert,
       .expert = 1,
       .merge = MergeRule::kByTokens,
       .initializer = Initializer::kNormal,
       .scale = 2.0,
       .init_key = "experts"},
      {.name = "client.scale", .shape = {}, .owner = BlockOwner::kClient},
  };
  return spec;
}

TEST(ModelSpec, PutsEveryBlockIntoItsShard) {
  const ModelSpec spec = Spec();
  EXPECT_EQ(spec.ShardCount(), 3);
  EXPECT_EQ(spec.ShardOf(0), kTrunkShard);
  EXPECT_EQ(spec.ShardOf(1), ShardOfExpert(0));
  EXPECT_EQ(spec.ShardOf(3), ShardOfExpert(1));
  EXPECT_EQ(spec.ShardOf(4), -1);
  EXPECT_THAT(spec.BlocksOf(kTrunkShard), ElementsAre(0, 2));
  EXPECT_THAT(spec.BlocksOf(2), ElementsAre(3));
  EXPECT_EQ(spec.ShardElements(kTrunkShard), 12 + 14);
  EXPECT_EQ(spec.ShardBytes(2), 20);
  EXPECT_EQ(spec.blocks[4].ElementCount(), 1);
  EXPECT_EQ(spec.ShardName(kTrunkShard), "trunk");
  EXPECT_EQ(spec.ShardName(ShardOfExpert(1)), "expert.1");
  EXPECT_EQ(spec.Find("gate.weight"), 2);
  EXPECT_EQ(spec.Find("gate.bias"), -1);
}

struct Case {
  void (*change)(ModelSpec&);
  const char* message;
};

class BadSpec : public testing::TestWithParam<Case> {};

TEST_P(BadSpec, IsRefusedByTheNameOfTheBlock) {
  ModelSpec spec = Spec();
  ASSERT_EQ(ValidateModelSpec(spec), Status::Ok());
  GetParam().change(spec);
  EXPECT_EQ(ValidateModelSpec(spec), InvalidArgument(GetParam().message));
}

using S = ModelSpec;

INSTANTIATE_TEST_SUITE_P(
    Fields, BadSpec,
    testing::Values(
        Case{[](S& s) { s.blocks.clear(); }, "the model has no blocks"},
        Case{[](S& s) { s.experts = -1; }, "the model has -1 experts, must be at least 0"},
        Case{[](S& s) { s.top_k = 0; }, "the model's top_k is 0, must be 1 to 2"},
        Case{[](S& s) { s.top_k = 3; }, "the model's top_k is 3, must be 1 to 2"},
        Case{[](S& s) { s.blocks[2].name.clear(); }, "block 2 has no name"},
        Case{[](S& s) { s.blocks[2].name = "trunk.weight"; }, "block 'trunk.weight' appears twice"},
        Case{[](S& s) { s.blocks[0].shape[1] = 0; },
             "block 'trunk.weight': extent 1 is 0, must be at least 1"},
        Case{[](S& s) {
               s.blocks[0].shape = {std::int64_t{1} << 62, 8};
             },
             "block 'trunk.weight' has more than 1099511627776 elements"},
        Case{[](S& s) { s.blocks[3].expert = 2; },
             "block 'experts.1.weight' belongs to expert 2, the model has 2 experts"},
        Case{[](S& s) { s.blocks[3].expert = -1; },
             "block 'experts.1.weight' belongs to expert -1, the model has 2 experts"},
        Case{[](S& s) { s.blocks[3].expert = 0; }, "expert 1 has no blocks"},
        Case{[](S& s) { s.blocks[0].merge = MergeRule::kByTokens; },
             "block 'trunk.weight' merges by tokens but belongs to no expert"},
        Case{[](S& s) {
               s.blocks[2].shape = {1, 14};
             },
             "block 'gate.weight' merges row by row but has 1 rows for 2 experts"},
        Case{[](S& s) { s.blocks[2].expert = -1; },
             "block 'gate.weight' merges row by row from expert -1, must be the first expert of a "
             "layer: a multiple of 2 below 2"},
        Case{[](S& s) { s.blocks[2].expert = 1; },
             "block 'gate.weight' merges row by row from expert 1, must be the first expert of a "
             "layer: a multiple of 2 below 2"},
        Case{[](S& s) { s.blocks[2].expert = 2; },
             "block 'gate.weight' merges row by row from expert 2, must be the first expert of a "
             "layer: a multiple of 2 below 2"},
        Case{[](S& s) { s.layers = 0; }, "the model has 0 MoE layers, must be at least 1"},
        Case{[](S& s) {
               s.experts = 3;
               s.layers = 2;
             },
             "the model has 3 experts, must be a multiple of its 2 MoE layers"},
        Case{[](S& s) {
               s.layers = 2;
               s.top_k = 2;
             },
             "the model's top_k is 2, must be 1 to 1"},
        Case{[](S& s) { s.tokens_per_example = 0; },
             "the model's tokens_per_example is 0, must be at least 1"},
        Case{[](S& s) {
               s = S{.layers = 2};
               s.blocks = {{.name = "weight", .shape = {2}}};
             },
             "the model has 2 MoE layers, must be 0 or 1 without experts"},
        Case{[](S& s) {
               s = S{};
               s.blocks = {{.name = "w", .shape = {2}, .merge = MergeRule::kRowsByTokens}};
             },
             "block 'w' merges row by row but the model has no experts"},
        Case{[](S& s) { s.blocks[0].scale = std::numeric_limits<double>::infinity(); },
             "block 'trunk.weight': the initialiser's scale is inf, must be finite and at least "
             "0"}));

TEST(ValidateModelSpec, AcceptsAModelWithoutExperts) {
  ModelSpec spec;
  spec.blocks = {{.name = "weight", .shape = {2}}};
  EXPECT_EQ(ValidateModelSpec(spec), Status::Ok());
  spec.layers = 0;
  EXPECT_EQ(ValidateModelSpec(spec), Status::Ok());
}

TEST(ValidateModelSpec, AcceptsAGateForEachLayerWithRowsOfZeroComputationExperts) {
  ModelSpec spec = Spec();
  spec.layers = 2;
  spec.blocks[2].shape = {3, 7};  // one expert and two rows more
  ParameterBlock second = spec.blocks[2];
  second.name = "gate2.weight";
  second.expert = 1;
  spec.blocks.push_back(second);
  EXPECT_EQ(ValidateModelSpec(spec), Status::Ok());
}

TEST(ModelSpec, CountsItsExpertsLayerByLayer) {
  const ModelSpec spec{.experts = 6, .layers = 3};
  EXPECT_EQ(spec.ExpertsPerLayer(), 2);
  EXPECT_EQ(spec.LayerOf(1), 0);
  EXPECT_EQ(spec.LayerOf(2), 1);
  EXPECT_EQ(spec.LayerOf(5), 2);
  EXPECT_EQ((ModelSpec{.experts = 0, .layers = 0}.ExpertsPerLayer()), 0);
}

TEST(SpecDigest, ChangesWithEveryField) {
  const std::vector<std::function<void(ModelSpec&)>> changes{
      [](S& s) { s.preset = "other"; },
      [](S& s) {
        s.options = {{"width", "64"}};
      },
      [](S& s) {
        s.options = {{"width", "65"}};
      },
      [](S& s) {
        s.options = {{"depth", "64"}};
      },
      [](S& s) { s.experts = 3; },
      [](S& s) { s.layers = 2; },
      [](S& s) { s.tokens_per_example = 2; },
      [](S& s) { s.top_k = 2; },
      [](S& s) { s.gate_mode = GateMode::kLocal; },
      [](S& s) { s.trunk_flops = 1.0; },
      [](S& s) { s.expert_flops = 1.0; },
      [](S& s) { s.trunk_activations = 1.0; },
      [](S& s) { s.expert_activations = 1.0; },
      [](S& s) { s.blocks[0].name = "trunk.weighs"; },
      [](S& s) {
        s.blocks[0].shape = {4, 3};
      },
      [](S& s) {
        s.blocks[0].shape = {3, 4, 1};
      },
      [](S& s) { s.blocks[0].owner = BlockOwner::kClient; },
      [](S& s) { s.blocks[1].expert = 1; },
      [](S& s) { s.blocks[0].merge = MergeRule::kRowsByTokens; },
      [](S& s) { s.blocks[0].initializer = Initializer::kNormal; },
      [](S& s) { s.blocks[0].scale = std::nextafter(0.5, 1.0); },
      [](S& s) { s.blocks[0].init_key = "trunk2"; },
      [](S& s) { std::swap(s.blocks[1], s.blocks[3]); },
      [](S& s) { s.blocks.pop_back(); },
  };
  std::set<Digest> digests{SpecDigest(Spec())};
  EXPECT_EQ(SpecDigest(Spec()), *digests.begin());
  EXPECT_TRUE(IsDigest(*digests.begin()));
  for (std::size_t i = 0; i < changes.size(); ++i) {
    ModelSpec spec = Spec();
    changes[i](spec);
    EXPECT_TRUE(digests.insert(SpecDigest(spec)).second) << "change " << i;
  }
}

TEST(ModelDigest, IsTheDigestOfTheShardDigestsInOrder) {
  const Digest a = Sha256Of("a");
  const Digest b = Sha256Of("b");
  EXPECT_EQ(ModelDigest(std::vector<Digest>{a, b}), Sha256Of(a + b));
  EXPECT_NE(ModelDigest(std::vector<Digest>{b, a}), Sha256Of(a + b));
}

std::vector<float> Initial(const ParameterBlock& block, std::uint64_t seed) {
  std::vector<float> values(static_cast<std::size_t>(block.ElementCount()), NAN);
  InitializeBlock(block, seed, values);
  return values;
}

TEST(InitializeBlock, FillsConstants) {
  EXPECT_THAT(Initial({.shape = {3}, .initializer = Initializer::kZeros, .scale = 9.0}, 1),
              ElementsAre(0.0F, 0.0F, 0.0F));
  EXPECT_THAT(Initial({.shape = {2}, .initializer = Initializer::kOnes, .scale = 9.0}, 1),
              ElementsAre(1.0F, 1.0F));
}

TEST(InitializeBlock, IsAFunctionOfSeedAndKeyNotOfTheName) {
  const ModelSpec spec = Spec();
  EXPECT_EQ(Initial(spec.blocks[1], 7), Initial(spec.blocks[3], 7)) << "one key, alike";
  EXPECT_EQ(Initial(spec.blocks[1], 7), Initial(spec.blocks[1], 7));
  EXPECT_NE(Initial(spec.blocks[1], 7), Initial(spec.blocks[1], 8));
  ParameterBlock apart = spec.blocks[1];
  apart.init_key = "experts.1";
  EXPECT_NE(Initial(spec.blocks[1], 7), Initial(apart, 7));
}

TEST(InitializeBlock, DrawsUniformWithinTheScale) {
  const std::vector<float> values = Initial(
      {.shape = {100, 100}, .initializer = Initializer::kUniform, .scale = 0.5, .init_key = "u"},
      1);
  double sum = 0.0, squares = 0.0;
  for (const float value : values) {
    ASSERT_LE(std::fabs(value), 0.5F);
    sum += value;
    squares += static_cast<double>(value) * value;
  }
  // Deviation 0.5 / sqrt(3); the mean of 10,000 draws deviates by 0.0029, the mean square (1/12)
  // by 0.00075: six of each.
  EXPECT_NEAR(sum / 1e4, 0.0, 0.018);
  EXPECT_NEAR(squares / 1e4, 1.0 / 12.0, 0.0045);
}

TEST(InitializeBlock, DrawsNormalWithTheScaleAsDeviation) {
  const std::vector<float> values = Initial(
      {.shape = {10'000}, .initializer = Initializer::kNormal, .scale = 2.0, .init_key = "n"}, 1);
  double sum = 0.0, squares = 0.0;
  for (const float value : values) {
    sum += value;
    squares += static_cast<double>(value) * value;
  }
  // Six deviations: 0.02 of the mean, 4 sqrt(2) / 100 of the mean square.
  EXPECT_NEAR(sum / 1e4, 0.0, 0.12);
  EXPECT_NEAR(squares / 1e4, 4.0, 0.34);
}

}  // namespace
}  // namespace fedmoe
