// The path of tensor operators against that of the kernels, in float32, module by module; and that
// the device for tests is one.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "moe/expert_tensor_ops.h"
#include "moe/moe_model.h"
#include "moe/torch.h"
#include "tests/moe/compute_devices.h"
#include "tests/moe/model_fixture.h"

namespace fedmoe {
namespace {

// Of the largest value of what is compared, or of 1. Both paths are exact to float32's rounding of
// each operation.
constexpr double kTolerance = 2e-5;

void ExpectNear(const torch::Tensor& kernels, const torch::Tensor& tensor_ops) {
  ASSERT_EQ(kernels.defined(), tensor_ops.defined());
  if (!kernels.defined() || kernels.numel() == 0) return;
  ASSERT_EQ(kernels.sizes(), tensor_ops.sizes());
  const torch::Tensor host = tensor_ops.detach().to(torch::kCPU);
  const double scale = std::max(1.0, kernels.detach().abs().max().item<double>());
  EXPECT_LE((kernels.detach() - host).abs().max().item<double>(), kTolerance * scale);
}

ModelOptions Small(const std::string& preset) {
  ModelOptions options;
  options.preset = preset;
  options.width = 12;
  options.expert_width = 10;
  options.experts = 5;
  options.classes = 4;
  if (preset == "moe_mlp") options.inputs = 6;
  if (preset == "moe_cnn") options.inputs = 64;
  if (preset == "moe_transformer") {
    options.inputs = 7;
    options.heads = 2;
    options.depth = options.moe_layers = 2;
  }
  return options;
}

struct Case {
  std::string name;
  ModelOptions options;
  std::vector<ExpertIndex> held;
};

std::vector<Case> Cases() {
  std::vector<Case> cases;
  const auto add = [&cases](const std::string& name, ModelOptions options,
                            std::vector<ExpertIndex> held) {
    cases.push_back({name, std::move(options), std::move(held)});
  };
  for (const std::string preset : {"moe_mlp", "moe_cnn", "moe_transformer"}) {
    const int last = preset == "moe_transformer" ? 7 : 4;
    add(preset, Small(preset), {0, 2, last});
    ModelOptions everything = Small(preset);
    everything.expert_activation = ExpertActivation::kSwiGlu;
    everything.shared_expert_width = 6;
    everything.zero_experts = everything.copy_experts = 1;
    everything.constant_experts = 2;
    everything.top_k = 3;
    everything.selection_bias = true;
    everything.gate_normalisation = GateNormalisation::kPopulation;
    everything.gate_input = preset == "moe_mlp" ? GateInput::kData : GateInput::kSequence;
    add(preset + " with everything", everything, {1, 3, last});
    ModelOptions own_gates = Small(preset);
    own_gates.post_hoc_batches = 3;
    add(preset + " with gates of the experts' own", own_gates, {1, 3, last});
  }
  ModelOptions text = Small("moe_mlp");
  text.embedding = 3;
  text.gate_input = GateInput::kData;
  text.expert_activation = ExpertActivation::kGelu;
  add("moe_mlp of text", text, {0, 1, 2, 3, 4});
  ModelOptions shares = Small("moe_transformer");
  shares.gate_input = GateInput::kData;
  shares.expert_activation = ExpertActivation::kSilu;
  add("moe_transformer, gates on the data", shares, {0, 1, 6});
  ModelOptions dense = Small("moe_cnn");
  dense.moe_layers = 0;
  dense.experts = dense.top_k = 1;
  add("a dense model", dense, {});
  add("nothing held", Small("moe_mlp"), {});
  return cases;
}

std::unique_ptr<MoeModel> RandomModel(const Case& example) {
  CounterRng rng(11);
  auto model = BuildMoeModel(example.options, SpecOf(example.options), example.held);
  FillNormal(model->parameters().Values(), rng, 0.4);
  const torch::NoGradGuard no_gradient;
  for (const int index : model->parameters().HeldBlocks()) {
    const std::string& name = model->spec().blocks[static_cast<std::size_t>(index)].name;
    torch::Tensor values = model->parameters().Parameter(index);
    if (name.ends_with("gate.square")) values.copy_(values.square() + 1.0);
  }
  return model;
}

std::unique_ptr<MoeModel> CopyOn(const MoeModel& model, const ComputeOptions& compute) {
  auto copy = BuildMoeModel(model.options(), model.spec(), model.held(), compute);
  copy->parameters().Values().copy_(model.parameters().Values());
  return copy;
}

// The task's loss and every other, on the model's own device.
torch::Tensor AllLosses(const MoeOutput& output, const torch::Tensor& labels) {
  torch::Tensor loss =
      torch::cross_entropy_loss(output.logits, labels, {}, at::Reduction::None).mean();
  for (const GateOutput& gate : output.layers) {
    loss = loss + 0.1 * RouterZLoss(gate);
    loss = loss + 0.2 * HeldMassLoss(gate.detached_logits, gate.candidates);
    if (gate.selected.defined()) loss = loss + 0.3 * BalanceLoss(gate);
  }
  return loss;
}

class TensorOpsTest : public OnComputeDevice {
 protected:
  // Runs forward and backward on both paths and compares all that comes out.
  static void ExpectEqualsTheKernels(const Case& example, const ForwardOptions& forward) {
    SCOPED_TRACE(example.name);
    const auto kernels = RandomModel(example);
    const auto tensor_ops = CopyOn(*kernels, TensorOps());
    CounterRng rng(12);
    const torch::Tensor inputs = RandomInputs(example.options, 9, rng);
    const MoeOutput expected = kernels->Forward(inputs, forward);
    const torch::Tensor labels =
        torch::arange(expected.logits.size(0), torch::kInt64).remainder(example.options.classes);
    const torch::Device device = tensor_ops->parameters().device();
    const MoeOutput actual = tensor_ops->Forward(inputs.to(device), forward);
    ExpectNear(expected.logits, actual.logits);
    ASSERT_EQ(expected.layers.size(), actual.layers.size());
    if (forward.lone_expert < 0) {
      for (std::size_t layer = 0; layer < expected.layers.size(); ++layer) {
        const GateOutput& gate = expected.layers[layer];
        ExpectNear(gate.probabilities, actual.layers[layer].probabilities);
        ExpectNear(gate.weights, actual.layers[layer].weights);
        if (gate.selected.defined()) {
          EXPECT_TRUE(gate.selected.equal(actual.layers[layer].selected.to(torch::kCPU)));
        }
      }
      AllLosses(expected, labels).backward();
      AllLosses(actual, labels.to(device)).backward();
    } else {
      torch::nn::functional::cross_entropy(expected.logits, labels).backward();
      torch::nn::functional::cross_entropy(actual.logits, labels.to(device)).backward();
    }
    for (const int index : kernels->parameters().HeldBlocks()) {
      SCOPED_TRACE(kernels->spec().blocks[static_cast<std::size_t>(index)].name);
      ExpectNear(kernels->parameters().Parameter(index).grad(),
                 tensor_ops->parameters().Parameter(index).grad());
    }
    if (forward.lone_expert >= 0 || forward.without_experts) return;
    kernels->UpdateSelectionBias(expected, 0.125);
    tensor_ops->UpdateSelectionBias(actual, 0.125);
    ExpectNear(kernels->parameters().Values(), tensor_ops->parameters().Values());
  }
};

TEST_P(TensorOpsTest, ForwardAndGradientsEqualTheKernels) {
  for (const Case& example : Cases()) {
    ExpectEqualsTheKernels(example,
                           {.detached_gate = true, .gate_noise = 0.5, .noise_key = MixKey({3, 4})});
  }
}

TEST_P(TensorOpsTest, APassWithoutExpertsEqualsTheKernels) {
  for (const Case& example : Cases()) {
    ExpectEqualsTheKernels(example, {.without_experts = true});
  }
}

TEST_P(TensorOpsTest, TheExpertsOwnGatesEqualTheKernels) {
  for (const Case& example : Cases()) {
    if (example.options.post_hoc_batches == 0) continue;
    ExpectEqualsTheKernels(example, {.detached_gate = true, .post_hoc_gate = true});
    ExpectEqualsTheKernels(example, {.lone_expert = 4});
  }
}

TEST_P(TensorOpsTest, WhoHasNoTokensHasNoGradientAndNoTokenIsLost) {
  CounterRng rng(5);
  const torch::Device device(TensorOps().device);
  std::vector<FfnParameters> experts(3);
  for (FfnParameters& expert : experts) {
    expert.up = RandomTensor({4, 3}, rng).to(device).requires_grad_();
    expert.down = RandomTensor({3, 4}, rng).to(device).requires_grad_();
  }
  const torch::Tensor tokens = RandomTensor({3, 3}, rng);
  const torch::Tensor slots = torch::tensor({{0, -1}, {-1, -1}, {2, 0}}, torch::kInt64);
  const torch::Tensor weights = RandomTensor({3, 2}, rng);
  const torch::Tensor output = RunExpertsByTensorOps(
      ExpertActivation::kRelu, experts, tokens.to(device), slots.to(device), weights.to(device));
  const auto of_expert = [&](std::size_t expert, std::int64_t token) {
    const torch::Tensor up = experts[expert].up.detach().to(torch::kCPU);
    const torch::Tensor down = experts[expert].down.detach().to(torch::kCPU);
    return torch::linear(torch::relu(torch::linear(tokens[token], up)), down);
  };
  ExpectNear(torch::stack({weights[0][0] * of_expert(0, 0), torch::zeros({3}),
                           weights[2][0] * of_expert(2, 2) + weights[2][1] * of_expert(0, 2)}),
             output);
  output.sum().backward();
  EXPECT_TRUE(experts[0].up.grad().defined() && experts[2].down.grad().defined());
  EXPECT_FALSE(experts[1].up.grad().defined() || experts[1].down.grad().defined());
  const torch::Tensor none = torch::full_like(slots, -1);
  EXPECT_EQ(RunExpertsByTensorOps(ExpertActivation::kRelu, experts, tokens.to(device),
                                  none.to(device), weights.to(device))
                .abs()
                .sum()
                .item<float>(),
            0.0F);
}

INSTANTIATE_TEST_SUITE_P(Devices, TensorOpsTest, ::testing::ValuesIn(ComputeDevices()), DeviceName);

TEST(ComputeOptionsTest, TheKernelsComputeOnTheProcessorAlone) {
  const ModelOptions options = Small("moe_mlp");
  try {
    BuildMoeModel(options, SpecOf(options), {0}, {.path = ComputePath::kKernels, .device = "meta"});
    FAIL() << "accepted";
  } catch (const c10::Error& error) {
    EXPECT_STREQ(error.what_without_backtrace(),
                 "the expert kernels compute on the CPU alone, not on meta");
  }
  EXPECT_EQ(ComputeOn("cpu").path, ComputePath::kKernels);
  EXPECT_EQ(ComputeOn("cuda:1").path, ComputePath::kTensorOps);
  EXPECT_EQ(ComputeOn("cuda:1").device, "cuda:1");
}

TEST(CheckDevice, NamesTheKeyAndTheWayOut) {
  EXPECT_EQ(CheckDevice("simulation.device", "cpu", 0), Status::Ok());
  EXPECT_EQ(CheckDevice("simulation.device", "cuda", 1), Status::Ok());
  EXPECT_EQ(CheckDevice("simulation.device", "cuda:1", 2), Status::Ok());
  EXPECT_EQ(
      CheckDevice("simulation.device", "cuda", 0),
      InvalidArgument("simulation.device is cuda, but libtorch finds no CUDA device: set "
                      "simulation.device to cpu, or build fedmoe with a libtorch for CUDA and "
                      "run it where nvidia-smi lists a GPU"));
  EXPECT_EQ(CheckDevice("device", "cuda:2", 2),
            InvalidArgument("device is cuda:2, but libtorch finds 2 CUDA devices: the last is "
                            "cuda:1"));
  EXPECT_EQ(CheckDevice("device", "cuda:1", 1),
            InvalidArgument("device is cuda:1, but libtorch finds 1 CUDA device: the last is "
                            "cuda:0"));
}

// What the tests above rest on.
TEST(PretendDeviceTest, NoTensorOfTheProcessorMayTakePart) {
  if (PretendDevice() == nullptr) GTEST_SKIP() << "the pretend device is for libtorch 1.13";
  const torch::Tensor there = torch::arange(6.0).view({2, 3}).to(torch::Device(PretendDevice()));
  EXPECT_EQ((there * 2.0 + there).sum().item<float>(), 45.0F);
  EXPECT_EQ(there.narrow(1, 1, 2).t().to(torch::kCPU).sum().item<float>(), 12.0F);
  for (const torch::Tensor& here : {torch::ones({2, 3}), torch::ones({3})}) {
    EXPECT_THROW((void)(there + here), c10::Error);
  }
  EXPECT_THROW((void)torch::linear(torch::ones({1, 3}), there), c10::Error);
  EXPECT_THROW((void)there.index_select(0, torch::zeros({1}, torch::kInt64)), c10::Error);
  EXPECT_THROW((void)torch::cat({there, torch::ones({2, 3})}), c10::Error);
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // the device has threads
  EXPECT_DEATH((void)*static_cast<volatile float*>(there.data_ptr<float>()), "");
}

}  // namespace
}  // namespace fedmoe
