// The module against the plain loop in float64, its masking, and where its gradients go.
#include "moe/moe_mlp.h"

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "common/counter_rng.h"
#include "moe/torch.h"
#include "tests/moe/model_fixture.h"
#include "tests/moe/reference_moe.h"

namespace fedmoe {
namespace {

ModelOptions SmallOptions() {
  ModelOptions options;
  options.inputs = 5;
  options.classes = 4;
  options.width = 6;
  options.expert_width = 7;
  options.experts = 5;
  options.top_k = 2;
  return options;
}

ReferenceMoe ReferenceOf(const ModelOptions& options, const MoeMlp& model) {
  ReferenceMoe reference{options, model.held(), {}};
  for (const int index : model.parameters().HeldBlocks()) {
    const torch::Tensor parameter = model.parameters().Parameter(index);
    const float* value = parameter.data_ptr<float>();
    reference.blocks[model.spec().blocks[static_cast<std::size_t>(index)].name] =
        Vector(value, value + parameter.numel());
  }
  return reference;
}

torch::Tensor GradientOf(const MoeMlp& model, const std::string& name) {
  return model.parameters().Named(name).grad();
}

void ExpectEqualsReference(const ModelOptions& options, const MoeMlp& model,
                           const torch::Tensor& inputs) {
  const ReferenceMoe reference = ReferenceOf(options, model);
  const MoeOutput output = model.Forward(inputs, {.detached_gate = true});
  ASSERT_EQ(output.layers.size(), 1U);
  const GateOutput& gate = output.layers[0];
  ASSERT_EQ(gate.selected.defined(), !model.held().empty());
  const torch::Tensor detached = torch::softmax(gate.detached_logits, 1);
  const torch::Tensor numbers = inputs.to(torch::kFloat64);
  for (std::int64_t row = 0; row < inputs.size(0); ++row) {
    const auto* input = numbers[row].data_ptr<double>();
    const ReferenceOutput expected = reference.Forward(Vector(input, input + options.inputs));
    for (int c = 0; c < options.classes; ++c) {
      const double want = expected.logits[static_cast<std::size_t>(c)];
      ASSERT_NEAR(output.logits[row][c].item<float>(), want, 2e-5 * (1.0 + std::abs(want)));
    }
    for (int e = 0; e < options.experts; ++e) {
      const double want = expected.gate_probabilities[static_cast<std::size_t>(e)];
      ASSERT_NEAR(gate.probabilities[row][e].item<float>(), want, 1e-5);
      ASSERT_NEAR(detached[row][e].item<float>(), want, 1e-5);
    }
    if (model.held().empty()) continue;
    ASSERT_EQ(gate.selected.size(1), static_cast<std::int64_t>(expected.selected.size()));
    for (std::size_t slot = 0; slot < expected.selected.size(); ++slot) {
      const auto column = static_cast<std::int64_t>(slot);
      ASSERT_EQ(gate.selected[row][column].item<std::int64_t>(), expected.selected[slot]);
      ASSERT_NEAR(gate.weights[row][column].item<float>(), expected.weights[slot], 1e-5);
    }
  }
}

TEST(MoeMlp, EqualsThePlainLoopInFloat64) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    CounterRng rng(seed);
    ModelOptions options;
    options.inputs = 2 + static_cast<int>(rng.NextBelow(12));
    options.classes = 2 + static_cast<int>(rng.NextBelow(6));
    // With fewer, all features of a token are often 0, and the gate has nothing to rank.
    options.width = 6 + static_cast<int>(rng.NextBelow(16));
    options.expert_width = 1 + static_cast<int>(rng.NextBelow(20));
    options.experts = 1 + static_cast<int>(rng.NextBelow(8));
    options.top_k =
        1 + static_cast<int>(rng.NextBelow(static_cast<std::uint64_t>(options.experts)));
    options.gate_input = rng.NextBelow(2) == 0 ? GateInput::kToken : GateInput::kData;
    if (seed % 2 == 0) {  // text
      options.embedding = 2 + static_cast<int>(rng.NextBelow(5));
      options.classes = options.inputs + 2;  // equal shares of all ids would leave nothing to rank
      if (seed % 3 == 0) options.gate_input = GateInput::kSequence;
    }
    if (seed % 5 < 2) options.gate_normalisation = GateNormalisation::kPopulation;
    std::vector<ExpertIndex> held;  // often fewer than top_k, sometimes none or all
    for (int e = 0; e < options.experts; ++e) {
      if (rng.NextBelow(5) < seed % 6) held.push_back(e);
    }
    const MoeMlp model(options, SpecOf(options), held);
    FillNormal(model.parameters().Values(), rng, 0.7);
    if (seed % 5 == 0) {  // moments that were not measured yet
      const torch::NoGradGuard no_gradient;
      model.parameters().Named("gate.square").zero_();
    }
    const auto rows = static_cast<std::int64_t>(1 + rng.NextBelow(20));
    ExpectEqualsReference(options, model, RandomInputs(options, rows, rng));
    if (HasFatalFailure()) return;
  }
}

TEST(MoeMlp, AgreesWithTheSpecNameByNameInEveryGateMode) {
  for (const GateMode mode : {GateMode::kSharedAll, GateMode::kSharedRows, GateMode::kLocal}) {
    for (const GateInput input : {GateInput::kToken, GateInput::kSequence, GateInput::kData}) {
      ModelOptions options = SmallOptions();
      options.gate_mode = mode;
      options.gate_input = input;
      options.embedding = input == GateInput::kSequence ? 3 : 0;
      if (mode == GateMode::kLocal) options.gate_normalisation = GateNormalisation::kPopulation;
      const ModelSpec spec = SpecOf(options);
      const MoeMlp model(options, spec, {0, 1, 2, 3, 4});
      ASSERT_EQ(model.parameters().HeldBlocks().size(), spec.blocks.size());
      CounterRng rng(7);
      FillNormal(model.parameters().Values(), rng, 0.7);
      TaskLoss(model.Forward(RandomInputs(options, 200, rng)), options.classes).backward();
      for (std::size_t i = 0; i < spec.blocks.size(); ++i) {
        SCOPED_TRACE(spec.blocks[i].name);
        EXPECT_EQ(model.parameters().HeldBlocks()[i], static_cast<int>(i));
        const torch::Tensor parameter = model.parameters().Parameter(static_cast<int>(i));
        EXPECT_EQ(parameter.sizes().vec(), spec.blocks[i].shape);
        // Every block of the spec takes part in the forward pass; moments have no gradient.
        const bool moment =
            spec.blocks[i].name == "gate.mean" || spec.blocks[i].name == "gate.square";
        EXPECT_EQ(parameter.grad().abs().sum().item<float>() > 0.0F, !moment);
      }
    }
  }
}

TEST(MoeMlp, HoldsTrunkGateAndItsExpertsOnly) {
  const ModelOptions options = SmallOptions();
  const ModelSpec spec = SpecOf(options);
  const MoeMlp model(options, spec, {1, 3});
  std::int64_t elements = 0;
  std::vector<int> expected;
  for (int i = 0; i < static_cast<int>(spec.blocks.size()); ++i) {
    const ParameterBlock& block = spec.blocks[static_cast<std::size_t>(i)];
    const bool held = block.owner != BlockOwner::kExpert || block.expert == 1 || block.expert == 3;
    EXPECT_EQ(model.parameters().Parameter(i).defined(), held) << block.name;
    if (!held) continue;
    expected.push_back(i);
    elements += block.ElementCount();
  }
  EXPECT_EQ(model.parameters().HeldBlocks(), expected);
  EXPECT_EQ(model.parameters().Values().numel(), elements);
  EXPECT_EQ(model.parameters().Values().abs().sum().item<float>(), 0.0F);
}

TEST(MoeMlp, ParametersAndGradientsAreViewsOfOneVectorInBlockOrder) {
  const ModelOptions options = SmallOptions();
  const MoeMlp model(options, SpecOf(options), {2});
  CounterRng rng(3);
  FillNormal(model.parameters().Values(), rng, 0.7);
  TaskLoss(model.Forward(RandomInputs(options, 9, rng)), options.classes).backward();
  std::int64_t offset = 0;
  for (const int index : model.parameters().HeldBlocks()) {
    const torch::Tensor parameter = model.parameters().Parameter(index);
    EXPECT_EQ(parameter.data_ptr<float>(), model.parameters().Values().data_ptr<float>() + offset);
    EXPECT_EQ(parameter.grad().data_ptr<float>(),
              model.parameters().Gradients().data_ptr<float>() + offset);
    offset += parameter.numel();
  }
  EXPECT_GT(model.parameters().Gradients().abs().sum().item<float>(), 0.0F);
}

TEST(MoeMlp, RoutingGivesNoGradientToGateRowsThatAreNotHeld) {
  const ModelOptions options = SmallOptions();
  const MoeMlp model(options, SpecOf(options), {1, 2, 4});
  CounterRng rng(11);
  FillNormal(model.parameters().Values(), rng, 0.7);
  TaskLoss(model.Forward(RandomInputs(options, 64, rng)), options.classes).backward();
  const torch::Tensor rows = GradientOf(model, "gate.weight").abs().sum(1);
  for (const int expert : {0, 3}) EXPECT_EQ(rows[expert].item<float>(), 0.0F) << expert;
  for (const int expert : {1, 2, 4}) EXPECT_GT(rows[expert].item<float>(), 0.0F) << expert;
}

TEST(MoeMlp, HeldMassLossTrainsEveryGateRowAndNothingElse) {
  for (const GateInput input : {GateInput::kToken, GateInput::kData}) {
    ModelOptions options = SmallOptions();
    options.gate_input = input;
    const MoeMlp model(options, SpecOf(options), {1, 2});
    CounterRng rng(12);
    FillNormal(model.parameters().Values(), rng, 0.7);
    const MoeOutput output = model.Forward(RandomInputs(options, 64, rng), {.detached_gate = true});
    HeldMassLoss(output.layers[0].detached_logits, output.layers[0].candidates).backward();
    for (const int index : model.parameters().HeldBlocks()) {
      const ParameterBlock& block = model.spec().blocks[static_cast<std::size_t>(index)];
      const torch::Tensor gradient = model.parameters().Parameter(index).grad().abs();
      if (block.name == "gate.weight") {
        EXPECT_GT(gradient.sum(1).min().item<float>(), 0.0F);
      } else {
        EXPECT_EQ(gradient.sum().item<float>(), 0.0F) << block.name;
      }
    }
  }
}

// A population of one place would be seen as zero.
TEST(MoeMlp, ThePopulationsMomentsHideWhatAllExamplesHaveInCommon) {
  ModelOptions options = SmallOptions();
  options.gate_input = GateInput::kData;
  options.gate_normalisation = GateNormalisation::kPopulation;
  const MoeMlp model(options, SpecOf(options), {0, 1, 2, 3, 4});
  CounterRng rng(16);
  FillNormal(model.parameters().Values(), rng, 0.7);
  const torch::Tensor inputs = RandomInputs(options, 1, rng);
  const GateOutput before = model.RunGates(inputs).at(0);
  EXPECT_TRUE(before.read.equal(Standardise(inputs)));
  {
    const torch::NoGradGuard no_gradient;
    model.parameters().Named("gate.mean").copy_(before.read[0]);
    model.parameters().Named("gate.square").copy_(before.read[0].square());
  }
  EXPECT_EQ(model.RunGates(inputs).at(0).logits.abs().max().item<float>(), 0.0F);
  EXPECT_GT(before.logits.abs().max().item<float>(), 0.0F);
}

TEST(MoeMlp, ASoupMovesTheHeldExpertsTowardsTheirMean) {
  for (const ExpertActivation activation : {ExpertActivation::kRelu, ExpertActivation::kSwiGlu}) {
    ModelOptions options = SmallOptions();
    options.expert_activation = activation;
    const MoeMlp model(options, SpecOf(options), {1, 2, 4});
    CounterRng rng(17);
    FillNormal(model.parameters().Values(), rng, 0.7);
    const char* part = activation == ExpertActivation::kRelu ? "up.bias" : "gate.weight";
    const auto expert = [&](int number) {
      return model.parameters().Named("experts." + std::to_string(number) + "." + part);
    };
    const torch::Tensor trunk = model.parameters().Named("trunk.weight").detach().clone();
    const torch::Tensor before = expert(2).detach().clone();
    const torch::Tensor mean = ((expert(1) + expert(2) + expert(4)) / 3.0).detach();
    model.MoveExpertsToMean(0.25);
    EXPECT_LT(LargestDifference(expert(2), 0.75 * before + 0.25 * mean), 1e-6F);
    model.MoveExpertsToMean(1.0);
    EXPECT_LT(LargestDifference(expert(1), expert(4)), 1e-6F);
    EXPECT_LT(LargestDifference(expert(1), mean), 1e-6F);
    EXPECT_TRUE(trunk.equal(model.parameters().Named("trunk.weight")));
  }
}

TEST(MoeMlp, ALoneExpertIsWeighedByTheSigmoidOfItsOwnGate) {
  ModelOptions options = SmallOptions();
  options.experts = 3;
  options.top_k = 1;
  options.post_hoc_batches = 1;
  const MoeMlp model(options, SpecOf(options), {0, 2});
  CounterRng rng(18);
  FillNormal(model.parameters().Values(), rng, 0.7);
  const torch::Tensor inputs = RandomInputs(options, 5, rng);
  const auto named = [&](const std::string& name) { return model.parameters().Named(name); };
  const torch::Tensor features =
      torch::relu(torch::linear(inputs, named("trunk.weight"), named("trunk.bias")));
  for (const int number : {0, 1, 3}) {
    const int row = number == 0 ? 0 : 2;
    const std::string expert = "experts." + std::to_string(row) + ".";
    const torch::Tensor hidden = torch::relu(
        torch::linear(features, named(expert + "up.weight"), named(expert + "up.bias")));
    const torch::Tensor weight = torch::sigmoid(
        torch::linear(Standardise(features), named("gate.post_hoc").narrow(0, row, 1)));
    const torch::Tensor mixed =
        features +
        weight * torch::linear(hidden, named(expert + "down.weight"), named(expert + "down.bias"));
    const torch::Tensor logits = torch::linear(RmsNorm(mixed, named("norm.scale")),
                                               named("head.weight"), named("head.bias"));
    const MoeOutput output = model.Forward(inputs, {.lone_expert = number});
    EXPECT_LT(LargestDifference(output.logits, logits), 1e-5F) << number;
    EXPECT_TRUE(output.layers.empty() || !output.layers[0].selected.defined());
  }
  // As a router: rows and what is read, both standardised, over the root of their length.
  const GateOutput gate = model.Forward(inputs, {.post_hoc_gate = true}).layers.at(0);
  const torch::Tensor expected = torch::linear(
      Standardise(features), Standardise(named("gate.post_hoc")) / std::sqrt(options.width));
  EXPECT_LT(LargestDifference(gate.logits, expected), 1e-5F);
}

TEST(MoeMlp, ComputesTheDetachedGateOnlyWhenAsked) {
  const ModelOptions options = SmallOptions();
  const MoeMlp model(options, SpecOf(options), {1, 2});
  CounterRng rng(13);
  FillNormal(model.parameters().Values(), rng, 0.7);
  const torch::Tensor inputs = RandomInputs(options, 3, rng);
  const MoeOutput output = model.Forward(inputs);
  EXPECT_FALSE(output.layers[0].detached_logits.defined());
  EXPECT_FALSE(output.layers[0].read.defined());
  EXPECT_TRUE(output.layers[0].probabilities.equal(model.RunGates(inputs).at(0).probabilities));
}

TEST(MoeMlp, AnExpertWithoutTokensHasNoGradient) {
  ModelOptions options = SmallOptions();
  options.top_k = 1;
  options.gate_input = GateInput::kData;
  const MoeMlp model(options, SpecOf(options), {0, 1, 2});
  CounterRng rng(14);
  FillNormal(model.parameters().Values(), rng, 0.7);
  // Rows 1 and 2 never win: standardised inputs times a zero row is 0, row 0 is made positive.
  const torch::Tensor inputs = torch::tensor({{2.0F, 0.0F, 0.0F, 0.0F, 0.0F}});
  {
    const torch::NoGradGuard no_gradient;
    torch::Tensor gate = model.parameters().Named("gate.weight");
    gate.zero_();
    gate[0][0] = 1.0F;
  }
  TaskLoss(model.Forward(inputs), options.classes).backward();
  EXPECT_GT(GradientOf(model, "experts.0.down.bias").abs().sum().item<float>(), 0.0F);
  for (const char* name : {"experts.1.down.bias", "experts.2.up.weight"}) {
    EXPECT_EQ(GradientOf(model, name).abs().sum().item<float>(), 0.0F) << name;
  }
}

TEST(MoeMlp, BackwardGivesTheSameBytesTwice) {
  const ModelOptions options = SmallOptions();
  const MoeMlp model(options, SpecOf(options), {0, 1, 2, 4});
  CounterRng rng(15);
  FillNormal(model.parameters().Values(), rng, 0.7);
  const torch::Tensor inputs = RandomInputs(options, 300, rng);
  TaskLoss(model.Forward(inputs), options.classes).backward();
  const torch::Tensor first = model.parameters().Gradients().clone();
  model.parameters().Gradients().zero_();
  TaskLoss(model.Forward(inputs), options.classes).backward();
  EXPECT_TRUE(first.equal(model.parameters().Gradients()));
}

}  // namespace
}  // namespace fedmoe
