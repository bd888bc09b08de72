// The module against the plain loop in float64, its masking, and where its gradients go.
#include "moe/moe_mlp.h"

#include <cstdint>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "common/counter_rng.h"
#include "moe/torch.h"
#include "tests/moe/reference_moe.h"

namespace fedmoe {
namespace {

ModelSpec SpecOf(const ModelOptions& options) {
  Result<ModelSpec> spec = BuildModelSpec(options);
  EXPECT_TRUE(spec.ok()) << spec.status().ToString();
  return std::move(spec).value();
}

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

void FillNormal(torch::Tensor tensor, CounterRng& rng, double scale) {
  float* value = tensor.data_ptr<float>();
  for (std::int64_t i = 0; i < tensor.numel(); ++i) {
    value[i] = static_cast<float>(scale * rng.NextNormal());
  }
}

torch::Tensor RandomInputs(const ModelOptions& options, std::int64_t rows, CounterRng& rng) {
  torch::Tensor inputs = torch::empty({rows, options.inputs});
  FillNormal(inputs, rng, 1.0);
  return inputs;
}

ReferenceMoe ReferenceOf(const ModelOptions& options, const MoeMlp& model) {
  ReferenceMoe reference{options, model.held(), {}};
  for (const int index : model.HeldBlocks()) {
    const torch::Tensor parameter = model.Parameter(index);
    const float* value = parameter.data_ptr<float>();
    reference.blocks[model.spec().blocks[static_cast<std::size_t>(index)].name] =
        Vector(value, value + parameter.numel());
  }
  return reference;
}

torch::Tensor GradientOf(const MoeMlp& model, const std::string& name) {
  return model.Parameter(model.spec().Find(name)).grad();
}

torch::Tensor LabelsFor(std::int64_t rows, int classes) {
  return torch::arange(rows, torch::kInt64).remainder(classes);
}

torch::Tensor TaskLoss(const MoeOutput& output, int classes) {
  return torch::nn::functional::cross_entropy(output.logits,
                                              LabelsFor(output.logits.size(0), classes));
}

void ExpectEqualsReference(const ModelOptions& options, const MoeMlp& model,
                           const torch::Tensor& inputs) {
  const ReferenceMoe reference = ReferenceOf(options, model);
  const MoeOutput output = model.Forward(inputs, MoeMlp::DetachedGate::kCompute);
  ASSERT_EQ(output.selected.defined(), !model.held().empty());
  for (std::int64_t row = 0; row < inputs.size(0); ++row) {
    const float* input = inputs[row].data_ptr<float>();
    const ReferenceOutput expected = reference.Forward(Vector(input, input + options.inputs));
    for (int c = 0; c < options.classes; ++c) {
      const double want = expected.logits[static_cast<std::size_t>(c)];
      ASSERT_NEAR(output.logits[row][c].item<float>(), want, 2e-5 * (1.0 + std::abs(want)));
    }
    for (int e = 0; e < options.experts; ++e) {
      const double want = expected.gate_probabilities[static_cast<std::size_t>(e)];
      ASSERT_NEAR(output.gate_probabilities[row][e].item<float>(), want, 1e-5);
      ASSERT_NEAR(output.gate_probabilities_detached[row][e].item<float>(), want, 1e-5);
    }
    if (model.held().empty()) continue;
    ASSERT_EQ(output.selected.size(1), static_cast<std::int64_t>(expected.selected.size()));
    for (std::size_t slot = 0; slot < expected.selected.size(); ++slot) {
      const auto column = static_cast<std::int64_t>(slot);
      ASSERT_EQ(output.selected[row][column].item<std::int64_t>(), expected.selected[slot]);
      ASSERT_NEAR(output.weights[row][column].item<float>(), expected.weights[slot], 1e-5);
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
    options.width = 2 + static_cast<int>(rng.NextBelow(20));
    options.expert_width = 1 + static_cast<int>(rng.NextBelow(20));
    options.experts = 1 + static_cast<int>(rng.NextBelow(8));
    options.top_k =
        1 + static_cast<int>(rng.NextBelow(static_cast<std::uint64_t>(options.experts)));
    options.gate_input = rng.NextBelow(2) == 0 ? GateInput::kTrunk : GateInput::kData;
    std::vector<ExpertIndex> held;  // often fewer than top_k, sometimes none or all
    for (int e = 0; e < options.experts; ++e) {
      if (rng.NextBelow(5) < seed % 6) held.push_back(e);
    }
    const MoeMlp model(options, SpecOf(options), held);
    FillNormal(model.Values(), rng, 0.7);
    const auto rows = static_cast<std::int64_t>(1 + rng.NextBelow(20));
    ExpectEqualsReference(options, model, RandomInputs(options, rows, rng));
    if (HasFatalFailure()) return;
  }
}

TEST(MoeMlp, AgreesWithTheSpecNameByNameInEveryGateMode) {
  for (const GateMode mode : {GateMode::kSharedAll, GateMode::kSharedRows, GateMode::kLocal}) {
    for (const GateInput input : {GateInput::kTrunk, GateInput::kData}) {
      ModelOptions options = SmallOptions();
      options.gate_mode = mode;
      options.gate_input = input;
      const ModelSpec spec = SpecOf(options);
      const MoeMlp model(options, spec, {0, 1, 2, 3, 4});
      ASSERT_EQ(model.HeldBlocks().size(), spec.blocks.size());
      CounterRng rng(7);
      FillNormal(model.Values(), rng, 0.7);
      TaskLoss(model.Forward(RandomInputs(options, 200, rng)), options.classes).backward();
      for (std::size_t i = 0; i < spec.blocks.size(); ++i) {
        SCOPED_TRACE(spec.blocks[i].name);
        EXPECT_EQ(model.HeldBlocks()[i], static_cast<int>(i));
        const torch::Tensor parameter = model.Parameter(static_cast<int>(i));
        EXPECT_EQ(parameter.sizes().vec(), spec.blocks[i].shape);
        // Every block of the spec takes part in the forward pass.
        EXPECT_GT(parameter.grad().abs().sum().item<float>(), 0.0F);
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
    EXPECT_EQ(model.Parameter(i).defined(), held) << block.name;
    if (!held) continue;
    expected.push_back(i);
    elements += block.ElementCount();
  }
  EXPECT_EQ(model.HeldBlocks(), expected);
  EXPECT_EQ(model.Values().numel(), elements);
  EXPECT_EQ(model.Values().abs().sum().item<float>(), 0.0F);
}

TEST(MoeMlp, ParametersAndGradientsAreViewsOfOneVectorInBlockOrder) {
  const ModelOptions options = SmallOptions();
  const MoeMlp model(options, SpecOf(options), {2});
  CounterRng rng(3);
  FillNormal(model.Values(), rng, 0.7);
  TaskLoss(model.Forward(RandomInputs(options, 9, rng)), options.classes).backward();
  std::int64_t offset = 0;
  for (const int index : model.HeldBlocks()) {
    const torch::Tensor parameter = model.Parameter(index);
    EXPECT_EQ(parameter.data_ptr<float>(), model.Values().data_ptr<float>() + offset);
    EXPECT_EQ(parameter.grad().data_ptr<float>(), model.Gradients().data_ptr<float>() + offset);
    offset += parameter.numel();
  }
  EXPECT_GT(model.Gradients().abs().sum().item<float>(), 0.0F);
}

TEST(MoeMlp, RoutingGivesNoGradientToGateRowsThatAreNotHeld) {
  const ModelOptions options = SmallOptions();
  const MoeMlp model(options, SpecOf(options), {1, 2, 4});
  CounterRng rng(11);
  FillNormal(model.Values(), rng, 0.7);
  TaskLoss(model.Forward(RandomInputs(options, 64, rng)), options.classes).backward();
  const torch::Tensor rows = GradientOf(model, "gate.weight").abs().sum(1);
  for (const int expert : {0, 3}) EXPECT_EQ(rows[expert].item<float>(), 0.0F) << expert;
  for (const int expert : {1, 2, 4}) EXPECT_GT(rows[expert].item<float>(), 0.0F) << expert;
}

TEST(MoeMlp, HeldMassLossTrainsEveryGateRowAndNothingElse) {
  for (const GateInput input : {GateInput::kTrunk, GateInput::kData}) {
    ModelOptions options = SmallOptions();
    options.gate_input = input;
    const MoeMlp model(options, SpecOf(options), {1, 2});
    CounterRng rng(12);
    FillNormal(model.Values(), rng, 0.7);
    const MoeOutput output =
        model.Forward(RandomInputs(options, 64, rng), MoeMlp::DetachedGate::kCompute);
    HeldMassLoss(output.gate_probabilities_detached, model.held()).backward();
    for (const int index : model.HeldBlocks()) {
      const ParameterBlock& block = model.spec().blocks[static_cast<std::size_t>(index)];
      const torch::Tensor gradient = model.Parameter(index).grad().abs();
      if (block.name == "gate.weight") {
        EXPECT_GT(gradient.sum(1).min().item<float>(), 0.0F);
      } else {
        EXPECT_EQ(gradient.sum().item<float>(), 0.0F) << block.name;
      }
    }
  }
}

TEST(MoeMlp, ComputesTheDetachedGateOnlyWhenAsked) {
  const ModelOptions options = SmallOptions();
  const MoeMlp model(options, SpecOf(options), {1, 2});
  CounterRng rng(13);
  FillNormal(model.Values(), rng, 0.7);
  const torch::Tensor inputs = RandomInputs(options, 3, rng);
  const MoeOutput output = model.Forward(inputs);
  EXPECT_FALSE(output.gate_probabilities_detached.defined());
  EXPECT_TRUE(output.gate_probabilities.equal(model.GateProbabilities(inputs)));
}

TEST(MoeMlp, AnExpertWithoutTokensHasNoGradient) {
  ModelOptions options = SmallOptions();
  options.top_k = 1;
  options.gate_input = GateInput::kData;
  const MoeMlp model(options, SpecOf(options), {0, 1, 2});
  CounterRng rng(14);
  FillNormal(model.Values(), rng, 0.7);
  // Rows 1 and 2 never win: standardised inputs times a zero row is 0, row 0 is made positive.
  const torch::Tensor inputs = torch::tensor({{2.0F, 0.0F, 0.0F, 0.0F, 0.0F}});
  {
    const torch::NoGradGuard no_gradient;
    torch::Tensor gate = model.Parameter(model.spec().Find("gate.weight"));
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
  FillNormal(model.Values(), rng, 0.7);
  const torch::Tensor inputs = RandomInputs(options, 300, rng);
  TaskLoss(model.Forward(inputs), options.classes).backward();
  const torch::Tensor first = model.Gradients().clone();
  model.Gradients().zero_();
  TaskLoss(model.Forward(inputs), options.classes).backward();
  EXPECT_TRUE(first.equal(model.Gradients()));
}

TEST(HeldMassLoss, GradientEqualsFiniteDifferences) {
  const std::vector<ExpertIndex> held = {0, 2};
  torch::Tensor probabilities =
      torch::tensor({{0.1, 0.2, 0.3, 0.4}, {0.7, 0.1, 0.1, 0.1}, {0.01, 0.5, 0.02, 0.47}},
                    torch::kFloat64)
          .requires_grad_();
  const torch::Tensor loss = HeldMassLoss(probabilities, held);
  EXPECT_NEAR(loss.item<double>(), -(std::log(0.4) + std::log(0.8) + std::log(0.03)) / 3.0, 1e-12);
  loss.backward();
  const torch::NoGradGuard no_gradient;
  constexpr double kStep = 1e-6;
  for (int row = 0; row < 3; ++row) {
    for (int expert = 0; expert < 4; ++expert) {
      torch::Tensor above = probabilities.clone();
      torch::Tensor below = probabilities.clone();
      above[row][expert] += kStep;
      below[row][expert] -= kStep;
      const double slope =
          (HeldMassLoss(above, held) - HeldMassLoss(below, held)).item<double>() / (2.0 * kStep);
      EXPECT_NEAR(probabilities.grad()[row][expert].item<double>(), slope, 1e-6);
    }
  }
}

TEST(HeldMassLoss, IsZeroWhereAllExpertsAreHeld) {
  // Probabilities that do not quite sum to 1.
  const torch::Tensor probabilities = torch::full({2, 3}, 0.333F);
  EXPECT_EQ(HeldMassLoss(probabilities, {0, 1, 2}).item<float>(), 0.0F);
}

TEST(HeldMassLoss, StaysFiniteWhereNoMassIsLeft) {
  torch::Tensor logits = torch::tensor({{200.0F, 0.0F}}).requires_grad_();
  const torch::Tensor loss = HeldMassLoss(torch::softmax(logits, 1), {1});
  loss.backward();
  EXPECT_NEAR(loss.item<float>(), -std::log(1e-30), 1e-3);
  EXPECT_TRUE(logits.grad().isfinite().all().item<bool>());
}

}  // namespace
}  // namespace fedmoe
