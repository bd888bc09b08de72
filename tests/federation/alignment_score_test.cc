#include "federation/alignment_score.h"

#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "federation/fitness_prediction.h"

namespace fedmoe {
namespace {

// Client "a" of two layers of two experts: expert 0 twice, last in round 6, expert 2 once in round
// 3; its first round was 3. Its accuracy is 0.75 on expert 0 and 0.25 on expert 2.
FitnessTable Table() {
  FitnessTable table{.experts = 4, .layers = 2};
  FitnessTable::Row& row = table.rows["a"];
  row.value = Eigen::Vector4d(0.75, 0.5, 0.25, 0.5);
  row.seen = {2, 0, 1, 0};
  row.tried = {6, 2, 3, 2};
  row.trials = Eigen::Vector4d(2.0, 0.0, 1.0, 0.0);
  return table;
}

constexpr FitnessOptions kRawAccuracy{.signal = FitnessSignal::kAccuracy,
                                      .claims = FitnessClaims::kRaw};

ScoreProblem Problem(std::vector<ScoreClient> clients = {{.client = "a"}, {.client = "new"}}) {
  return {.clients = std::move(clients),
          .expert_bytes = {1000.0, 1000.0, 1000.0, 3000.0},
          .deadline_ms = 10'000,
          .round = 8};
}

ScoreOptions Exploring(ExplorationStrategy strategy, double bonus = 2.0) {
  return {.exploration = {.strategy = strategy, .bonus = bonus}};
}

ScoreOptions Moving(MovementCost cost, double weight = 2.0) {
  return {.movement = {.cost = cost, .weight = weight}};
}

TEST(BuildScore, IsTheFitnessAloneByDefault) {
  const ScoreMatrix score = BuildScore(Table(), Problem(), kRawAccuracy, {});
  Eigen::MatrixXd expected(2, 4);
  expected << 0.75, 0.5, 0.25, 0.5, 0.5, 0.5, 0.5, 0.5;
  EXPECT_EQ(score.fitness, expected);
  EXPECT_EQ(score.Total(), expected);
  EXPECT_EQ(score.bonus.size(), 0);
  EXPECT_EQ(score.movement.size(), 0);
}

TEST(BuildScore, BoundsClaimsUnlessToldOtherwise) {
  FitnessOptions options = kRawAccuracy;
  options.claims = FitnessClaims::kBounded;
  const ScoreMatrix score = BuildScore(Table(), Problem(), options, {});
  EXPECT_EQ(score.fitness.row(0), Eigen::RowVector4d(0.75, 0.75, 0.25, 0.25));
}

TEST(BuildScore, IsEmptyForADenseModelOrNoClients) {
  const FitnessTable dense{.experts = 0, .layers = 0};
  const ScoreOptions options{
      .exploration = {.strategy = ExplorationStrategy::kContextual, .bonus = 1},
      .movement = {.weight = 1}};
  ScoreProblem problem = Problem();
  problem.expert_bytes.clear();
  EXPECT_EQ(BuildScore(dense, problem, {}, options).Total().size(), 0);
  EXPECT_EQ(BuildScore(Table(), Problem({}), kRawAccuracy, options).Total().rows(), 0);
}

TEST(Exploration, ByAgeGrowsWithTheLogarithmOfTheRoundsSince) {
  const ScoreMatrix score =
      BuildScore(Table(), Problem(), kRawAccuracy, Exploring(ExplorationStrategy::kAge));
  const Eigen::RowVector4d ages(2.0, 6.0, 5.0, 6.0);
  for (int e = 0; e < 4; ++e) {
    EXPECT_DOUBLE_EQ(score.bonus(0, e), 2.0 * std::log(1.0 + ages[e])) << e;
    EXPECT_EQ(score.bonus(1, e), 0.0) << "all experts are alike to a new client";
  }
  EXPECT_TRUE(score.Total().isApprox(score.fitness + score.bonus));
}

TEST(Exploration, ByUcbIsTheConfidenceBoundOfEachLayer) {
  const ScoreMatrix score =
      BuildScore(Table(), Problem(), kRawAccuracy, Exploring(ExplorationStrategy::kUcb));
  EXPECT_DOUBLE_EQ(score.bonus(0, 0), 2.0 * std::sqrt(std::log(3.0) / 3.0));
  EXPECT_DOUBLE_EQ(score.bonus(0, 1), 2.0 * std::sqrt(std::log(3.0)));
  EXPECT_DOUBLE_EQ(score.bonus(0, 2), 2.0 * std::sqrt(std::log(2.0) / 2.0));
  EXPECT_DOUBLE_EQ(score.bonus(0, 3), 2.0 * std::sqrt(std::log(2.0)));
  EXPECT_EQ(score.bonus.row(1), Eigen::RowVector4d::Zero());
}

TEST(Exploration, IsWorthLessToAClientThatHardlyPrefersAnyExpertOnceClaimsAreBounded) {
  FitnessOptions bounded = kRawAccuracy;
  bounded.claims = FitnessClaims::kBounded;
  FitnessTable table{.experts = 2, .layers = 1};
  const auto add = [&table](const ClientId& client, double first, double second) {
    FitnessTable::Row& row = table.rows[client];
    row.value = Eigen::Vector2d(first, second);
    row.seen = {1, 1};
    row.tried = {1, 1};
    row.trials = Eigen::Vector2d(1.0, 1.0);
  };
  add("a", 0.9, 0.1);
  add("b", 0.7, 0.3);
  add("flat", 1.0, 1.0);
  add("tepid", 0.45, 0.5);
  ScoreProblem problem = Problem({{.client = "a"}, {.client = "b"}, {.client = "c"}});
  problem.expert_bytes = {1000.0, 1000.0};
  const ScoreOptions exploring = Exploring(ExplorationStrategy::kUcb);
  const double whole = 2.0 * std::sqrt(std::log(3.0) / 2.0);
  const auto bonus_beside_a_and_b = [&](const ClientId& client) {
    problem.clients[2].client = client;
    return BuildScore(table, problem, bounded, exploring).bonus;
  };
  const Eigen::MatrixXd flat = bonus_beside_a_and_b("flat");
  EXPECT_DOUBLE_EQ(flat(0, 0), whole);
  EXPECT_DOUBLE_EQ(flat(1, 1), whole) << "the median";
  EXPECT_EQ(flat(2, 0), 0.0);
  EXPECT_NEAR(bonus_beside_a_and_b("tepid")(2, 1), whole * 0.05 / (0.4 / 2.0), 1e-12);
  EXPECT_NEAR(BuildScore(table, problem, kRawAccuracy, exploring).bonus(2, 1), whole, 1e-12);

  problem.clients = {{.client = "flat"}, {.client = "new"}};
  EXPECT_DOUBLE_EQ(BuildScore(table, problem, bounded, exploring).bonus(0, 0), whole)
      << "nobody has preferences";
}

TEST(Exploration, ForgetsTrialsAtTheRateOfTheDiscount) {
  FitnessOptions options = kRawAccuracy;
  options.trial_discount = 0.5;
  const ScoreMatrix score =
      BuildScore(Table(), Problem(), options, Exploring(ExplorationStrategy::kUcb));
  EXPECT_DOUBLE_EQ(score.bonus(0, 0), 2.0 * std::sqrt(std::log(1.5) / 1.5)) << "2 / 2^2 trials";
}

TEST(Exploration, InContextMovesFitnessTowardsThePredictionByTheTrials) {
  FitnessTable table = Table();
  FitnessTable::Row& other = table.rows["other"];
  other = table.rows["a"];
  other.value = Eigen::Vector4d(0.25, 0.75, 0.5, 0.5);
  other.seen = {1, 1, 0, 0};
  other.trials = Eigen::Vector4d(1.0, 1.0, 0.0, 0.0);
  const std::vector<ClientId> clients{"a", "new"};
  const FitnessPrediction prediction = PredictFitness(table, clients, FitnessSignal::kAccuracy);
  const ScoreMatrix score =
      BuildScore(table, Problem(), kRawAccuracy, Exploring(ExplorationStrategy::kContextual));
  EXPECT_DOUBLE_EQ(score.fitness(0, 0), 0.75 + (prediction.value(0, 0) - 0.75) / 3.0);
  EXPECT_EQ(score.fitness(0, 1), prediction.value(0, 1)) << "no signal of its own";
  EXPECT_GT(score.fitness(0, 1), 0.76) << "the other's good word for it";
  EXPECT_EQ(score.fitness.row(1), prediction.value.row(1));
  EXPECT_DOUBLE_EQ(score.bonus(0, 1),
                   2.0 * std::sqrt(std::log(3.0) * (prediction.variance(0, 1) + 0.25)));
}

TEST(Exploration, InContextKeepsTheAffinityPartOfTheSum) {
  FitnessTable table = Table();
  FitnessTable::Row& row = table.rows["a"];
  row.second = Eigen::Vector4d(0.9, 0.5, 0.5, 0.5);
  row.second_seen = {1, 0, 0, 0};
  for (const FitnessClaims claims : {FitnessClaims::kRaw, FitnessClaims::kBounded}) {
    const FitnessOptions options{.signal = FitnessSignal::kSum, .claims = claims};
    const std::vector<ClientId> clients{"a"};
    const FitnessPrediction prediction = PredictFitness(table, clients, FitnessSignal::kSum);
    const ScoreMatrix score = BuildScore(table, Problem({{.client = "a"}}), options,
                                         Exploring(ExplorationStrategy::kContextual));
    const double share = claims == FitnessClaims::kRaw ? 0.5 : 0.4;  // of 0.75 + 0.5
    EXPECT_DOUBLE_EQ(score.fitness(0, 1), share + prediction.value(0, 1));
  }
}

TEST(Movement, CostsTheShareOfTheRoundThatTheDownloadTakes) {
  const ScoreMatrix score =
      BuildScore(Table(),
                 Problem({{.client = "a", .held = {1, 3}, .down_bytes_per_s = 1000.0},
                          {.client = "new", .down_bytes_per_s = 200.0},
                          {.client = "unknown link"}}),
                 kRawAccuracy, Moving(MovementCost::kSeconds));
  EXPECT_TRUE(score.movement.row(0).isApprox(Eigen::RowVector4d(0.2, 0.0, 0.2, 0.0)));
  EXPECT_TRUE(score.movement.row(1).isApprox(Eigen::RowVector4d(1.0, 1.0, 1.0, 2.0)))
      << "15 s are no more than the round's 10 s";
  EXPECT_EQ(score.movement.row(2), Eigen::RowVector4d::Zero());
  EXPECT_TRUE(score.Total().isApprox(score.fitness - score.movement));
}

TEST(Movement, IsMeasuredAgainstTheMedianRoundWithoutADeadline) {
  ScoreProblem problem = Problem({{.client = "a", .down_bytes_per_s = 1000.0, .round_s = 5.0},
                                  {.client = "b", .round_s = 4.0},
                                  {.client = "liar", .round_s = 1e13}});
  problem.deadline_ms = 0;
  const ScoreOptions options = Moving(MovementCost::kSeconds);
  EXPECT_DOUBLE_EQ(BuildScore(Table(), problem, kRawAccuracy, options).movement(0, 0), 2.0 / 5.0);
  problem.clients.pop_back();
  EXPECT_DOUBLE_EQ(BuildScore(Table(), problem, kRawAccuracy, options).movement(0, 0), 2.0 / 4.5);
  for (ScoreClient& client : problem.clients) client.round_s = 0.0;
  EXPECT_EQ(BuildScore(Table(), problem, kRawAccuracy, options).movement(0, 0), 0.0)
      << "nothing to measure against";
}

TEST(Movement, NeverCostsMoreThanItsWeightWhateverLinkIsClaimed) {
  for (const double rate : {1.0, 1e15}) {
    const ScoreMatrix score =
        BuildScore(Table(), Problem({{.client = "a", .down_bytes_per_s = rate}}), kRawAccuracy,
                   Moving(MovementCost::kSeconds, 0.5));
    EXPECT_LE(score.movement.maxCoeff(), 0.5);
    EXPECT_GE(score.movement.minCoeff(), 0.0);
  }
}

TEST(Movement, InBytesIsOneExpertOfMeanSize) {
  const ScoreMatrix score = BuildScore(Table(), Problem({{.client = "a", .held = {0}}}),
                                       kRawAccuracy, Moving(MovementCost::kBytes));
  EXPECT_EQ(score.movement.row(0), Eigen::RowVector4d(0.0, 4.0 / 3.0, 4.0 / 3.0, 4.0));
}

// One client, two layers of three experts.
ScoreMatrix SmallScore() {
  ScoreMatrix score;
  score.fitness.resize(1, 6);
  score.bonus.resize(1, 6);
  score.fitness << 0.9, 0.5, 0.1, 0.4, 0.4, 0.1;
  score.bonus << 0.0, 0.0, 0.9, 0.0, 0.1, 0.0;
  return score;
}

AlignmentPlan PlanOf(const std::vector<ExpertIndex>& experts, AssignmentReason reason) {
  AlignmentPlan plan;
  for (const ExpertIndex expert : experts) {
    plan.assignments.push_back({.client = 0, .expert = expert, .fitness = -1.0, .reason = reason});
  }
  plan.objective = 2.5;
  return plan;
}

TEST(ExplainPlan, NamesWhatOnlyTheBonusBroughtWithinItsLayer) {
  AlignmentPlan plan = PlanOf({0, 2, 4}, AssignmentReason::kFitness);
  ExplainPlan(SmallScore(), 2, plan);
  EXPECT_EQ(plan.assignments[0].reason, AssignmentReason::kFitness);
  EXPECT_EQ(plan.assignments[1].reason, AssignmentReason::kExplored);
  EXPECT_EQ(plan.assignments[2].reason, AssignmentReason::kFitness) << "as good as the best";
  EXPECT_EQ(plan.assignments[1].fitness, 0.1) << "without the bonus";
  EXPECT_EQ(plan.objective, 2.5);
}

TEST(ExplainPlan, CountsMovementAmongWhatIsKnown) {
  ScoreMatrix score = SmallScore();
  score.movement = Eigen::MatrixXd::Zero(1, 6);
  score.movement(0, 1) = 0.45;
  AlignmentPlan plan = PlanOf({0, 2}, AssignmentReason::kFitness);
  ExplainPlan(score, 2, plan);
  EXPECT_EQ(plan.assignments[1].reason, AssignmentReason::kFitness) << "0.1 is above 0.5 - 0.45";
}

TEST(ExplainPlan, LeavesReasonsOtherThanFitness) {
  AlignmentPlan plan = PlanOf({2}, AssignmentReason::kBalance);
  ExplainPlan(SmallScore(), 2, plan);
  EXPECT_EQ(plan.assignments[0].reason, AssignmentReason::kBalance);
  EXPECT_EQ(plan.assignments[0].fitness, 0.1);
}

TEST(ExplainPlan, TellsTheFitnessWithoutABonusToo) {
  ScoreMatrix score = SmallScore();
  score.bonus.resize(0, 0);
  AlignmentPlan plan = PlanOf({2}, AssignmentReason::kFitness);
  ExplainPlan(score, 2, plan);
  EXPECT_EQ(plan.assignments[0].reason, AssignmentReason::kFitness);
  EXPECT_EQ(plan.assignments[0].fitness, 0.1);
}

}  // namespace
}  // namespace fedmoe
