// What a task's training and evaluation yield.
#include "client/local_trainer.h"

#include <cmath>
#include <numeric>
#include <set>

#include <gtest/gtest.h>

#include "tests/client/trainer/trainer_fixture.h"

namespace fedmoe {
namespace {

double SquaredNorm(const TrainResult& result) {
  double square = 0.0;
  for (const BlockDelta& block : result.blocks) {
    for (const double value : block.delta) square += value * value;
  }
  return square;
}

TEST_F(TrainerTest, TrainingLowersTheLossAndRaisesTheAccuracy) {
  for (const LocalOptimizer optimizer : {LocalOptimizer::kSgd, LocalOptimizer::kAdamW}) {
    UseModel(SmallModel());
    task_.training.optimizer = optimizer;
    task_.training.learning_rate = optimizer == LocalOptimizer::kSgd ? 0.1 : 0.01;
    task_.training.epochs = 5;
    auto trainer = MakeTrainer(160);
    const auto before = trainer->Evaluate(task_, Shards(), {}, {});
    for (int round = 1; round <= 3; ++round) Apply(Train(*trainer));
    const auto after = trainer->Evaluate(task_, Shards(), {}, {});
    ASSERT_TRUE(before.ok() && after.ok());
    EXPECT_LT(after->loss, 0.6 * before->loss);
    EXPECT_GT(after->correct, 0.8 * after->examples);
  }
}

TEST_F(TrainerTest, TheSameTaskGivesTheSameBytesOnAnyTrainer) {
  task_.training.epochs = 2;
  auto first = MakeTrainer();
  auto second = MakeTrainer();
  const TrainResult once = Train(*first);
  ExpectSameBytes(once, Train(*first));
  ExpectSameBytes(once, Train(*second));
}

TEST_F(TrainerTest, MaxBatchesBoundsTheStepsOverAllEpochs) {
  auto trainer = MakeTrainer(50);
  task_.training.batch_size = 20;
  task_.training.epochs = 3;
  EXPECT_EQ(Train(*trainer).feedback.steps, 9);
  task_.training.max_batches = 100;
  EXPECT_EQ(Train(*trainer).feedback.steps, 9);
  task_.training.max_batches = 5;  // an epoch has three, of which the last has 10 examples
  EXPECT_EQ(Train(*trainer).feedback.steps, 5);
  task_.training.max_batches = 1;
  EXPECT_EQ(Train(*trainer).feedback.steps, 1);
}

// The batches taken are the first of those that would be taken without a bound.
TEST_F(TrainerTest, AsManyBatchesAsAnEpochHasAreTheEpoch) {
  auto trainer = MakeTrainer(50);
  task_.training.batch_size = 20;
  const TrainResult epoch = Train(*trainer);
  task_.training.epochs = 2;
  task_.training.max_batches = 3;
  ExpectSameBytes(Train(*trainer), epoch);
}

TEST_F(TrainerTest, TheTrunksOwnLossTeachesItToDoWithoutExperts) {
  task_.training.epochs = 20;
  const auto loss_without_experts = [&](double lambda) {
    UseModel(SmallModel());
    auto fresh = MakeTrainer(160);
    task_.experts = {0, 1, 2, 3};
    task_.training.trunk_lambda = lambda;
    Apply(Train(*fresh));
    task_.experts = {};
    return fresh->Evaluate(task_, Shards(), {}, {})->loss;
  };
  const double without = loss_without_experts(0.0);
  EXPECT_LT(loss_without_experts(1.0), 0.7 * without);
}

TEST_F(TrainerTest, GatesWithARateOfTheirOwnStepOnceAgainstTheirMeanGradient) {
  task_.training.optimizer = LocalOptimizer::kAdamW;
  task_.training.learning_rate = 0.01;
  task_.training.clip_norm = 0.0;
  task_.training.max_batches = 1;
  auto trainer = MakeTrainer(50);
  const auto gate_delta = [&](const TrainResult& result) {
    for (const BlockDelta& block : result.blocks) {
      if (spec_.blocks[static_cast<std::size_t>(block.parameter)].name == "gate.weight") {
        return block.delta;
      }
    }
    return std::vector<float>{};
  };
  const std::vector<float> adam = gate_delta(Train(*trainer));
  task_.training.gate_learning_rate = 0.5;
  const std::vector<float> plain = gate_delta(Train(*trainer));
  task_.training.gate_learning_rate = 1.0;
  const std::vector<float> twice = gate_delta(Train(*trainer));
  ASSERT_FALSE(plain.empty());
  for (std::size_t i = 0; i < plain.size(); ++i) {
    // Adam's first step is of the rate's size, whatever the gradient.
    if (adam[i] != 0.0F) {
      EXPECT_NEAR(std::abs(adam[i]), 0.01F, 1e-3F);
    }
    EXPECT_NEAR(twice[i], 2.0F * plain[i], 1e-6F);
  }
  EXPECT_NE(adam, plain);
  // Two batches at a rate that moves nothing else give the mean of each alone.
  task_.training.optimizer = LocalOptimizer::kSgd;
  task_.training.momentum = 0.0;
  task_.training.learning_rate = 1e-30;
  task_.training.batch_size = 25;
  task_.training.max_batches = 1;
  const std::vector<float> first = gate_delta(Train(*trainer));
  task_.training.max_batches = 2;
  const std::vector<float> both = gate_delta(Train(*trainer));
  task_.training.batch_size = 50;
  task_.training.max_batches = 1;
  const std::vector<float> whole = gate_delta(Train(*trainer));
  EXPECT_NE(first, both);
  for (std::size_t i = 0; i < whole.size(); ++i) EXPECT_NEAR(both[i], whole[i], 2e-6F);
}

TEST_F(TrainerTest, RoundClientAndSeedEachChangeTheOrderOfTheExamples) {
  auto trainer = MakeTrainer();
  std::set<std::vector<float>> seen = {Train(*trainer).blocks[0].delta};
  const TaskAssignment original = task_;
  task_.round = 3;
  seen.insert(Train(*trainer).blocks[0].delta);
  task_ = original;
  task_.client = "south";
  seen.insert(Train(*trainer).blocks[0].delta);
  task_ = original;
  task_.seed = kSeed + 1;
  seen.insert(Train(*trainer).blocks[0].delta);
  EXPECT_EQ(seen.size(), 4U);
}

TEST_F(TrainerTest, SendsTheTrunkAndTheExpertsWithTokens) {
  auto trainer = MakeTrainer();
  const TrainResult result = Train(*trainer);
  std::vector<int> expected;
  for (int i = 0; i < static_cast<int>(spec_.blocks.size()); ++i) {
    const ParameterBlock& block = spec_.blocks[static_cast<std::size_t>(i)];
    if (block.owner == BlockOwner::kTrunk || block.expert == 1 || block.expert == 3) {
      expected.push_back(i);
    }
  }
  std::vector<int> sent;
  for (const BlockDelta& block : result.blocks) sent.push_back(block.parameter);
  EXPECT_EQ(sent, expected);
  EXPECT_TRUE(result.state.empty());
}

TEST_F(TrainerTest, AnExpertWithoutTokensSendsNothing) {
  ModelOptions options = SmallModel();
  options.top_k = 1;
  options.gate_input = GateInput::kData;
  UseModel(options);
  // One example: one token for one of the two experts.
  auto trainer = MakeTrainer(1);
  const TrainResult result = Train(*trainer);
  EXPECT_EQ(result.feedback.tokens[1] + result.feedback.tokens[3], 1.0);
  const int idle = result.feedback.tokens[1] == 0.0 ? 1 : 3;
  EXPECT_EQ(result.feedback.expert_loss[static_cast<std::size_t>(idle)], 0.0);
  bool busy_sent = false;
  for (const BlockDelta& block : result.blocks) {
    const int expert = spec_.blocks[static_cast<std::size_t>(block.parameter)].expert;
    EXPECT_NE(expert, idle);
    busy_sent |= expert == 4 - idle;
  }
  EXPECT_TRUE(busy_sent);
}

TEST_F(TrainerTest, WithoutExpertsItTrainsTheTrunkAlone) {
  task_.experts = {};
  auto trainer = MakeTrainer();
  const TrainResult result = Train(*trainer);
  for (const BlockDelta& block : result.blocks) {
    EXPECT_EQ(spec_.ShardOf(block.parameter), kTrunkShard);
    const double moved =
        std::inner_product(block.delta.begin(), block.delta.end(), block.delta.begin(), 0.0);
    const bool gate = spec_.Find("gate.weight") == block.parameter;
    EXPECT_EQ(moved > 0.0, !gate) << block.parameter;
  }
  EXPECT_TRUE(ValidateFeedback(result.feedback, spec_, {}).ok());
}

TEST_F(TrainerTest, FeedbackIsValidAndCountsEveryEpoch) {
  task_.training.epochs = 3;
  auto trainer = MakeTrainer(40);
  const TrainingFeedback feedback = Train(*trainer).feedback;
  const Status status = ValidateFeedback(feedback, spec_, task_.experts);
  EXPECT_TRUE(status.ok()) << status.ToString();
  EXPECT_EQ(feedback.examples, 40);
  EXPECT_EQ(feedback.steps, 3 * 3);  // 16 + 16 + 8, the short batch kept
  EXPECT_EQ(feedback.tokens, (std::vector<double>{0.0, 120.0, 0.0, 120.0}));
  EXPECT_EQ(trainer->examples(), 40);
}

// With one batch, all feedback is of the received model, so that the plain loop can tell it.
TEST_F(TrainerTest, FeedbackEqualsThePlainLoop) {
  task_.training.batch_size = 1000;
  task_.experts = {0, 1, 3};
  auto trainer = MakeTrainer(50);
  const TrainingFeedback feedback = Train(*trainer).feedback;
  const Dataset data = MakeData(50, 31);
  const ReferenceMoe reference = Reference();
  Vector affinity(4), tokens(4), weight(4), loss(4), right(4);
  double total_loss = 0.0;
  double total_right = 0.0;
  for (std::int64_t i = 0; i < data.size(); ++i) {
    const ReferenceOutput output = reference.Forward(ExampleOf(data, i));
    const int label = data.labels[static_cast<std::size_t>(i)];
    const double example_loss = ReferenceTaskLoss(output, label);
    const bool correct =
        std::max_element(output.logits.begin(), output.logits.end()) - output.logits.begin() ==
        label;
    total_loss += example_loss / 50.0;
    total_right += correct ? 1.0 / 50.0 : 0.0;
    for (std::size_t e = 0; e < 4; ++e) affinity[e] += output.gate_probabilities[e] / 50.0;
    for (std::size_t slot = 0; slot < output.selected.size(); ++slot) {
      const auto expert = static_cast<std::size_t>(output.selected[slot]);
      tokens[expert] += 1.0;
      weight[expert] += output.weights[slot];
      loss[expert] += output.weights[slot] * example_loss;
      right[expert] += correct ? output.weights[slot] : 0.0;
    }
  }
  EXPECT_NEAR(feedback.train_loss, total_loss, 1e-5);
  EXPECT_NEAR(feedback.train_accuracy, total_right, 1e-9);
  EXPECT_EQ(feedback.tokens, tokens);
  for (std::size_t e = 0; e < 4; ++e) {
    EXPECT_NEAR(feedback.affinity[e], affinity[e], 1e-5);
    if (weight[e] == 0.0) continue;
    EXPECT_NEAR(feedback.expert_loss[e], loss[e] / weight[e], 1e-5);
    EXPECT_NEAR(feedback.expert_accuracy[e], right[e] / weight[e], 1e-5);
  }
}

// One plain SGD step with rate 1 is minus the gradient: of the task loss and the gate's losses, and
// for the gate alone also of the held-mass loss.
class TrainerStepTest : public TrainerTest {
 protected:
  // Of the whole batch.
  double LossOf(const ReferenceMoe& reference, const Dataset& data, bool of_gate) const {
    const auto count = static_cast<double>(data.size());
    const auto held = static_cast<double>(task_.experts.size());
    double task_loss = 0.0, held_mass = 0.0, z_loss = 0.0;
    Vector chosen(4), probability(4);
    for (std::int64_t i = 0; i < data.size(); ++i) {
      const ReferenceOutput output = reference.Forward(ExampleOf(data, i));
      task_loss += ReferenceTaskLoss(output, data.labels[static_cast<std::size_t>(i)]) / count;
      held_mass += ReferenceHeldMassLoss(output, task_.experts) / count;
      double sum = 0.0, mass = 0.0;
      for (const double logit : output.gate_logits) sum += std::exp(logit);
      z_loss += std::log(sum) * std::log(sum) / count;
      for (const int e : task_.experts) mass += output.gate_probabilities[std::size_t(e)];
      for (const int e : task_.experts) {
        probability[std::size_t(e)] += output.gate_probabilities[std::size_t(e)] / mass / count;
      }
      for (const int e : output.selected) {
        chosen[std::size_t(e)] += 1.0 / count / static_cast<double>(output.selected.size());
      }
    }
    const double balance =
        held * std::inner_product(chosen.begin(), chosen.end(), probability.begin(), 0.0);
    const TrainingOptions& training = task_.training;
    return task_loss + training.balance_lambda * balance + training.router_z_lambda * z_loss +
           (of_gate ? training.held_mass_lambda * held_mass : 0.0);
  }

  void ExpectOneStepDownTheGradient() {
    task_.training.batch_size = 1000;
    task_.training.learning_rate = 1.0;
    task_.training.momentum = 0.0;
    task_.training.clip_norm = 0.0;
    auto trainer = MakeTrainer(20);
    const TrainResult result = Train(*trainer);
    const Dataset data = MakeData(20, 31);
    ReferenceMoe reference = Reference();
    constexpr double kStep = 1e-6;
    for (const BlockDelta& block : result.blocks) {
      const std::string& name = spec_.blocks[static_cast<std::size_t>(block.parameter)].name;
      const bool of_gate = name == "gate.weight";
      Vector& values = reference.blocks[name];
      for (std::size_t i = 0; i < values.size(); i += 3) {
        const double value = values[i];
        values[i] = value + kStep;
        const double above = LossOf(reference, data, of_gate);
        values[i] = value - kStep;
        const double below = LossOf(reference, data, of_gate);
        values[i] = value;
        EXPECT_NEAR(block.delta[i], -(above - below) / (2.0 * kStep), 2e-5) << name << " " << i;
      }
    }
  }
};

TEST_F(TrainerStepTest, FollowsTheGradientOfThePlainLoop) {
  task_.training.held_mass_lambda = 0.5;
  ExpectOneStepDownTheGradient();
}

TEST_F(TrainerStepTest, FollowsTheGateLossesToo) {
  task_.experts = {0, 1, 3};
  task_.training.balance_lambda = 0.7;
  task_.training.router_z_lambda = 0.2;
  ExpectOneStepDownTheGradient();
}

TEST_F(TrainerTest, EachOptionOfTheGateChangesTheTraining) {
  task_.experts = {0, 1, 3};
  task_.training.held_mass_lambda = 0.0;
  auto trainer = MakeTrainer();
  std::set<std::vector<float>> seen = {Train(*trainer).blocks[0].delta};
  for (double TrainingOptions::*option :
       {&TrainingOptions::held_mass_lambda, &TrainingOptions::balance_lambda,
        &TrainingOptions::router_z_lambda, &TrainingOptions::gate_noise}) {
    task_.training.*option = 0.5;
    seen.insert(Train(*trainer).blocks[0].delta);
    task_.training.*option = 0.0;
  }
  EXPECT_EQ(seen.size(), 5U);
}

TEST_F(TrainerTest, ClippingBoundsTheStepOfAllParametersTogether) {
  task_.training.batch_size = 1000;
  task_.training.learning_rate = 1.0;
  task_.training.momentum = 0.0;
  task_.training.clip_norm = 0.01;
  auto trainer = MakeTrainer();
  EXPECT_NEAR(std::sqrt(SquaredNorm(Train(*trainer))), 0.01, 1e-5);
}

TEST_F(TrainerTest, FedProxKeepsTheModelNearerToTheReceivedOne) {
  task_.training.epochs = 5;
  auto trainer = MakeTrainer();
  const double free = SquaredNorm(Train(*trainer));
  task_.training.fedprox_mu = 2.0;
  EXPECT_LT(SquaredNorm(Train(*trainer)), 0.5 * free);
}

TEST_F(TrainerTest, EvaluationEqualsAHandCount) {
  task_.experts = {0, 1, 2, 3};
  // More than one batch of evaluation.
  LocalTrainer evaluator(MakeData(700, 40));
  ASSERT_TRUE(evaluator.Prepare(spec_, kSeed).ok());
  EXPECT_EQ(evaluator.examples(), 0);
  const auto result = evaluator.Evaluate(task_, Shards(), {}, {});
  ASSERT_TRUE(result.ok()) << result.status().ToString();
  const Dataset data = MakeData(700, 40);
  const ReferenceMoe reference = Reference();
  double correct = 0.0;
  double loss = 0.0;
  for (std::int64_t i = 0; i < data.size(); ++i) {
    const ReferenceOutput output = reference.Forward(ExampleOf(data, i));
    const int label = data.labels[static_cast<std::size_t>(i)];
    const auto best = std::max_element(output.logits.begin(), output.logits.end());
    correct += best - output.logits.begin() == label ? 1.0 : 0.0;
    loss += ReferenceTaskLoss(output, label);
  }
  EXPECT_EQ(result->task, 7U);
  EXPECT_EQ(result->examples, 700.0);
  EXPECT_EQ(result->correct, correct);
  EXPECT_NEAR(result->loss, loss, 1e-3);
}

TEST_F(TrainerTest, WithoutAHoldoutEvaluationCountsNothing) {
  LocalTrainer trainer(LocalData{MakeData(10, 31), Dataset{}});
  ASSERT_TRUE(trainer.Prepare(spec_, kSeed).ok());
  const auto result = trainer.Evaluate(task_, Shards(), {}, {});
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->examples, 0.0);
  EXPECT_EQ(result->correct, 0.0);
}

TEST_F(TrainerTest, PixelsTrainAsTheirNormalisedValues) {
  Dataset pixels;
  pixels.name = "pixels";
  pixels.shape = {1, 2, 3};
  pixels.classes = 3;
  pixels.mean = {0.4F};
  pixels.deviation = {0.3F};
  CounterRng rng(50);
  for (int i = 0; i < 30 * 6; ++i) {
    pixels.pixels.push_back(static_cast<std::uint8_t>(rng.NextBelow(256)));
  }
  for (int i = 0; i < 30; ++i) pixels.labels.push_back(i % 3);
  Dataset values = pixels;
  values.pixels.clear();
  values.values.resize(30 * 6);
  for (int i = 0; i < 30; ++i) {
    pixels.CopyExample(i, std::span(values.values).subspan(static_cast<std::size_t>(i) * 6, 6));
  }
  LocalTrainer from_pixels(LocalData{pixels, {}});
  LocalTrainer from_values(LocalData{values, {}});
  ASSERT_TRUE(from_pixels.Prepare(spec_, kSeed).ok());
  ASSERT_TRUE(from_values.Prepare(spec_, kSeed).ok());
  ExpectSameBytes(Train(from_pixels), Train(from_values));
}

TEST_F(TrainerTest, ALocalGateStaysInTheClientsState) {
  ModelOptions options = SmallModel();
  options.gate_mode = GateMode::kLocal;
  UseModel(options);
  auto trainer = MakeTrainer();
  const TrainResult first = Train(*trainer);
  const int gate = spec_.Find("gate.weight");
  for (const BlockDelta& block : first.blocks) EXPECT_NE(block.parameter, gate);

  // Without state the gate starts from the run's seed: giving that as state changes nothing.
  std::vector<float> initial(static_cast<std::size_t>(4 * 8));
  InitializeBlock(spec_.blocks[static_cast<std::size_t>(gate)], kSeed, initial);
  ASSERT_EQ(first.state.size(), initial.size() * sizeof(float));
  EXPECT_NE(std::memcmp(first.state.data(), initial.data(), first.state.size()), 0);
  ExpectSameBytes(first, Train(*trainer, std::as_bytes(std::span(initial))));

  // The trained gate is what the next task starts from.
  const TrainResult second = Train(*trainer, first.state);
  EXPECT_NE(second.feedback.affinity, first.feedback.affinity);
  const auto fresh = trainer->Evaluate(task_, Shards(), {}, {});
  const auto kept = trainer->Evaluate(task_, Shards(), first.state, {});
  ASSERT_TRUE(fresh.ok() && kept.ok());
  EXPECT_NE(fresh->loss, kept->loss);
}

TEST_F(TrainerTest, ReportsItsProgressUpToOne) {
  auto trainer = MakeTrainer(40);
  std::vector<double> fractions;
  TrainContext context;
  context.progress = [&](double fraction) { fractions.push_back(fraction); };
  ASSERT_TRUE(trainer->Train(task_, Shards(), {}, context).ok());
  ASSERT_EQ(fractions.size(), 3U);
  EXPECT_NEAR(fractions[0], 1.0 / 3.0, 1e-12);
  EXPECT_EQ(fractions[2], 1.0);
}

}  // namespace
}  // namespace fedmoe
