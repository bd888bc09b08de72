// What the trainer refuses or gives up, and in which words.
#include <gtest/gtest.h>

#include "client/local_trainer.h"
#include "tests/client/trainer/trainer_fixture.h"

namespace fedmoe {
namespace {

class TrainerErrors : public TrainerTest {
 protected:
  Status TrainStatus(LocalTrainer& trainer, const TrainContext& context = {}) {
    return trainer.Train(task_, Shards(), state_, context).status();
  }

  std::vector<std::byte> state_;
};

TEST_F(TrainerErrors, DataThatDoesNotFitTheModelNamesBoth) {
  ModelOptions options = SmallModel();
  options.inputs = 784;
  options.classes = 10;
  UseModel(options);
  LocalTrainer trainer(LocalData{MakeData(10, 31), {}});
  EXPECT_EQ(
      trainer.Prepare(spec_, kSeed),
      InvalidArgument("data 'triples' has 6 features and 3 classes, the model takes 784 and 10"));
  LocalTrainer evaluator(MakeData(10, 31));
  EXPECT_EQ(evaluator.Prepare(spec_, kSeed).code(), StatusCode::kInvalidArgument);
}

TEST_F(TrainerErrors, NoExamples) {
  LocalTrainer trainer(LocalData{MakeData(0, 31), {}});
  EXPECT_EQ(trainer.Prepare(spec_, kSeed),
            InvalidArgument("data 'triples' has no training examples"));
  LocalTrainer evaluator(MakeData(0, 31));
  EXPECT_EQ(evaluator.Prepare(spec_, kSeed),
            InvalidArgument("data 'triples' has no test examples"));
}

TEST_F(TrainerErrors, NotPrepared) {
  LocalTrainer trainer(LocalData{MakeData(10, 31), {}});
  EXPECT_EQ(TrainStatus(trainer), FailedPrecondition("the trainer is not prepared for a model"));
  EXPECT_EQ(trainer.Evaluate(task_, Shards(), {}, {}).status(),
            FailedPrecondition("the trainer is not prepared for a model"));
}

TEST_F(TrainerErrors, AnEvaluatorDoesNotTrain) {
  LocalTrainer evaluator(MakeData(10, 31));
  ASSERT_TRUE(evaluator.Prepare(spec_, kSeed).ok());
  EXPECT_EQ(TrainStatus(evaluator), FailedPrecondition("an evaluator has no training data"));
}

TEST_F(TrainerErrors, CancelledBetweenBatches) {
  auto trainer = MakeTrainer();
  int steps = 0;
  TrainContext context;
  context.progress = [&](double) { ++steps; };
  context.cancelled = [&] { return steps == 2; };
  EXPECT_EQ(TrainStatus(*trainer, context), Cancelled("task 7 was cancelled"));
  EXPECT_EQ(steps, 2);
  context.cancelled = [] { return true; };
  EXPECT_EQ(trainer->Evaluate(task_, Shards(), {}, context).status(),
            Cancelled("task 7 was cancelled"));
}

TEST_F(TrainerErrors, DivergenceNamesTheStepAndTheRate) {
  task_.training.learning_rate = 1e30;
  task_.training.clip_norm = 0.0;
  auto trainer = MakeTrainer();
  const Status status = TrainStatus(*trainer);
  EXPECT_EQ(status,
            Internal("training diverged: loss is not finite at step 2 (learning rate 1e+30)"));
}

TEST_F(TrainerErrors, DivergenceAtTheLastStepIsSeenToo) {
  task_.training.learning_rate = 1e300;  // infinite as a float
  task_.training.batch_size = 1000;
  auto trainer = MakeTrainer();
  EXPECT_EQ(TrainStatus(*trainer),
            Internal("training diverged: a parameter is not finite at step 1 (learning rate "
                     "1e+300)"));
}

TEST_F(TrainerErrors, ShardOfAnotherSize) {
  auto trainer = MakeTrainer();
  shards_[ShardOfExpert(3)].pop_back();
  EXPECT_EQ(TrainStatus(*trainer),
            InvalidArgument("shard expert.3 has 92 values, the model takes 93"));
}

TEST_F(TrainerErrors, StateOfAnotherSize) {
  auto trainer = MakeTrainer();
  state_.resize(4);
  EXPECT_EQ(TrainStatus(*trainer),
            InvalidArgument("the client state has 4 bytes, the model's local gate 0"));
}

TEST_F(TrainerErrors, ExpertsOutOfOrderOrRange) {
  auto trainer = MakeTrainer();
  task_.experts = {1, 4};
  EXPECT_EQ(TrainStatus(*trainer), InvalidArgument("task 7: experts must ascend within 0 to 3 (got "
                                                   "4 at position 1)"));
  task_.experts = {2, 2};
  EXPECT_EQ(TrainStatus(*trainer), InvalidArgument("task 7: experts must ascend within 0 to 3 (got "
                                                   "2 at position 1)"));
}

TEST_F(TrainerErrors, AnEmptyBatchOrNoEpoch) {
  auto trainer = MakeTrainer();
  task_.training.batch_size = 0;
  EXPECT_EQ(TrainStatus(*trainer), InvalidArgument("task 7: batch_size and epochs must be at least "
                                                   "1 (got 0 and 1)"));
}

}  // namespace
}  // namespace fedmoe
