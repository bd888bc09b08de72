// One MoE layer: what it chooses, what it adds up, and the losses on its gate.
#include "moe/moe_layer.h"

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "moe/torch.h"
#include "tests/moe/model_fixture.h"

namespace fedmoe {
namespace {

using ::testing::ElementsAre;

constexpr std::int64_t kWidth = 6;

ModelOptions LayerOptions() {
  ModelOptions options;
  options.inputs = 5;
  options.classes = 4;
  options.width = kWidth;
  options.expert_width = 7;
  options.experts = 5;
  options.top_k = 2;
  return options;
}

// A layer of its own, with random parameters, and tokens for it.
struct LayerCase {
  LayerCase(const ModelOptions& layer_options, std::vector<ExpertIndex> held,
            std::uint64_t seed = 3)
      : options(layer_options),
        rng(seed),
        store(SpecOf(options), std::move(held)),
        layer(options, FfnPlaces(options)[0], store) {
    FillNormal(store.Values(), rng, 0.7);
    if (options.selection_bias) SetBias(std::vector<float>(Rows(), 0.0F));
    tokens = RandomTensor({40, kWidth}, rng).requires_grad_();
  }

  std::size_t Rows() const {
    return static_cast<std::size_t>(options.experts + options.FreeExperts());
  }
  void SetBias(const std::vector<float>& values) {
    const torch::NoGradGuard no_gradient;
    store.Named("gate.bias").copy_(torch::tensor(values));
  }
  torch::Tensor Run(const ForwardOptions& forward = {}) {
    output = GateOutput();
    return layer.Forward(tokens, Standardise(tokens), forward, output);
  }
  // The FFN of a prefix over all tokens.
  torch::Tensor Ffn(const std::string& prefix) const {
    return RunDenseFfn(options.expert_activation, FfnOf(store, prefix, options.expert_activation),
                       tokens);
  }
  // [t, 1]: the weight of a gate row for each token, 0 where it was not chosen.
  torch::Tensor WeightOf(int row) const {
    return (output.weights * (output.selected == row).to(torch::kFloat32)).sum(1, true);
  }

  ModelOptions options;
  CounterRng rng;
  ParameterStore store;
  MoeLayer layer;
  torch::Tensor tokens;
  GateOutput output;
};

std::vector<std::int64_t> Integers(const torch::Tensor& tensor) {
  const torch::Tensor values = tensor.contiguous();
  return {values.data_ptr<std::int64_t>(), values.data_ptr<std::int64_t>() + values.numel()};
}

TEST(MoeLayer, ChoosesAmongTheExpertsHeldAndTheFreeOnes) {
  ModelOptions options = LayerOptions();
  options.zero_experts = 1;
  options.copy_experts = 1;
  LayerCase layer(options, {1, 3});
  layer.Run();
  EXPECT_THAT(Integers(layer.output.candidates), ElementsAre(1, 3, 5, 6));
  EXPECT_EQ(layer.output.selected.sizes(), (std::vector<std::int64_t>{40, 2}));
  std::vector<int> seen(layer.Rows(), 0);
  for (const std::int64_t row : Integers(layer.output.selected)) {
    ++seen[static_cast<std::size_t>(row)];
  }
  for (const int row : {0, 2, 4}) EXPECT_EQ(seen[static_cast<std::size_t>(row)], 0) << row;
  for (const int row : {1, 3, 5, 6}) EXPECT_GT(seen[static_cast<std::size_t>(row)], 0) << row;
  // The probabilities are over all rows, held or not.
  EXPECT_EQ(layer.output.probabilities.size(1), 7);
  EXPECT_GT(layer.output.probabilities.min().item<float>(), 0.0F);
}

TEST(MoeLayer, FewerCandidatesThanTopKAreAllChosen) {
  ModelOptions options = LayerOptions();
  options.top_k = 4;
  LayerCase layer(options, {0, 4});
  layer.Run();
  EXPECT_EQ(layer.output.selected.size(1), 2);
}

TEST(MoeLayer, OutputIsTheWeightedSumOfTheChosenExperts) {
  LayerCase layer(LayerOptions(), {0, 2, 3});
  const torch::Tensor result = layer.Run();
  torch::Tensor expected = torch::zeros_like(result);
  for (const int row : {0, 2, 3}) {
    expected = expected + layer.WeightOf(row) * layer.Ffn("experts." + std::to_string(row) + ".");
  }
  EXPECT_LT(LargestDifference(result, expected), 1e-5F);
  // The weights are the chosen experts' probabilities, made to sum to 1.
  const torch::Tensor chosen = layer.output.probabilities.gather(1, layer.output.selected);
  EXPECT_LT(LargestDifference(layer.output.weights, chosen / chosen.sum(1, true)), 1e-6F);
}

TEST(MoeLayer, TheSelectionBiasChoosesButDoesNotWeigh) {
  ModelOptions options = LayerOptions();
  options.selection_bias = true;
  LayerCase layer(options, {0, 1, 2, 4});
  layer.Run();
  const GateOutput without = layer.output;
  layer.SetBias({0.1F, -0.2F, 0.3F, 9.0F, 0.0F});
  layer.Run();
  EXPECT_TRUE(layer.output.probabilities.equal(without.probabilities));
  EXPECT_FALSE(layer.output.selected.equal(without.selected));

  // The key: softmax over the candidates, plus the bias.
  const torch::Tensor candidates = torch::tensor({0, 1, 2, 4}, torch::kInt64);
  const torch::Tensor logits = layer.output.logits.index_select(1, candidates);
  const torch::Tensor key = torch::softmax(logits, 1) + torch::tensor({0.1F, -0.2F, 0.3F, 0.0F});
  const torch::Tensor best = std::get<1>(key.topk(2, 1));
  EXPECT_TRUE(
      layer.output.selected.equal(candidates.index_select(0, best.flatten()).view({40, 2})));
  const torch::Tensor chosen = layer.output.probabilities.gather(1, layer.output.selected);
  EXPECT_LT(LargestDifference(layer.output.weights, chosen / chosen.sum(1, true)), 1e-6F);
}

TEST(MoeLayer, TheSelectionBiasMovesTowardsAnEvenLoadForCandidatesOnly) {
  ModelOptions options = LayerOptions();
  options.selection_bias = true;
  options.top_k = 1;
  LayerCase layer(options, {0, 1, 3, 4});
  layer.SetBias({0.5F, 0.0F, 0.25F, 0.0F, 0.0F});
  GateOutput output;
  output.logits = torch::zeros({8, 5});
  // 4, 2, 2 and 0 tokens where the mean is 2; row 2 is not a candidate.
  output.selected = torch::tensor({0, 0, 0, 0, 1, 1, 3, 3}, torch::kInt64).view({8, 1});
  layer.layer.UpdateSelectionBias(output, 0.125);
  EXPECT_THAT(ValuesOf(layer.store.Named("gate.bias")),
              ElementsAre(0.375F, 0.0F, 0.25F, 0.0F, 0.125F));
}

TEST(MoeLayer, UpdatingWithoutABiasDoesNothing) {
  LayerCase layer(LayerOptions(), {0, 1});
  layer.Run();
  const torch::Tensor before = layer.store.Values().clone();
  layer.layer.UpdateSelectionBias(layer.output, 0.125);
  EXPECT_TRUE(before.equal(layer.store.Values()));
}

TEST(MoeLayer, NoiseChangesTheChoiceAndNothingElse) {
  LayerCase layer(LayerOptions(), {0, 1, 2, 3, 4});
  layer.Run();
  const GateOutput quiet = layer.output;
  layer.Run({.gate_noise = 2.0, .noise_key = 1});
  const GateOutput noisy = layer.output;
  EXPECT_FALSE(noisy.selected.equal(quiet.selected));
  EXPECT_TRUE(noisy.logits.equal(quiet.logits));
  const torch::Tensor chosen = noisy.probabilities.gather(1, noisy.selected);
  EXPECT_LT(LargestDifference(noisy.weights, chosen / chosen.sum(1, true)), 1e-6F);
  // A function of its key.
  layer.Run({.gate_noise = 2.0, .noise_key = 1});
  EXPECT_TRUE(layer.output.selected.equal(noisy.selected));
  layer.Run({.gate_noise = 2.0, .noise_key = 2});
  EXPECT_FALSE(layer.output.selected.equal(noisy.selected));
}

TEST(MoeLayer, EachLayerDrawsNoiseOfItsOwn) {
  ModelOptions options = LayerOptions();
  options.preset = "moe_transformer";
  options.depth = options.moe_layers = 2;
  CounterRng rng(4);
  const ParameterStore store(SpecOf(options), AllExperts(SpecOf(options)));
  const torch::Tensor tokens = RandomTensor({40, kWidth}, rng);
  std::vector<GateOutput> outputs(2);
  for (std::size_t i = 0; i < 2; ++i) {
    // Gates at zero: the noise alone chooses.
    const MoeLayer layer(options, FfnPlaces(options)[i], store);
    layer.Forward(tokens, tokens, {.gate_noise = 1.0, .noise_key = 1}, outputs[i]);
  }
  EXPECT_FALSE(outputs[0].selected.equal(outputs[1].selected));
}

TEST(MoeLayer, TheSharedExpertIsAddedForEveryToken) {
  ModelOptions options = LayerOptions();
  options.shared_expert_width = 3;
  LayerCase layer(options, {2});
  const torch::Tensor result = layer.Run();
  EXPECT_LT(LargestDifference(result, layer.Ffn("experts.2.") + layer.Ffn("shared.")), 1e-5F);
}

TEST(MoeLayer, WithNothingToChooseItGivesZerosOrTheSharedExpertAlone) {
  LayerCase bare(LayerOptions(), {});
  EXPECT_EQ(bare.Run().abs().sum().item<float>(), 0.0F);
  EXPECT_FALSE(bare.output.selected.defined());
  EXPECT_FALSE(bare.output.weights.defined());
  EXPECT_EQ(bare.output.probabilities.size(1), 5);

  ModelOptions options = LayerOptions();
  options.shared_expert_width = 3;
  LayerCase shared(options, {});
  EXPECT_TRUE(shared.Run().equal(shared.Ffn("shared.")));
}

// E(x) of the gate row: an expert, zero, copy, or constant number i.
TEST(MoeLayer, ZeroComputationExpertsFollowTheirFormulas) {
  ModelOptions options = LayerOptions();
  options.experts = 2;
  options.zero_experts = 1;      // row 2
  options.copy_experts = 2;      // rows 3, 4
  options.constant_experts = 2;  // rows 5, 6
  for (const std::vector<ExpertIndex>& held :
       {std::vector<ExpertIndex>{}, std::vector<ExpertIndex>{1}}) {
    LayerCase layer(options, held);
    const torch::Tensor result = layer.Run();
    torch::Tensor expected = layer.WeightOf(3) * layer.tokens + layer.WeightOf(4) * layer.tokens;
    for (int i = 0; i < 2; ++i) {
      const std::string prefix = "constants." + std::to_string(i) + ".";
      const torch::Tensor scores =
          layer.tokens.matmul(layer.store.Named(prefix + "mix.weight").t()).exp();
      const torch::Tensor mix = scores / scores.sum(1, true);
      const torch::Tensor constant = mix.slice(1, 0, 1) * layer.tokens +
                                     mix.slice(1, 1, 2) * layer.store.Named(prefix + "value");
      expected = expected + layer.WeightOf(5 + i) * constant;
    }
    if (!held.empty()) expected = expected + layer.WeightOf(1) * layer.Ffn("experts.1.");
    EXPECT_LT(LargestDifference(result, expected), 1e-5F);
    for (const int row : {2, 3, 4, 5, 6}) {
      EXPECT_GT(layer.WeightOf(row).sum().item<float>(), 0.0F) << row;
    }
  }
}

TEST(MoeLayer, AZeroExpertAloneGivesZeros) {
  ModelOptions options = LayerOptions();
  options.zero_experts = 2;
  LayerCase layer(options, {});
  EXPECT_EQ(layer.Run().abs().sum().item<float>(), 0.0F);
  EXPECT_THAT(Integers(layer.output.candidates), ElementsAre(5, 6));
}

TEST(BalanceLoss, IsOneForAnEvenLoad) {
  GateOutput output;
  output.logits = torch::zeros({4, 4});
  output.candidates = torch::arange(4, torch::kInt64);
  output.selected = torch::tensor({0, 1, 1, 2, 2, 3, 3, 0}, torch::kInt64).view({4, 2});
  EXPECT_FLOAT_EQ(BalanceLoss(output).item<float>(), 1.0F);
  // All on one expert that has all the probability: as many as there are candidates.
  output.logits.select(1, 2).fill_(50.0F);
  output.selected.fill_(2);
  EXPECT_FLOAT_EQ(BalanceLoss(output).item<float>(), 4.0F);
}

TEST(BalanceLoss, EqualsItsFormulaAmongTheCandidates) {
  LayerCase layer(LayerOptions(), {0, 1, 4});
  layer.Run();
  double expected = 0.0;
  for (const int row : {0, 1, 4}) {
    double chosen = 0.0;
    for (const std::int64_t other : Integers(layer.output.selected)) chosen += other == row;
    double probability = 0.0;
    for (std::int64_t t = 0; t < 40; ++t) {
      const auto a = [&](int e) { return layer.output.probabilities[t][e].item<double>(); };
      probability += a(row) / (a(0) + a(1) + a(4)) / 40.0;
    }
    expected += 3.0 * chosen / 80.0 * probability;
  }
  const torch::Tensor loss = BalanceLoss(layer.output);
  EXPECT_NEAR(loss.item<double>(), expected, 1e-5);
  loss.backward();
  EXPECT_GT(layer.store.Named("gate.weight").grad().abs().sum().item<float>(), 0.0F);
}

TEST(RouterZLoss, IsTheMeanSquareOfTheLogSumOfExponentials) {
  GateOutput output;
  output.logits = torch::log(torch::tensor({{1.0F, 3.0F}, {0.5F, 0.5F}}));
  EXPECT_NEAR(RouterZLoss(output).item<double>(), std::pow(std::log(4.0), 2) / 2.0, 1e-6);
}

TEST(HeldMassLoss, GradientEqualsFiniteDifferences) {
  const torch::Tensor candidates = torch::tensor({0, 2}, torch::kInt64);
  const torch::Tensor probabilities = torch::tensor(
      {{0.1, 0.2, 0.3, 0.4}, {0.7, 0.1, 0.1, 0.1}, {0.01, 0.5, 0.02, 0.47}}, torch::kFloat64);
  torch::Tensor logits = (probabilities.log() + 1.5).requires_grad_();
  const torch::Tensor loss = HeldMassLoss(logits, candidates);
  EXPECT_NEAR(loss.item<double>(), -(std::log(0.4) + std::log(0.8) + std::log(0.03)) / 3.0, 1e-12);
  loss.backward();
  const torch::NoGradGuard no_gradient;
  constexpr double kStep = 1e-6;
  for (int row = 0; row < 3; ++row) {
    for (int expert = 0; expert < 4; ++expert) {
      torch::Tensor above = logits.clone();
      torch::Tensor below = logits.clone();
      above[row][expert] += kStep;
      below[row][expert] -= kStep;
      const double slope =
          (HeldMassLoss(above, candidates) - HeldMassLoss(below, candidates)).item<double>() /
          (2.0 * kStep);
      EXPECT_NEAR(logits.grad()[row][expert].item<double>(), slope, 1e-8);
    }
  }
}

TEST(HeldMassLoss, IsZeroWhereAllRowsAreCandidates) {
  const torch::Tensor loss =
      HeldMassLoss(torch::full({2, 3}, 0.333F), torch::arange(3, torch::kInt64));
  EXPECT_EQ(loss.item<float>(), 0.0F);
}

TEST(HeldMassLoss, StaysFiniteWhereNoMassIsLeft) {
  torch::Tensor logits = torch::tensor({{2e4F, 0.0F}}).requires_grad_();
  const torch::Tensor loss = HeldMassLoss(logits, torch::tensor({1}, torch::kInt64));
  loss.backward();
  EXPECT_FLOAT_EQ(loss.item<float>(), 2e4F);
  EXPECT_TRUE(logits.grad().isfinite().all().item<bool>());
}

TEST(HeldMassLoss, CountsZeroComputationExpertsAndReachesTheGateOnly) {
  ModelOptions options = LayerOptions();
  options.copy_experts = 1;
  options.constant_experts = 1;
  LayerCase layer(options, {1});
  layer.Run({.detached_gate = true});
  const torch::Tensor loss = HeldMassLoss(layer.output.detached_logits, layer.output.candidates);
  const torch::Tensor mass =
      layer.output.probabilities.index_select(1, torch::tensor({1, 5, 6}, torch::kInt64)).sum(1);
  EXPECT_NEAR(loss.item<double>(), -mass.log().mean().item<double>(), 1e-5);
  loss.backward();
  EXPECT_FALSE(layer.tokens.grad().defined());
  const torch::Tensor gate = layer.store.Named("gate.weight").grad();
  EXPECT_GT(gate.abs().sum(1).min().item<float>(), 0.0F);
  EXPECT_FLOAT_EQ(layer.store.Gradients().abs().sum().item<float>(),
                  gate.abs().sum().item<float>());
}

TEST(Norms, EqualTheirFormulas) {
  const torch::Tensor values = torch::tensor({{3.0F, -1.0F, 4.0F, 2.0F}});
  const torch::Tensor scale = torch::tensor({1.0F, 2.0F, 0.5F, -1.0F});
  const double root = std::sqrt((9.0 + 1.0 + 16.0 + 4.0) / 4.0 + 1e-6);
  const torch::Tensor normed = RmsNorm(values, scale);
  const torch::Tensor standard = Standardise(values);
  const double deviation = std::sqrt((1.0 + 9.0 + 4.0 + 0.0) / 4.0 + 1e-5);
  for (int i = 0; i < 4; ++i) {
    const double value = values[0][i].item<double>();
    EXPECT_NEAR(normed[0][i].item<double>(), value / root * scale[i].item<double>(), 1e-6);
    EXPECT_NEAR(standard[0][i].item<double>(), (value - 2.0) / deviation, 1e-6);
  }
}

}  // namespace
}  // namespace fedmoe
