#include "federation/fitness_prediction.h"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

namespace fedmoe {
namespace {

// A client of the table with an affinity row, and the accuracy of the experts that it has trained
// (below 0: not trained), each `trials` times.
void Add(FitnessTable& table, const ClientId& client, const std::vector<double>& affinity,
         const std::vector<double>& accuracy, double trials = 1.0) {
  FitnessTable::Row& row = table.rows[client];
  const auto size = static_cast<Eigen::Index>(affinity.size());
  row.context = Eigen::Map<const Eigen::VectorXd>(affinity.data(), size);
  row.value = Eigen::VectorXd::Constant(size, table.Neutral());
  row.seen.assign(affinity.size(), 0);
  row.tried.assign(affinity.size(), 0);
  row.trials = Eigen::VectorXd::Zero(size);
  for (std::size_t e = 0; e < accuracy.size(); ++e) {
    if (accuracy[e] < 0.0) continue;
    const auto index = static_cast<Eigen::Index>(e);
    row.value[index] = accuracy[e];
    row.seen[e] = 1;
    row.tried[e] = 1;
    row.trials[index] = trials;
  }
}

FitnessPrediction Predict(const FitnessTable& table, const std::vector<ClientId>& clients,
                          FitnessSignal signal = FitnessSignal::kAccuracy) {
  return PredictFitness(table, clients, signal);
}

TEST(PredictFitness, KnowsNothingOfAnEmptyTable) {
  FitnessTable table{.experts = 4, .layers = 2};
  const FitnessPrediction prediction = Predict(table, {"a"});
  EXPECT_EQ(prediction.value, Eigen::MatrixXd::Constant(1, 4, 0.5));
  EXPECT_TRUE(prediction.variance.isApprox(Eigen::MatrixXd::Ones(1, 4), 1e-12));
}

TEST(PredictFitness, SolvesTheRidgeRegressionOfOneClientByHand) {
  FitnessTable table{.experts = 2, .layers = 1};
  Add(table, "a", {1.0, 0.0}, {0.9, 0.3});
  const FitnessPrediction prediction = Predict(table, {"a"});
  // A = I + e0 e0^T, b = +-0.3 e0: half of the deviation from its mean of 0.6, half of the
  // variance.
  EXPECT_NEAR(prediction.value(0, 0), 0.6 + 0.15, 1e-12);
  EXPECT_NEAR(prediction.value(0, 1), 0.6 - 0.15, 1e-12);
  EXPECT_NEAR(prediction.variance(0, 0), 0.5, 1e-12);
}

TEST(PredictFitness, TellsClientsOfLikeDataWhatOneHasFound) {
  FitnessTable table{.experts = 3, .layers = 1};
  Add(table, "a", {1.0, 0.0, 0.0}, {0.9, 0.3, -1.0});
  Add(table, "like", {0.9, 0.1, 0.0}, {});
  Add(table, "other", {0.0, 0.0, 1.0}, {});
  const FitnessPrediction prediction = Predict(table, {"like", "other"});
  EXPECT_GT(prediction.value(0, 0), prediction.value(0, 2));
  EXPECT_LT(prediction.value(0, 1), prediction.value(0, 2));
  EXPECT_LT(prediction.variance(0, 0), 0.6);
  EXPECT_NEAR(prediction.variance(0, 2), 1.0, 1e-12) << "nobody has trained it";
  EXPECT_NEAR(prediction.value(1, 0), prediction.value(1, 1), 1e-12) << "nothing is known of it";
  EXPECT_NEAR(prediction.variance(1, 0), 1.0, 1e-12);
}

TEST(PredictFitness, LearnsNothingFromWhoClaimsTheBestOfEveryExpert) {
  FitnessTable table{.experts = 2, .layers = 1};
  Add(table, "a", {0.5, 0.5}, {0.4, 0.2});
  Add(table, "liar", {0.5, 0.5}, {1.0, 1.0}, 1e9);
  const FitnessPrediction prediction = Predict(table, {"new"});
  // The precision is 1 + 1 + 4: the liar's trials count four times at most, its signals not at all.
  EXPECT_NEAR(prediction.value(0, 0), 0.5 + 0.1 / 6.0, 1e-12);
  EXPECT_NEAR(prediction.value(0, 1), 0.5 - 0.1 / 6.0, 1e-12);
  EXPECT_NEAR(prediction.variance(0, 0), 1.0 / 6.0, 1e-12);
}

TEST(PredictFitness, KeepsLayersApart) {
  FitnessTable table{.experts = 4, .layers = 2};
  Add(table, "a", {1.0, 0.0, 0.5, 0.5}, {0.9, 0.3, -1.0, -1.0});
  const FitnessPrediction prediction = Predict(table, {"a"});
  EXPECT_NEAR(prediction.value(0, 0), 0.75, 1e-12);
  EXPECT_EQ(prediction.value(0, 2), 0.5);
  EXPECT_NEAR(prediction.variance(0, 3), 1.0, 1e-12);
}

TEST(PredictFitness, HasNothingToPredictUnderAffinity) {
  FitnessTable table{.experts = 2, .layers = 1};
  Add(table, "a", {1.0, 0.0}, {0.9, 0.3});
  const FitnessPrediction prediction = Predict(table, {"a"}, FitnessSignal::kAffinity);
  EXPECT_EQ(prediction.value, Eigen::MatrixXd::Constant(1, 2, 0.5));
  EXPECT_EQ(prediction.variance, Eigen::MatrixXd::Ones(1, 2));
}

TEST(PredictFitness, PredictsTheLossPartOfTheSumFromItsAffinityPart) {
  FitnessTable table{.experts = 2, .layers = 1};
  Add(table, "a", {}, {});
  FitnessTable::Row& row = table.rows["a"];
  row.value = Eigen::Vector2d(1.0, 0.0);
  row.second = Eigen::Vector2d(0.9, 0.3);
  row.seen = row.second_seen = {1, 1};
  row.trials = Eigen::Vector2d(1.0, 1.0);
  EXPECT_NEAR(Predict(table, {"a"}, FitnessSignal::kSum).value(0, 0), 0.75, 1e-12);
}

}  // namespace
}  // namespace fedmoe
