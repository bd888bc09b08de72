// Which signal and which exploration find out who suits whom, in a world with known utilities. What
// training makes of it is another question (docs/alignment.md).
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/federation/fitness_environment.h"

namespace fedmoe {
namespace {

using S = FitnessSignal;
using X = ExplorationStrategy;

constexpr std::uint64_t kSeeds = 3;

struct Setting {
  double gate = 1.0;  // how well the gates know
  int per_round = 0;  // of 32 clients; 0 for all
  FitnessClaims claims = FitnessClaims::kBounded;
  AlignmentStrategy strategy = AlignmentStrategy::kBalanced;
};

Campaign CampaignOf(const Setting& setting, FitnessSignal signal, ExplorationStrategy exploration,
                    double bonus) {
  Campaign campaign;
  campaign.strategy = setting.strategy;
  campaign.fitness.signal = signal;
  campaign.fitness.claims = setting.claims;
  campaign.score.exploration = {.strategy = exploration, .bonus = bonus};
  return campaign;
}

// Mean over the seeds of the share of full knowledge's utility that the last rounds had.
double Share(const Setting& setting, FitnessSignal signal,
             ExplorationStrategy exploration = X::kNone, double bonus = 0.0) {
  double share = 0.0;
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    World world = MakeWorld({.gate = setting.gate, .seed = seed});
    world.per_round = setting.per_round;
    share += RunCampaign(world, CampaignOf(setting, signal, exploration, bonus)).share;
  }
  return share / static_cast<double>(kSeeds);
}

struct Row {
  const char* name;
  FitnessSignal signal;
  Setting setting;
  std::size_t best;  // of kColumns
};

struct Column {
  const char* name;
  ExplorationStrategy exploration;
  double bonus;
};

constexpr Column kColumns[] = {{"none", X::kNone, 0.0},
                               {"age 0.1", X::kAge, 0.1},
                               {"age 0.3", X::kAge, 0.3},
                               {"ucb 0.1", X::kUcb, 0.1},
                               {"ucb 0.3", X::kUcb, 0.3},
                               {"contextual 0.1", X::kContextual, 0.1},
                               {"contextual 0.3", X::kContextual, 0.3}};

// The table of docs/alignment.md, as it stands there.
TEST(FitnessAblation, HasTheBestOfEachRowOfTheDocumentedTable) {
  constexpr FitnessClaims kRaw = FitnessClaims::kRaw;
  const Row rows[] = {
      {"affinity, knowing gate", S::kAffinity, {.gate = 1.0}, 0},
      {"loss, raw", S::kLoss, {.gate = 0.0, .claims = kRaw}, 5},
      {"loss", S::kLoss, {.gate = 0.0}, 3},
      {"sum, gate knows half", S::kSum, {.gate = 0.5}, 3},
      {"loss, raw, seldom", S::kLoss, {.gate = 0.0, .per_round = 8, .claims = kRaw}, 5},
      {"loss, seldom", S::kLoss, {.gate = 0.0, .per_round = 8}, 3},
      {"loss, seldom, knowing gate", S::kLoss, {.gate = 1.0, .per_round = 8}, 5}};
  for (const Row& row : rows) {
    std::vector<double> shares;
    std::string text = row.name;
    for (const Column& column : kColumns) {
      if (row.signal == S::kAffinity && column.exploration == X::kContextual) continue;
      shares.push_back(Share(row.setting, row.signal, column.exploration, column.bonus));
      char number[16];
      std::snprintf(number, sizeof(number), " | %.3f", shares.back());
      text += number;
    }
    std::puts(text.c_str());
    EXPECT_EQ(std::max_element(shares.begin(), shares.end()) - shares.begin(),
              static_cast<std::ptrdiff_t>(row.best))
        << text;
  }
}

TEST(FitnessAblation, AffinityFindsTheOptimumWhereTheGateKnows) {
  EXPECT_GT(Share({.gate = 1.0}, S::kAffinity), 0.99);
  EXPECT_LT(Share({.gate = 0.0}, S::kAffinity), 0.6) << "a hidden concept";
}

// The rule of FLEX-MoE: the first experts that a client trains look better than the neutral value
// of the others for good. The same under greedy and under balance.
TEST(FitnessAblation, LossAndAccuracyStayStuckOnTheirFirstExpertsWithoutExploration) {
  for (const AlignmentStrategy strategy :
       {AlignmentStrategy::kGreedy, AlignmentStrategy::kBalanced}) {
    const Setting raw{.claims = FitnessClaims::kRaw, .strategy = strategy};
    for (const FitnessSignal signal : {S::kLoss, S::kAccuracy}) {
      EXPECT_LT(Share(raw, signal), 0.6);
      EXPECT_GT(Share(raw, signal, X::kUcb, 0.3), 0.98);
    }
  }
}

TEST(FitnessAblation, TakingTheUnknownForTheMeanOfTheKnownUnsticksThemInPart) {
  const Setting raw{.claims = FitnessClaims::kRaw};
  const double stuck = Share(raw, S::kLoss);
  const double bounded = Share({}, S::kLoss);
  EXPECT_GT(bounded, stuck + 0.2);
  EXPECT_LT(bounded, 0.95);
  EXPECT_GT(Share({}, S::kLoss, X::kUcb, 0.1), 0.99);
}

TEST(FitnessAblation, ExplorationOfTheLossFindsAHiddenConceptThatTheGateCannot) {
  const Setting hidden{.gate = 0.0};
  EXPECT_GT(Share(hidden, S::kLoss, X::kUcb, 0.1), 0.99);
  EXPECT_GT(Share(hidden, S::kSum, X::kUcb, 0.1), 0.99);
  EXPECT_GT(Share(hidden, S::kLoss, X::kContextual, 0.1), 0.98);
}

// Each part covers for the other: the sum is as good as the better of the two, or nearly.
TEST(FitnessAblation, TheSumIsBetterThanItsPartsWhereTheGateKnowsHalf) {
  const Setting half{.gate = 0.5};
  const double sum = Share(half, S::kSum);
  EXPECT_GT(sum, 0.95);
  EXPECT_GT(sum, Share(half, S::kAffinity) + 0.1);
  EXPECT_GT(sum, Share(half, S::kLoss) + 0.05);
}

// A bonus by age goes on trying what is known to be bad; a confidence bound stops.
TEST(FitnessAblation, AgeExploresForEverAndUcbDoesNot) {
  const Setting setting;
  const double ucb = Share(setting, S::kLoss, X::kUcb, 0.1);
  const double age = Share(setting, S::kLoss, X::kAge, 0.1);
  EXPECT_GT(age, Share(setting, S::kLoss)) << "better than none";
  EXPECT_GT(ucb, age + 0.03);
  EXPECT_LT(Share(setting, S::kLoss, X::kAge, 0.3), 0.8) << "much of it is worse than none";

  const World world = MakeWorld({.seed = 1});
  const auto moved = [&](ExplorationStrategy exploration) {
    return RunCampaign(world, CampaignOf(setting, S::kLoss, exploration, 0.1)).moved;
  };
  EXPECT_GT(moved(X::kAge), 0.1);
  EXPECT_LT(moved(X::kUcb), 0.02);
}

TEST(FitnessAblation, AffinityHasNothingToExplore) {
  const Setting setting;
  for (const ExplorationStrategy exploration : {X::kAge, X::kUcb, X::kContextual}) {
    EXPECT_LT(Share(setting, S::kAffinity, exploration, 0.3), Share(setting, S::kAffinity));
  }
}

// A quarter of the clients a round: 15 rounds each, of 16 experts. Clients that learn from one
// another need fewer.
TEST(FitnessAblation, ContextIsWorthMostWhereClientsTakePartSeldom) {
  const Setting seldom{.per_round = 8, .claims = FitnessClaims::kRaw};
  const double none = Share(seldom, S::kLoss);
  const double ucb = Share(seldom, S::kLoss, X::kUcb, 0.3);
  const double contextual = Share(seldom, S::kLoss, X::kContextual, 0.1);
  EXPECT_GT(ucb, none + 0.1);
  EXPECT_GT(contextual, ucb + 0.1);
  EXPECT_GT(contextual, 0.96);
}

TEST(FitnessAblation, ExploredPairsSaySo) {
  const World world = MakeWorld({.seed = 1});
  EXPECT_EQ(RunCampaign(world, CampaignOf({}, S::kLoss, X::kNone, 0.0)).explored, 0);
  EXPECT_GT(RunCampaign(world, CampaignOf({}, S::kLoss, X::kUcb, 0.1)).explored, 0);
}

}  // namespace
}  // namespace fedmoe
