#include "federation/fitness.h"

#include <cmath>

#include <gtest/gtest.h>

namespace fedmoe {
namespace {

TrainingFeedback Feedback(std::vector<double> affinity, std::vector<double> tokens,
                          std::vector<double> loss, std::vector<double> accuracy) {
  TrainingFeedback feedback;
  feedback.examples = 10;
  feedback.affinity = std::move(affinity);
  feedback.tokens = std::move(tokens);
  feedback.expert_loss = std::move(loss);
  feedback.expert_accuracy = std::move(accuracy);
  return feedback;
}

// One round later than the last, with the experts that had tokens.
void Update(FitnessTable& table, const ClientId& client, const TrainingFeedback& feedback,
            const FitnessOptions& options) {
  std::vector<ExpertIndex> experts;
  for (std::size_t e = 0; e < feedback.tokens.size(); ++e) {
    if (feedback.tokens[e] > 0.0) experts.push_back(static_cast<ExpertIndex>(e));
  }
  UpdateFitness(table, client, {.feedback = feedback, .experts = experts, .round = 1}, options);
}

FitnessTable Table(int experts) {
  FitnessTable table;
  table.experts = experts;
  return table;
}

TEST(FitnessTable, ReadsNeutralBeforeAnyFeedback) {
  FitnessTable table = Table(4);
  EXPECT_EQ(table.At("a", 3), 0.25);
  const std::vector<ClientId> clients{"a", "b"};
  EXPECT_EQ(table.Matrix(clients), Eigen::MatrixXd::Constant(2, 4, 0.25));
}

TEST(FitnessTable, GivesRowsInTheOrderAsked) {
  FitnessTable table = Table(2);
  Update(table, "b", Feedback({0.75, 0.25}, {0, 0}, {0, 0}, {0, 0}), {});
  const std::vector<ClientId> clients{"c", "b"};
  const Eigen::MatrixXd matrix = table.Matrix(clients);
  EXPECT_EQ(matrix(0, 0), 0.5);
  EXPECT_EQ(matrix(1, 0), 0.75);
  EXPECT_EQ(matrix(1, 1), 0.25);
}

TEST(UpdateFitness, TakesAffinityForEveryExpertHeldOrNot) {
  FitnessTable table = Table(3);
  const FitnessOptions options{.signal = FitnessSignal::kAffinity, .beta = 0.25};
  Update(table, "a", Feedback({0.5, 0.25, 0.25}, {9, 0, 0}, {0, 0, 0}, {0, 0, 0}), options);
  // The first signal replaces the neutral third.
  EXPECT_EQ(table.At("a", 0), 0.5);
  EXPECT_EQ(table.At("a", 1), 0.25);
  Update(table, "a", Feedback({0.0, 0.75, 0.25}, {9, 0, 0}, {0, 0, 0}, {0, 0, 0}), options);
  EXPECT_EQ(table.At("a", 0), 0.375);  // 0.75 * 0.5 + 0.25 * 0
  EXPECT_EQ(table.At("a", 1), 0.375);  // 0.75 * 0.25 + 0.25 * 0.75
  EXPECT_EQ(table.At("a", 2), 0.25);
  EXPECT_EQ(table.rows.at("a").seen, (std::vector<int>{2, 2, 2}));
}

TEST(UpdateFitness, WithoutAffinityLeavesTheRow) {
  FitnessTable table = Table(2);
  Update(table, "a", Feedback({}, {5, 5}, {1, 1}, {1, 1}), {});
  EXPECT_EQ(table.rows.count("a"), 1U);
  EXPECT_EQ(table.At("a", 0), 0.5);
}

TEST(UpdateFitness, TakesTheExponentialOfTheLossForTrainedExpertsOnly) {
  FitnessTable table = Table(2);
  const FitnessOptions options{.signal = FitnessSignal::kLoss, .beta = 0.5, .alpha = 2.0};
  Update(table, "a", Feedback({0.9, 0.1}, {0, 8}, {0.0, 0.5}, {0, 0}), options);
  EXPECT_EQ(table.At("a", 0), 0.5) << "not trained: neutral still";
  EXPECT_DOUBLE_EQ(table.At("a", 1), std::exp(-1.0));
  Update(table, "a", Feedback({0.9, 0.1}, {8, 8}, {0.0, 1.0}, {0, 0}), options);
  EXPECT_EQ(table.At("a", 0), 1.0) << "its first signal";
  EXPECT_DOUBLE_EQ(table.At("a", 1), 0.5 * std::exp(-1.0) + 0.5 * std::exp(-2.0));
  EXPECT_EQ(table.rows.at("a").seen, (std::vector<int>{1, 2}));
}

TEST(UpdateFitness, TakesAccuracyForTrainedExpertsOnly) {
  FitnessTable table = Table(2);
  const FitnessOptions options{.signal = FitnessSignal::kAccuracy, .beta = 0.25};
  Update(table, "a", Feedback({}, {4, 0}, {0, 0}, {0.5, 0.9}), options);
  Update(table, "a", Feedback({}, {4, 0}, {0, 0}, {1.0, 0.9}), options);
  EXPECT_EQ(table.At("a", 0), 0.625);  // 0.75 * 0.5 + 0.25 * 1
  EXPECT_EQ(table.At("a", 1), 0.5);
}

TEST(UpdateFitness, SumsTwoAveragesThatFreshenApart) {
  FitnessTable table = Table(2);
  const FitnessOptions options{.signal = FitnessSignal::kSum, .beta = 0.5, .alpha = 1.0};
  Update(table, "a", Feedback({0.75, 0.25}, {0, 6}, {0.0, std::log(4.0)}, {0, 0}), options);
  EXPECT_EQ(table.At("a", 0), 0.75 + 0.5) << "affinity, and the neutral half for the loss";
  EXPECT_DOUBLE_EQ(table.At("a", 1), 0.25 + 0.25);
  Update(table, "a", Feedback({}, {0, 6}, {0.0, std::log(2.0)}, {0, 0}), options);
  EXPECT_EQ(table.At("a", 0), 1.25);
  EXPECT_DOUBLE_EQ(table.At("a", 1), 0.25 + 0.375);
  EXPECT_EQ(table.rows.at("a").seen, (std::vector<int>{1, 1}));
  EXPECT_EQ(table.rows.at("a").second_seen, (std::vector<int>{0, 2}));
}

TEST(UpdateFitness, CountsTrialsByTaskWhetherOrNotTokensCame) {
  FitnessTable table = Table(3);
  const TrainingFeedback feedback = Feedback({0.5, 0.25, 0.25}, {4, 0, 0}, {0, 0, 0}, {0, 0, 0});
  const std::vector<ExpertIndex> first{0, 1};
  const std::vector<ExpertIndex> second{1};
  UpdateFitness(table, "a", {.feedback = feedback, .experts = first, .round = 5}, {});
  UpdateFitness(table, "a", {.feedback = feedback, .experts = second, .round = 9}, {});
  const FitnessTable::Row& row = table.rows.at("a");
  EXPECT_EQ(row.tried, (std::vector<RoundNumber>{5, 9, 4}))
      << "never tried: before its first round";
  EXPECT_EQ(row.trials, Eigen::Vector3d(1.0, 2.0, 0.0));
}

TEST(UpdateFitness, DiscountsTrialsByTheRoundsSince) {
  FitnessTable table = Table(2);
  const TrainingFeedback feedback = Feedback({}, {1, 0}, {0, 0}, {0, 0});
  const std::vector<ExpertIndex> experts{0};
  const FitnessOptions options{.trial_discount = 0.5};
  for (const RoundNumber round : {1, 2, 4}) {
    UpdateFitness(table, "a", {.feedback = feedback, .experts = experts, .round = round}, options);
  }
  EXPECT_EQ(table.rows.at("a").trials[0], 1.375) << "(1 / 2 + 1) / 4 + 1";
}

TEST(UpdateFitness, KeepsTheAffinityBesideLossAndAccuracy) {
  for (const FitnessSignal signal : {FitnessSignal::kLoss, FitnessSignal::kAccuracy}) {
    FitnessTable table = Table(2);
    const FitnessOptions options{.signal = signal, .beta = 0.25};
    Update(table, "a", Feedback({}, {1, 0}, {0, 0}, {0, 0}), options);
    EXPECT_EQ(table.rows.at("a").context.size(), 0) << "none told";
    Update(table, "a", Feedback({1.0, 0.0}, {1, 0}, {0, 0}, {0, 0}), options);
    Update(table, "a", Feedback({}, {1, 0}, {0, 0}, {0, 0}), options);
    Update(table, "a", Feedback({0.0, 1.0}, {1, 0}, {0, 0}, {0, 0}), options);
    EXPECT_EQ(table.rows.at("a").context, Eigen::Vector2d(0.75, 0.25));
  }
  FitnessTable table = Table(2);
  Update(table, "a", Feedback({1.0, 0.0}, {1, 0}, {0, 0}, {0, 0}), {});
  EXPECT_EQ(table.rows.at("a").context.size(), 0) << "the value is the affinity";
}

Eigen::MatrixXd FitnessOfA(const FitnessTable& table, const FitnessOptions& options) {
  const std::vector<ClientId> clients{"a", "never seen"};
  return FitnessOf(table, clients, options);
}

TEST(FitnessOf, GivesAffinityAsSharesOfItsLayer) {
  FitnessTable table = Table(4);
  table.layers = 2;
  Update(table, "a", Feedback({0.505, 0.505, 0.2, 0.8}, {0, 0, 0, 0}, {0, 0, 0, 0}, {}), {});
  const Eigen::MatrixXd fitness = FitnessOfA(table, {});
  EXPECT_EQ(fitness(0, 0), 0.5);
  EXPECT_EQ(fitness(0, 1), 0.5);
  EXPECT_DOUBLE_EQ(fitness(0, 2), 0.2);
  EXPECT_EQ(fitness.row(1), Eigen::RowVector4d::Constant(0.5));
  EXPECT_EQ(FitnessOfA(table, {.claims = FitnessClaims::kRaw})(0, 0), 0.505);
}

TEST(FitnessOf, TakesUntrainedExpertsForTheMeanOfTheTrainedOnesOfTheirLayer) {
  FitnessTable table = Table(6);
  table.layers = 2;
  const FitnessOptions options{.signal = FitnessSignal::kAccuracy};
  Update(table, "a", Feedback({}, {1, 1, 0, 0, 0, 0}, {}, {0.25, 0.75, 0, 0, 0, 0}), options);
  Eigen::RowVectorXd expected(6);
  expected << 0.25, 0.75, 0.5, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0;
  EXPECT_EQ(FitnessOfA(table, options).row(0), expected) << "nothing is known of layer 1";
  FitnessOptions raw = options;
  raw.claims = FitnessClaims::kRaw;
  expected[2] = 1.0 / 3.0;
  EXPECT_EQ(FitnessOfA(table, raw).row(0), expected);
}

TEST(FitnessOf, HasNoPreferenceForWhoClaimsTheBestOfAllThatItGets) {
  for (const FitnessSignal signal : {FitnessSignal::kAffinity, FitnessSignal::kLoss,
                                     FitnessSignal::kAccuracy, FitnessSignal::kSum}) {
    FitnessTable table = Table(4);
    const FitnessOptions options{.signal = signal};
    Update(table, "a", Feedback({0.25, 0.25, 0.25, 0.25}, {1, 0, 1, 0}, {0, 0, 0, 0}, {1, 0, 1, 0}),
           options);
    const Eigen::RowVectorXd row = FitnessOfA(table, options).row(0);
    EXPECT_EQ(row.minCoeff(), row.maxCoeff()) << static_cast<int>(signal);
  }
}

TEST(FitnessOf, AddsBothPartsOfTheSum) {
  FitnessTable table = Table(2);
  const FitnessOptions options{.signal = FitnessSignal::kSum};
  Update(table, "a", Feedback({0.75, 0.25}, {0, 6}, {0.0, std::log(4.0)}, {}), options);
  const Eigen::MatrixXd fitness = FitnessOfA(table, options);
  EXPECT_DOUBLE_EQ(fitness(0, 0), 0.75 + 0.25) << "its loss is unknown, so like the other's";
  EXPECT_DOUBLE_EQ(fitness(0, 1), 0.25 + 0.25);
}

TEST(ClientExpertInformation, IsTheLogOfTheNumberOfGroupsForTrueDomains) {
  FitnessTable table = Table(2);
  Update(table, "a", Feedback({1.0, 0.0}, {0, 0}, {0, 0}, {0, 0}), {});
  Update(table, "b", Feedback({0.0, 1.0}, {0, 0}, {0, 0}, {0, 0}), {});
  EXPECT_DOUBLE_EQ(ClientExpertInformation(table), std::log(2.0));
}

TEST(ClientExpertInformation, IsZeroWhereAllClientsAreAlike) {
  FitnessTable table = Table(4);
  EXPECT_EQ(ClientExpertInformation(table), 0.0) << "empty";
  for (const char* client : {"a", "b", "c"}) {
    Update(table, client, Feedback({0.5, 0.25, 0.25, 0.0}, {0, 0, 0, 0}, {0, 0, 0, 0}, {}), {});
  }
  EXPECT_NEAR(ClientExpertInformation(table), 0.0, 1e-15);
}

TEST(ClientExpertInformation, TakesRowsAsSharesWhateverTheirSum) {
  // p = (3/4, 1/4) and (1/4, 3/4) against (1/2, 1/2).
  const double expected = 0.75 * std::log(1.5) + 0.25 * std::log(0.5);
  FitnessTable table = Table(2);
  const FitnessOptions accuracy{.signal = FitnessSignal::kAccuracy};
  Update(table, "a", Feedback({}, {1, 1}, {0, 0}, {0.75, 0.25}), accuracy);
  Update(table, "b", Feedback({}, {1, 1}, {0, 0}, {0.125, 0.375}), accuracy);
  EXPECT_DOUBLE_EQ(ClientExpertInformation(table), expected);
}

TEST(FitnessTable, IsNeutralWithinEachLayer) {
  FitnessTable table = Table(6);
  table.layers = 3;
  EXPECT_EQ(table.At("a", 4), 0.5) << "one of two experts of its layer";
  Update(table, "a", Feedback({}, {0, 0, 0, 0, 0, 1}, {0, 0, 0, 0, 0, 0}, {}),
         {.signal = FitnessSignal::kLoss});
  EXPECT_EQ(table.At("a", 0), 0.5);
  EXPECT_EQ(table.At("a", 5), 1.0);
}

TEST(ClientExpertInformation, IsTheMeanOfTheLayers) {
  FitnessTable table = Table(4);
  table.layers = 2;
  const auto tell = [&](const char* client, std::vector<double> affinity) {
    Update(table, client, Feedback(std::move(affinity), {0, 0, 0, 0}, {0, 0, 0, 0}, {}), {});
  };
  // The first layer tells the clients apart, the second does not.
  tell("a", {1.0, 0.0, 0.5, 0.5});
  tell("b", {0.0, 1.0, 0.5, 0.5});
  EXPECT_DOUBLE_EQ(ClientExpertInformation(table), std::log(2.0) / 2.0);
}

TEST(ClientExpertInformation, IsZeroForADenseModel) {
  FitnessTable table = Table(0);
  table.layers = 0;
  EXPECT_EQ(ClientExpertInformation(table), 0.0);
}

}  // namespace
}  // namespace fedmoe
