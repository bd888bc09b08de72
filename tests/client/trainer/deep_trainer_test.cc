// Training and evaluating images and text with models of two MoE layers.
#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "moe/moe_model.h"
#include "moe/torch.h"
#include "tests/client/trainer/deep_fixture.h"

namespace fedmoe {
namespace {

using ::testing::Each;
using ::testing::FloatNear;

double LayerSum(const std::vector<double>& values, int layer) {
  const auto first = values.begin() + 4 * layer;
  return std::accumulate(first, first + 4, 0.0);
}

TEST_F(DeepTrainerTest, ImagesAreLearned) {
  UseCnn();
  task_.training.epochs = 4;
  task_.training.random_crop = 1;
  auto trainer = TrainerOf(MakeImages(120, 1), MakeImages(60, 2));
  const auto before = trainer->Evaluate(task_, Shards(), {}, {});
  Apply(Train(*trainer));
  const auto after = trainer->Evaluate(task_, Shards(), {}, {});
  ASSERT_TRUE(before.ok() && after.ok());
  EXPECT_EQ(after->examples, 60.0);
  EXPECT_LT(after->loss, 0.5 * before->loss);
  EXPECT_GT(after->correct, 54.0);
}

// Every character follows from the one before it, so that nothing is left to guess.
TEST_F(DeepTrainerTest, APeriodicTextIsLearnedByHeart) {
  UseTransformer();
  task_.training.optimizer = LocalOptimizer::kAdamW;
  task_.training.learning_rate = 0.02;
  task_.training.epochs = 10;
  auto trainer = TrainerOf(MakeText(40), MakeText(10));
  const auto before = trainer->Evaluate(task_, Shards(), {}, {});
  Apply(Train(*trainer));
  const auto after = trainer->Evaluate(task_, Shards(), {}, {});
  ASSERT_TRUE(before.ok() && after.ok());
  EXPECT_GT(before->loss / before->examples, 1.2);
  EXPECT_LT(after->loss / after->examples, 0.02);
  EXPECT_EQ(after->correct, 80.0);
}

TEST_F(DeepTrainerTest, AnMlpPredictsTheCharacterBehindEachWindow) {
  UseModel(SmallTextMlp());
  task_.training.optimizer = LocalOptimizer::kAdamW;
  task_.training.learning_rate = 0.02;
  task_.training.epochs = 20;
  task_.training.random_shift = true;
  auto trainer = TrainerOf(MakeText(40), MakeText(10));
  const auto before = trainer->Evaluate(task_, Shards(), {}, {});
  Apply(Train(*trainer));
  const auto after = trainer->Evaluate(task_, Shards(), {}, {});
  ASSERT_TRUE(before.ok() && after.ok());
  EXPECT_GT(before->loss / before->examples, 1.2);
  EXPECT_LT(after->loss / after->examples, 0.05);
  EXPECT_EQ(after->examples, 10.0);
  EXPECT_EQ(after->correct, 10.0);
}

// All the way at first, then by 0.2 of it; neither training nor weight decay touch them.
TEST_F(DeepTrainerTest, TheGatesMomentsFollowTheClientsOwnData) {
  UseModel(SmallTextMlp());
  task_.training.optimizer = LocalOptimizer::kAdamW;
  task_.training.weight_decay = 0.5;
  const auto text_trainer =
      TrainerOf(MakeText(40));  // each id 8 times in 40, so in 8 once or twice
  const TrainResult first = Train(*text_trainer);
  // Shares of a window: 2/8 for three ids in a row, 1/8 for the others; each id is among the three
  // in three windows of five. Standardised: mean 0.2, variance 0.00375.
  const double scale = 1.0 / std::sqrt(0.00375 + 1e-5);
  const double high = 0.05 * scale, low = -0.075 * scale;
  const double mean = 0.6 * high + 0.4 * low, square = 0.6 * high * high + 0.4 * low * low;
  EXPECT_THAT(DeltaOf(first, "gate.mean"), Each(FloatNear(static_cast<float>(mean), 1e-5F)));
  EXPECT_THAT(DeltaOf(first, "gate.square"), Each(FloatNear(static_cast<float>(square), 1e-4F)));
  Apply(first);
  const auto next_trainer = TrainerOf(MakeText(40, 1));  // nothing but id 0
  const TrainResult second = Train(*next_trainer);
  const std::vector<float> moved = DeltaOf(second, "gate.mean");
  ASSERT_EQ(moved.size(), 5U);
  const double only = 0.8 / std::sqrt(0.16 + 1e-5), none = -0.2 / std::sqrt(0.16 + 1e-5);
  EXPECT_NEAR(moved[0], 0.2 * (only - mean), 1e-5);
  EXPECT_NEAR(moved[1], 0.2 * (none - mean), 1e-5);
}

// Their training changes nothing else, and gives rows to the held experts alone.
TEST_F(DeepTrainerTest, TheExpertsGetTheirOwnGatesAfterTheTraining) {
  ModelOptions options = SmallTransformer();
  UseModel(options);
  task_.experts = {1, 3, 4, 5};
  task_.training.batch_size = 4;
  const TrainResult without = Train(*TrainerOf(MakeRandomText(40, 3)));
  std::map<std::string, std::vector<float>> expected;
  for (const BlockDelta& block : without.blocks) {
    expected[spec_.blocks[static_cast<std::size_t>(block.parameter)].name] = block.delta;
  }
  options.post_hoc_batches = 4;
  UseModel(options);
  const TrainResult with = Train(*TrainerOf(MakeRandomText(40, 3)));
  for (const BlockDelta& block : with.blocks) {
    const std::string& name = spec_.blocks[static_cast<std::size_t>(block.parameter)].name;
    if (!expected.contains(name)) continue;
    EXPECT_EQ(block.delta, expected.at(name)) << name;
  }
  for (const auto& [name, held] : std::map<std::string, std::vector<bool>>{
           {"blocks.0.gate.post_hoc", {false, true, false, true}},
           {"blocks.1.gate.post_hoc", {true, true, false, false}}}) {
    const std::vector<float> delta = DeltaOf(with, name);
    ASSERT_EQ(delta.size(), 4U * 16U) << name;
    for (std::size_t row = 0; row < held.size(); ++row) {
      const auto first = delta.begin() + static_cast<std::ptrdiff_t>(16 * row);
      const bool moved = std::any_of(first, first + 16, [](float d) { return d != 0.0F; });
      EXPECT_EQ(moved, held[row]) << name << " " << row;
    }
  }
}

// Whoever has all experts uses the soup and the experts' own gates, others do not.
TEST_F(DeepTrainerTest, SoupAndOwnGatesAreForTheWholeModel) {
  ModelOptions options = SmallTextMlp();
  const auto loss_of = [&](double soup, int batches, const std::vector<ExpertIndex>& experts) {
    options.soup = soup;
    options.post_hoc_batches = batches;
    UseModel(options);
    task_.experts = experts;
    const auto result =
        TrainerOf(MakeRandomText(20, 4), MakeRandomText(10, 5))->Evaluate(task_, Shards(), {}, {});
    EXPECT_TRUE(result.ok());
    return result.ok() ? result->loss : 0.0;
  };
  const double plain = loss_of(0.0, 0, {0, 1, 2, 3});
  EXPECT_NE(loss_of(0.5, 0, {0, 1, 2, 3}), plain);
  EXPECT_NE(loss_of(0.0, 3, {0, 1, 2, 3}), plain);
  EXPECT_EQ(loss_of(0.5, 3, {0, 2}), loss_of(0.0, 0, {0, 2}));
}

// The rows that were learned are what an evaluation routes by.
TEST_F(DeepTrainerTest, AnEvaluationRoutesByTheExpertsOwnGates) {
  ModelOptions options = SmallTextMlp();
  options.post_hoc_batches = 3;
  UseModel(options);
  TrainResult rows;
  BlockDelta& own = rows.blocks.emplace_back();
  own.parameter = spec_.Find("gate.post_hoc");
  CounterRng rng(71);
  for (int i = 0; i < 4 * 5; ++i) own.delta.push_back(static_cast<float>(3.0 * rng.NextNormal()));
  Apply(rows);
  task_.experts = {0, 1, 2, 3};
  const auto text = MakeRandomText(10, 5);
  const auto result = TrainerOf(MakeRandomText(20, 4), text)->Evaluate(task_, Shards(), {}, {});
  ASSERT_TRUE(result.ok());

  const auto model = BuildMoeModel(options, spec_, task_.experts);
  for (const auto& [shard, values] : shards_) {
    std::size_t offset = 0;
    for (const int block : spec_.BlocksOf(shard)) {
      torch::Tensor parameter = model->parameters().Parameter(block).detach();
      std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(offset), parameter.numel(),
                  parameter.data_ptr<float>());
      offset += static_cast<std::size_t>(parameter.numel());
    }
  }
  const auto loss_with = [&](bool post_hoc) {
    double loss = 0.0;
    for (const TextWindow& window : text.windows) {
      std::vector<std::int64_t> ids(text.tokens.begin() + window.first,
                                    text.tokens.begin() + window.first + 9);
      const torch::Tensor all = torch::tensor(ids, torch::kInt64);
      const MoeOutput output =
          model->Forward(all.narrow(0, 0, 8).view({1, 8}), {.post_hoc_gate = post_hoc});
      loss += torch::cross_entropy_loss(output.logits, all.narrow(0, 8, 1)).item<double>();
    }
    return loss;
  };
  EXPECT_NEAR(result->loss, loss_with(true), 1e-4);
  EXPECT_GT(std::abs(result->loss - loss_with(false)), 1e-3);
}

TEST_F(DeepTrainerTest, TheSameTaskGivesTheSameBytesAugmentedToo) {
  for (const bool text : {false, true}) {
    text ? UseTransformer() : UseCnn();
    const Dataset data = text ? MakeRandomText(20, 3) : MakeImages(40, 3);
    task_.training.epochs = 2;
    task_.training.gate_noise = 0.5;
    const TrainResult plain = Train(*TrainerOf(data));
    ExpectSameBytes(plain, Train(*TrainerOf(data)));
    task_.training.random_shift = text;
    task_.training.random_flip = !text;
    task_.training.random_crop = text ? 0 : 2;
    auto first = TrainerOf(data);
    const TrainResult once = Train(*first);
    ExpectSameBytes(once, Train(*first));
    ExpectSameBytes(once, Train(*TrainerOf(data)));
    EXPECT_NE(once.blocks[0].delta, plain.blocks[0].delta);
    task_.training = TrainingOptions{};
  }
}

// Images one pixel wide are their own mirror images: the batches made ahead of need hold what the
// whole tensor holds.
TEST_F(TrainerTest, BatchesMadeAheadTrainAsTheWholeTensorDoes) {
  Dataset data;
  data.name = "columns";
  data.shape = {1, 6, 1};
  data.classes = 3;
  CounterRng rng(51);
  for (int i = 0; i < 50; ++i) {
    data.labels.push_back(i % 3);
    for (int at = 0; at < 6; ++at) {
      data.pixels.push_back(static_cast<std::uint8_t>(rng.NextBelow(256)));
    }
  }
  task_.training.epochs = 2;
  LocalTrainer trainer(LocalData{data, {}});
  ASSERT_TRUE(trainer.Prepare(spec_, kSeed).ok());
  const TrainResult whole = Train(trainer);
  task_.training.random_flip = true;
  ExpectSameBytes(whole, Train(trainer));
}

TEST_F(DeepTrainerTest, EveryPositionOfATextIsAPrediction) {
  ModelOptions options = SmallTransformer();
  options.experts = options.top_k = 1;
  UseModel(options);
  task_.experts = {0, 1};
  const Dataset data = MakeRandomText(30, 4);
  LocalTrainer evaluator(data);
  ASSERT_TRUE(evaluator.Prepare(spec_, kSeed).ok());
  EXPECT_EQ(evaluator.examples(), 0);
  const auto result = evaluator.Evaluate(task_, Shards(), {}, {});
  ASSERT_TRUE(result.ok()) << result.status().ToString();
  const ReferenceBlocks blocks = Reference().blocks;
  double loss = 0.0, correct = 0.0;
  for (const TextWindow& window : data.windows) {
    const auto first = data.tokens.begin() + window.first;
    const std::vector<Vector> logits =
        ReferenceTransformer(options, blocks, std::vector<int>(first, first + 8));
    for (int p = 0; p < 8; ++p) {
      const Vector& row = logits[static_cast<std::size_t>(p)];
      const int label = first[p + 1];
      loss -= std::log(Softmax(row)[static_cast<std::size_t>(label)]);
      correct += std::max_element(row.begin(), row.end()) - row.begin() == label ? 1.0 : 0.0;
    }
  }
  EXPECT_EQ(result->examples, 240.0);
  EXPECT_EQ(result->correct, correct);
  EXPECT_NEAR(result->loss, loss, 1e-3);

  // With one batch, training meets the received model with the same figures.
  task_.training.batch_size = 1000;
  const TrainingFeedback feedback = Train(*TrainerOf(data)).feedback;
  EXPECT_NEAR(feedback.train_loss, loss / 240.0, 1e-5);
  EXPECT_NEAR(feedback.train_accuracy, correct / 240.0, 1e-9);
  EXPECT_EQ(feedback.examples, 30);
  EXPECT_EQ(feedback.steps, 1);
  // Each expert saw all of it.
  for (const int expert : {0, 1}) {
    EXPECT_EQ(feedback.tokens[static_cast<std::size_t>(expert)], 240.0);
    EXPECT_NEAR(feedback.expert_loss[static_cast<std::size_t>(expert)], loss / 240.0, 1e-5);
    EXPECT_NEAR(feedback.expert_accuracy[static_cast<std::size_t>(expert)], correct / 240.0, 1e-5);
  }
}

TEST_F(DeepTrainerTest, FeedbackCountsTheTokensOfEachLayer) {
  for (const bool text : {false, true}) {
    text ? UseTransformer() : UseCnn();
    task_.training.epochs = 2;
    const TrainingFeedback feedback =
        Train(*TrainerOf(text ? MakeRandomText(20, 5) : MakeImages(40, 5))).feedback;
    const Status status = ValidateFeedback(feedback, spec_, task_.experts);
    EXPECT_TRUE(status.ok()) << status.ToString();
    ASSERT_EQ(feedback.tokens.size(), 8U);
    ASSERT_EQ(feedback.affinity.size(), 8U);
    const double tokens =
        2.0 * (text ? 20 : 40) * 2 * static_cast<double>(spec_.tokens_per_example);
    for (const int layer : {0, 1}) {
      EXPECT_EQ(LayerSum(feedback.tokens, layer), tokens);
      EXPECT_NEAR(LayerSum(feedback.affinity, layer), 1.0, 1e-6);
    }
    EXPECT_EQ(feedback.examples, text ? 20 : 40);
  }
}

TEST_F(DeepTrainerTest, AffinityLeavesOutZeroComputationExperts) {
  ModelOptions options = SmallTransformer();
  options.zero_experts = options.copy_experts = options.constant_experts = 2;
  UseModel(options);
  const TrainingFeedback feedback = Train(*TrainerOf(MakeRandomText(20, 6))).feedback;
  EXPECT_TRUE(ValidateFeedback(feedback, spec_, task_.experts).ok());
  for (const int layer : {0, 1}) {
    EXPECT_NEAR(LayerSum(feedback.affinity, layer), 1.0, 1e-6);
    // Some tokens went to experts that need no computation, and are nobody's.
    EXPECT_LT(LayerSum(feedback.tokens, layer), 20.0 * 8 * 2);
  }
}

TEST_F(DeepTrainerTest, AClientWithoutExpertsInALayerTrains) {
  for (const int free : {0, 1}) {
    ModelOptions options = SmallTransformer();
    options.copy_experts = free;
    UseModel(options);
    task_.experts = {1, 2};  // of the first layer alone
    const TrainResult result = Train(*TrainerOf(MakeRandomText(20, 7)));
    EXPECT_TRUE(ValidateFeedback(result.feedback, spec_, task_.experts).ok());
    EXPECT_EQ(LayerSum(result.feedback.tokens, 1), 0.0);
    EXPECT_NEAR(LayerSum(result.feedback.affinity, 1), 1.0, 1e-6);
    EXPECT_THAT(DeltaOf(result, "blocks.0.gate.weight"), ::testing::Contains(::testing::Ne(0.0F)));
    // Its gate there learns nothing: no mass is drawn from the experts of others.
    EXPECT_THAT(DeltaOf(result, "blocks.1.gate.weight"), Each(0.0F)) << free;
    EXPECT_THAT(DeltaOf(result, "blocks.1.attention.output.weight"),
                ::testing::Contains(::testing::Ne(0.0F)));
  }
}

TEST_F(DeepTrainerTest, ADenseModelTrainsWithoutExperts) {
  for (const bool text : {false, true}) {
    ModelOptions options = text ? SmallTransformer() : SmallCnn();
    options.moe_layers = 0;
    UseModel(options);
    task_.experts = {};
    const TrainResult result = Train(*TrainerOf(text ? MakeRandomText(20, 8) : MakeImages(20, 8)));
    EXPECT_TRUE(ValidateFeedback(result.feedback, spec_, {}).ok());
    EXPECT_TRUE(result.feedback.affinity.empty());
    EXPECT_EQ(result.blocks.size(), spec_.blocks.size());
    for (const BlockDelta& block : result.blocks) {
      EXPECT_THAT(block.delta, ::testing::Contains(::testing::Ne(0.0F)));
    }
  }
}

TEST_F(DeepTrainerTest, TheSelectionBiasIsSentAndMovesByItsRate) {
  ModelOptions options = SmallTransformer();
  options.selection_bias = true;
  options.top_k = 1;
  UseModel(options);
  task_.experts = {0, 3, 5, 6};
  task_.training.batch_size = 1000;  // one step
  task_.training.selection_bias_rate = 0.25;
  const TrainResult result = Train(*TrainerOf(MakeRandomText(21, 9)));
  for (const int layer : {0, 1}) {
    const std::string name = "blocks." + std::to_string(layer) + ".gate.bias";
    const std::vector<float> delta = DeltaOf(result, name);
    ASSERT_EQ(delta.size(), 4U) << name;
    for (int e = 0; e < 4; ++e) {
      const int expert = 4 * layer + e;
      const bool held = std::count(task_.experts.begin(), task_.experts.end(), expert) > 0;
      const double tokens = result.feedback.tokens[static_cast<std::size_t>(expert)];
      const float expected = !held || tokens == 84.0 ? 0.0F : tokens > 84.0 ? -0.25F : 0.25F;
      EXPECT_EQ(delta[static_cast<std::size_t>(e)], expected) << name << " " << e;
    }
  }
}

TEST_F(DeepTrainerTest, DataOfTheWrongKindIsNamed) {
  UseTransformer();
  EXPECT_EQ(LocalTrainer(LocalData{MakeImages(4, 1), {}}).Prepare(spec_, kSeed),
            InvalidArgument("data 'panes' is not text, model.preset moe_transformer takes text"));
  ModelOptions options = SmallTransformer();
  options.inputs = 16;
  UseModel(options);
  EXPECT_EQ(
      LocalTrainer(MakeText(4)).Prepare(spec_, kSeed),
      InvalidArgument("data 'verses' has 8 features and 5 classes, the model takes 16 and 5"));
  UseCnn();
  EXPECT_EQ(LocalTrainer(LocalData{MakeText(4), {}}).Prepare(spec_, kSeed),
            InvalidArgument("data 'verses' is text, model.preset moe_cnn takes images or tables"));
  options = SmallTextMlp();
  UseModel(options);
  EXPECT_EQ(LocalTrainer(LocalData{MakeImages(4, 1), {}}).Prepare(spec_, kSeed),
            InvalidArgument("data 'panes' is not text, model.preset moe_mlp takes text with "
                            "model.embedding"));
  options.embedding = 0;
  UseModel(options);
  EXPECT_EQ(LocalTrainer(LocalData{MakeText(4), {}}).Prepare(spec_, kSeed),
            InvalidArgument("data 'verses' is text, model.preset moe_mlp takes images or tables "
                            "without model.embedding"));
}

TEST_F(DeepTrainerTest, AnAugmentationThatTheDataCannotTakeEndsTheTask) {
  UseTransformer();
  task_.training.random_flip = true;
  auto trainer = TrainerOf(MakeText(4));
  EXPECT_EQ(trainer->Train(task_, Shards(), {}, {}).status(),
            InvalidArgument(
                "verses: random_flip and random_crop need images of channels x height x width"));
}

}  // namespace
}  // namespace fedmoe
