// The optimiser by tensor operators against OptimizerState's loops, and the way to the host.
#include "client/model_optimizer.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "client/tally.h"
#include "common/counter_rng.h"
#include "tests/moe/compute_devices.h"

namespace fedmoe {
namespace {

constexpr int kParameters = 24;

torch::Tensor Random(std::int64_t size, CounterRng& rng) {
  torch::Tensor tensor = torch::empty({size});
  for (float& value : FloatsOf(tensor)) value = static_cast<float>(rng.NextNormal());
  return tensor;
}

class ModelOptimizerTest : public OnComputeDevice {
 protected:
  // Ten steps of both on the same gradients, with gates at 2 to 5 and what is left alone at 9
  // to 12.
  static void ExpectEqualsTheLoops(const TrainingOptions& options) {
    CounterRng rng(3);
    const torch::Device device(TensorOps().device);
    const std::vector<OptimizerState::Range> gates = {{2, 4}, {4, 6}};
    const std::vector<OptimizerState::Range> left_alone = {{9, 13}};
    const OptimizedVector loops = {Random(kParameters, rng), torch::empty({kParameters}), gates,
                                   left_alone};
    const OptimizedVector tensor_ops = {loops.values.clone().to(device),
                                        torch::empty({kParameters}).to(device), gates, left_alone};
    const torch::Tensor before = loops.values.clone();
    const auto expected = MakeModelOptimizer(ComputePath::kKernels, options, loops);
    const auto actual = MakeModelOptimizer(ComputePath::kTensorOps, options, tensor_ops);
    for (int step = 0; step < 10; ++step) {
      loops.gradients.copy_(Random(kParameters, rng));
      tensor_ops.gradients.copy_(loops.gradients);
      const double norm = expected->Step().item<double>();
      EXPECT_NEAR(actual->Step().item<double>(), norm, 1e-5 * norm);
    }
    expected->Finish();
    actual->Finish();
    const torch::Tensor values = tensor_ops.values.to(torch::kCPU);
    EXPECT_LE((values - loops.values).abs().max().item<float>(), 2e-6F);
    EXPECT_TRUE(values.narrow(0, 9, 4).equal(before.narrow(0, 9, 4)));
    EXPECT_GT((values - before).abs().sum().item<float>(), 0.1F);
  }
};

TEST_P(ModelOptimizerTest, SgdEqualsTheLoops) {
  TrainingOptions options;
  options.learning_rate = 0.05;
  ExpectEqualsTheLoops(options);
  options.momentum = 0.0;
  ExpectEqualsTheLoops(options);
  options.clip_norm = 0.0;
  options.weight_decay = 0.1;
  ExpectEqualsTheLoops(options);
}

TEST_P(ModelOptimizerTest, WithEverythingEqualsTheLoops) {
  for (const LocalOptimizer optimizer : {LocalOptimizer::kSgd, LocalOptimizer::kAdamW}) {
    TrainingOptions options;
    options.optimizer = optimizer;
    options.learning_rate = 0.05;
    options.weight_decay = 0.1;
    options.fedprox_mu = 0.3;
    options.clip_norm = 2.0;
    ExpectEqualsTheLoops(options);
    options.gate_learning_rate = 0.2;
    ExpectEqualsTheLoops(options);
  }
}

TEST_P(ModelOptimizerTest, AnInfiniteGradientIsSeenInTheNorm) {
  const torch::Device device(TensorOps().device);
  const OptimizedVector vector = {
      torch::ones({3}).to(device), torch::tensor({1.0F, INFINITY, 2.0F}).to(device), {}, {}};
  EXPECT_FALSE(std::isfinite(
      MakeModelOptimizer(ComputePath::kTensorOps, {}, vector)->Step().item<double>()));
}

TEST_P(ModelOptimizerTest, TensorsOfAllKindsGoToTheHostTogether) {
  const torch::Device device(TensorOps().device);
  const std::vector<torch::Tensor> tensors = {
      torch::tensor({{1.5F, -2.0F}, {0.25F, 1e30F}}), torch::tensor({true, false, true}),
      torch::tensor({{4095, 7}}, torch::kInt64), torch::tensor(3.5F), torch::zeros({0, 4})};
  std::vector<torch::Tensor> there;
  for (const torch::Tensor& tensor : tensors) there.push_back(tensor.to(device));
  const std::vector<torch::Tensor> back = ToHost(there);
  ASSERT_EQ(back.size(), tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_TRUE(back[i].is_cpu());
    EXPECT_EQ(back[i].scalar_type(), tensors[i].scalar_type());
    EXPECT_TRUE(back[i].equal(tensors[i])) << i;
  }
  EXPECT_TRUE(ToHost({}).empty());
}

INSTANTIATE_TEST_SUITE_P(Devices, ModelOptimizerTest, ::testing::ValuesIn(ComputeDevices()),
                         DeviceName);

}  // namespace
}  // namespace fedmoe
