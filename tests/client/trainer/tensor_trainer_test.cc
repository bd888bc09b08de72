// The trainer on the path of tensor operators against itself on the kernels' path: the same task,
// shards and data give the same result but for float32's rounding. On the processor, on a device
// that only looks like one (tests/moe/pretend_device.h), and on CUDA where there is one.
#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tests/client/trainer/deep_fixture.h"
#include "tests/moe/compute_devices.h"

namespace fedmoe {
namespace {

// ||a - b|| / ||a|| of a block's delta, and of what the feedback says. Rounding is fed back through
// some ten steps of training.
constexpr double kTolerance = 2e-4;

double Length(const std::vector<float>& values) {
  double sum = 0.0;
  for (const float value : values) sum += static_cast<double>(value) * value;
  return std::sqrt(sum);
}

class TensorTrainerTest : public DeepTrainerTest,
                          public ::testing::WithParamInterface<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() == "cuda" && !OpenDevice("device", "cuda").ok()) {
      GTEST_SKIP() << "libtorch finds no CUDA device";
    }
  }

  static ComputeOptions TensorOps() {
    return {.path = ComputePath::kTensorOps,
            .device = GetParam() == "pretend" ? PretendDevice() : GetParam()};
  }

  std::unique_ptr<LocalTrainer> TrainerBy(const ComputeOptions& compute, const Dataset& train,
                                          const Dataset& holdout) {
    auto trainer = std::make_unique<LocalTrainer>(LocalData{train, holdout}, compute);
    const Status status = trainer->Prepare(spec_, kSeed);
    EXPECT_TRUE(status.ok()) << status.ToString();
    return trainer;
  }

  static void ExpectNear(const std::vector<double>& kernels, const std::vector<double>& tensor_ops,
                         const char* what) {
    ASSERT_EQ(kernels.size(), tensor_ops.size()) << what;
    for (std::size_t i = 0; i < kernels.size(); ++i) {
      EXPECT_NEAR(kernels[i], tensor_ops[i], kTolerance * std::max(1.0, std::abs(kernels[i])))
          << what << " " << i;
    }
  }

  void ExpectNear(const TrainResult& kernels, const TrainResult& tensor_ops) const {
    ASSERT_EQ(kernels.blocks.size(), tensor_ops.blocks.size());
    for (std::size_t i = 0; i < kernels.blocks.size(); ++i) {
      ASSERT_EQ(kernels.blocks[i].parameter, tensor_ops.blocks[i].parameter);
      std::vector<float> difference = kernels.blocks[i].delta;
      ASSERT_EQ(difference.size(), tensor_ops.blocks[i].delta.size());
      for (std::size_t at = 0; at < difference.size(); ++at) {
        difference[at] -= tensor_ops.blocks[i].delta[at];
      }
      // What hardly moves is all rounding.
      EXPECT_LE(Length(difference), kTolerance * std::max(0.01, Length(kernels.blocks[i].delta)))
          << spec_.blocks[static_cast<std::size_t>(kernels.blocks[i].parameter)].name;
    }
    const TrainingFeedback& a = kernels.feedback;
    const TrainingFeedback& b = tensor_ops.feedback;
    EXPECT_EQ(a.examples, b.examples);
    EXPECT_EQ(a.steps, b.steps);
    EXPECT_NEAR(a.train_loss, b.train_loss, kTolerance);
    EXPECT_NEAR(a.train_accuracy, b.train_accuracy, kTolerance);
    EXPECT_EQ(a.tokens, b.tokens);
    ExpectNear(a.expert_loss, b.expert_loss, "expert loss");
    ExpectNear(a.expert_accuracy, b.expert_accuracy, "expert accuracy");
    ExpectNear(a.affinity, b.affinity, "affinity");
    ASSERT_EQ(kernels.state.size(), tensor_ops.state.size());
    for (std::size_t i = 0; i + 4 <= kernels.state.size(); i += 4) {
      float one = 0.0F;
      float other = 0.0F;
      std::memcpy(&one, kernels.state.data() + i, 4);
      std::memcpy(&other, tensor_ops.state.data() + i, 4);
      EXPECT_NEAR(one, other, kTolerance);
    }
  }

  // Trains and evaluates by both, with the same shards.
  void ExpectEqualsTheKernels(const Dataset& train, const Dataset& holdout) {
    const auto kernels = TrainerBy({}, train, holdout);
    const auto tensor_ops = TrainerBy(TensorOps(), train, holdout);
    const TrainResult expected = Train(*kernels);
    ExpectNear(expected, Train(*tensor_ops));
    const auto before = kernels->Evaluate(task_, Shards(), expected.state, {});
    Apply(expected);
    const auto after = kernels->Evaluate(task_, Shards(), expected.state, {});
    const auto same = tensor_ops->Evaluate(task_, Shards(), expected.state, {});
    ASSERT_TRUE(before.ok() && after.ok() && same.ok()) << same.status().ToString();
    EXPECT_NE(before->loss, after->loss);
    EXPECT_EQ(after->examples, same->examples);
    EXPECT_EQ(after->correct, same->correct);
    EXPECT_NEAR(after->loss, same->loss, kTolerance * after->loss);
  }

  // Of each kind of model, an example of it.
  void OfEveryModel(const std::function<void(ModelOptions&)>& change) {
    const auto run = [&](ModelOptions options, std::vector<ExpertIndex> held, const Dataset& train,
                         const Dataset& holdout) {
      change(options);
      SCOPED_TRACE(options.preset);
      UseModel(options);
      task_.experts = std::move(held);
      task_.training.batch_size = 8;
      ExpectEqualsTheKernels(train, holdout);
    };
    run(SmallModel(), {1, 3}, MakeData(80, 31), MakeData(40, 32));
    run(SmallCnn(), {0, 2, 5, 6}, MakeImages(60, 1), MakeImages(24, 2));
    run(SmallTransformer(), {1, 3, 4, 5}, MakeRandomText(60, 3), MakeRandomText(20, 4));
  }
};

TEST_P(TensorTrainerTest, TrainsEveryModelAsTheKernelsDo) {
  OfEveryModel([](ModelOptions&) {});
}

TEST_P(TensorTrainerTest, WithEveryPartThatALayerMayHave) {
  task_.training.selection_bias_rate = 0.05;
  OfEveryModel([](ModelOptions& options) {
    options.expert_activation = ExpertActivation::kSwiGlu;
    options.shared_expert_width = 6;
    options.zero_experts = options.copy_experts = options.constant_experts = 1;
    options.selection_bias = true;
    options.gate_normalisation = GateNormalisation::kPopulation;
    options.gate_input = options.preset == "moe_mlp" ? GateInput::kData : GateInput::kSequence;
  });
}

TEST_P(TensorTrainerTest, WithGatesOfTheExpertsOwn) {
  OfEveryModel([](ModelOptions& options) { options.post_hoc_batches = 4; });
}

TEST_P(TensorTrainerTest, WithEveryLossAndNoise) {
  task_.training.balance_lambda = 0.1;
  task_.training.router_z_lambda = 0.05;
  task_.training.held_mass_lambda = 0.2;
  task_.training.trunk_lambda = 0.5;
  task_.training.gate_noise = 0.3;
  OfEveryModel([](ModelOptions&) {});
}

TEST_P(TensorTrainerTest, WithEveryOptionOfSgd) {
  task_.training.weight_decay = 0.01;
  task_.training.fedprox_mu = 0.1;
  task_.training.gate_learning_rate = 0.5;
  task_.training.clip_norm = 0.3;
  OfEveryModel([](ModelOptions&) {});
  task_.training.momentum = task_.training.clip_norm = 0.0;
  OfEveryModel([](ModelOptions&) {});
}

TEST_P(TensorTrainerTest, WithEveryOptionOfAdamW) {
  task_.training.optimizer = LocalOptimizer::kAdamW;
  task_.training.learning_rate = 0.003;
  // Where a gradient is next to nothing AdamW would take its rounding for one of full size.
  task_.training.adam_epsilon = 1e-3;
  task_.training.weight_decay = 0.01;
  task_.training.fedprox_mu = 0.1;
  task_.training.gate_learning_rate = 0.5;
  OfEveryModel([](ModelOptions& options) { options.post_hoc_batches = 3; });
}

TEST_P(TensorTrainerTest, WithALocalGateAndAugmentedExamples) {
  UseCnn();
  options_.gate_mode = GateMode::kLocal;
  UseModel(ModelOptions(options_));
  task_.training.random_flip = true;
  task_.training.random_crop = 1;
  ExpectEqualsTheKernels(MakeImages(60, 1), MakeImages(24, 2));
}

TEST_P(TensorTrainerTest, WithAllExpertsTheirSoupAndTheirOwnGates) {
  ModelOptions options = SmallTextMlp();
  options.soup = 0.5;
  options.post_hoc_batches = 5;
  UseModel(options);
  task_.experts = {0, 1, 2, 3};
  task_.training.random_shift = true;
  ExpectEqualsTheKernels(MakeRandomText(100, 5), MakeRandomText(30, 6));
}

TEST_P(TensorTrainerTest, WithoutAnyExpertAndWithoutAnyLayer) {
  task_.experts = {};
  ExpectEqualsTheKernels(MakeData(80, 31), MakeData(40, 32));
  ModelOptions options = SmallModel();
  options.moe_layers = 0;
  options.experts = options.top_k = 1;
  UseModel(options);
  ExpectEqualsTheKernels(MakeData(80, 31), MakeData(40, 32));
}

// Outcomes wait on the device for 32 batches; more than that, and not a multiple of it.
TEST_P(TensorTrainerTest, OverManyBatches) {
  task_.training.batch_size = 2;
  task_.training.learning_rate = 0.01;
  task_.training.epochs = 2;
  ExpectEqualsTheKernels(MakeData(75, 31), MakeData(40, 32));
}

TEST_P(TensorTrainerTest, ADivergenceIsNamedAsOnTheKernelsPath) {
  const auto status_of = [&](const ComputeOptions& compute) {
    const auto trainer = TrainerBy(compute, MakeData(80, 31), {});
    return trainer->Train(task_, Shards(), {}, {}).status();
  };
  task_.training.learning_rate = 1e30;
  task_.training.clip_norm = 0.0;
  const Status expected = status_of({});
  EXPECT_NE(expected.message().find("training diverged: "), std::string::npos);
  EXPECT_EQ(status_of(TensorOps()), expected);
  task_.training.max_batches = 1;
  task_.training.learning_rate = 1e300;
  EXPECT_EQ(status_of(TensorOps()), status_of({}));
}

TEST_P(TensorTrainerTest, SeveralTrainOnOneDeviceAtOnce) {
  const auto lone = TrainerBy(TensorOps(), MakeData(80, 31), {});
  const TrainResult expected = Train(*lone);
  constexpr int kThreads = 4;
  std::vector<TrainResult> results(kThreads);
  std::vector<std::unique_ptr<LocalTrainer>> trainers;
  for (int i = 0; i < kThreads; ++i) {
    trainers.push_back(TrainerBy(TensorOps(), MakeData(80, 31), {}));
  }
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      SetTorchThreads(1);
      const auto index = static_cast<std::size_t>(i);
      auto result = trainers[index]->Train(task_, Shards(), {}, {});
      if (result.ok()) results[index] = std::move(*result);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const TrainResult& result : results) ExpectNear(expected, result);
}

INSTANTIATE_TEST_SUITE_P(Devices, TensorTrainerTest, ::testing::ValuesIn(ComputeDevices()),
                         DeviceName);

}  // namespace
}  // namespace fedmoe
