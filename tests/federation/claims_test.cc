// Fitness and capacity are claims of clients. What a tenth of them can take from the others by
// lying, under balanced alignment.
#include "federation/claims.h"

#include <cstdio>

#include <gtest/gtest.h>

#include "tests/federation/fitness_environment.h"

namespace fedmoe {
namespace {

using S = FitnessSignal;
using X = ExplorationStrategy;

constexpr int kClients = 40;
constexpr std::uint64_t kSeeds = 3;

World WorldOf(std::uint64_t seed) {
  return MakeWorld({.clients = kClients, .experts = 16, .domains = 8, .seed = seed});
}

// A tenth, spread over the domains.
std::set<int> LiarsOf(std::uint64_t seed) {
  std::set<int> liars;
  for (int i = 0; i < kClients / 10; ++i)
    liars.insert(10 * i + static_cast<int>(3 * seed + i) % 10);
  return liars;
}

// The best fitness for every expert, as far as a client can tell: affinity must sum to 1, and loss
// and accuracy are told of the experts that it had.
void ClaimEverything(const std::vector<ExpertIndex>& experts, TrainingFeedback& feedback) {
  for (double& share : feedback.affinity) {
    share = 1.0 / static_cast<double>(feedback.affinity.size());
  }
  for (const ExpertIndex expert : experts) {
    feedback.expert_loss[static_cast<std::size_t>(expert)] = 0.0;
    feedback.expert_accuracy[static_cast<std::size_t>(expert)] = 1.0;
  }
}

struct Defence {
  FitnessSignal signal = S::kAffinity;
  FitnessClaims claims = FitnessClaims::kBounded;
  ExplorationStrategy exploration = X::kNone;
  double bonus = 0.0;
};

// By how much of it the honest clients' true utility falls once the liars lie, over the seeds.
double Fall(const Defence& defence, const Lie& lie = ClaimEverything) {
  double honest = 0.0;
  double attacked = 0.0;
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    Campaign campaign;
    campaign.fitness.signal = defence.signal;
    campaign.fitness.claims = defence.claims;
    campaign.score.exploration = {.strategy = defence.exploration, .bonus = defence.bonus};
    campaign.liars = LiarsOf(seed);
    honest += RunCampaign(WorldOf(seed), campaign).utility;
    campaign.lie = lie;
    attacked += RunCampaign(WorldOf(seed), campaign).utility;
  }
  const double fall = 1.0 - attacked / honest;
  std::printf("signal %d, claims %d, exploration %d, bonus %.1f: the honest lose %.1f %%\n",
              static_cast<int>(defence.signal), static_cast<int>(defence.claims),
              static_cast<int>(defence.exploration), defence.bonus, 100.0 * fall);
  return fall;
}

TEST(Claims, OfTheBestFitnessForEveryExpertCostTheHonestFivePercentWithoutADefence) {
  for (const FitnessSignal signal : {S::kLoss, S::kAccuracy, S::kSum}) {
    const double fall = Fall({signal, FitnessClaims::kRaw, X::kUcb, 0.3});
    EXPECT_GT(fall, 0.03) << static_cast<int>(signal);
  }
}

TEST(Claims, OfTheBestFitnessForEveryExpertCostTheHonestAtMostOnePercentOnceBounded) {
  EXPECT_LE(Fall({S::kAffinity}), 0.01);
  EXPECT_LE(Fall({S::kSum}), 0.01);
  for (const FitnessSignal signal : {S::kLoss, S::kAccuracy, S::kSum}) {
    for (const double bonus : {0.1, 0.3}) {
      EXPECT_LE(Fall({signal, FitnessClaims::kBounded, X::kUcb, bonus}), 0.01)
          << static_cast<int>(signal) << ", bonus " << bonus;
    }
  }
  EXPECT_LE(Fall({S::kLoss, FitnessClaims::kBounded, X::kContextual, 0.1}), 0.01);
}

// They all claim experts 0 and 1, as much as they can, and nothing else.
void ClaimTwoExperts(const std::vector<ExpertIndex>& experts, TrainingFeedback& feedback) {
  for (std::size_t e = 0; e < feedback.affinity.size(); ++e) {
    feedback.affinity[e] = e < 2 ? 0.5 : 0.0;
  }
  for (const ExpertIndex expert : experts) {
    const auto e = static_cast<std::size_t>(expert);
    feedback.expert_loss[e] = expert < 2 ? 0.0 : kMaxClaimedLoss;
    feedback.expert_accuracy[e] = expert < 2 ? 1.0 : 0.0;
  }
}

// What is left: liars that agree on experts compete for them as honest clients of one domain would.
TEST(Claims, OfTheSameTwoExpertsTakeWhatHonestClientsOfThatTasteWould) {
  for (const FitnessSignal signal : {S::kAffinity, S::kLoss, S::kSum}) {
    const bool explores = signal != S::kAffinity;
    const double fall =
        Fall({signal, FitnessClaims::kBounded, explores ? X::kUcb : X::kNone, explores ? 0.1 : 0.0},
             ClaimTwoExperts);
    EXPECT_GT(fall, 0.01) << static_cast<int>(signal);
    EXPECT_LT(fall, 0.1) << static_cast<int>(signal) << ": they are a tenth";
  }
}

// The objective for itself, with everything known: the rows are the true utilities but for the
// liars', and the liars may ask for another capacity.
struct KnownPlan {
  World world;
  std::vector<int> cohort;
  std::set<int> liars;

  explicit KnownPlan(std::uint64_t seed) : world(WorldOf(seed)), liars(LiarsOf(seed)) {
    cohort.resize(kClients);
    std::iota(cohort.begin(), cohort.end(), 0);
  }
  double Honest() const {
    const AlignmentPlan plan = PlanFor(world, cohort, Rows(), ExpertLoad::Of(world.experts),
                                       AlignmentStrategy::kBalanced, 1);
    return HonestUtility(world, cohort, plan, liars);
  }
  // As if the liars were not there.
  double HonestAlone() const {
    KnownPlan alone = *this;
    std::erase_if(alone.cohort, [&](int client) { return liars.count(client) > 0; });
    return alone.Honest();
  }

 private:
  Eigen::MatrixXd Rows() const {
    Eigen::MatrixXd rows(static_cast<Eigen::Index>(cohort.size()), world.experts);
    for (std::size_t i = 0; i < cohort.size(); ++i) {
      const auto row = static_cast<Eigen::Index>(i);
      rows.row(row) = world.utility.row(cohort[i]);
      if (liars.count(cohort[i]) > 0) rows.row(row).setOnes();
    }
    return rows;
  }
};

TEST(Claims, OfTheSameForEveryExpertNeverLowerTheObjective) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    KnownPlan lied(seed);
    KnownPlan told(seed);
    told.liars.clear();
    const AlignmentPlan plan = PlanFor(told.world, told.cohort, told.world.utility,
                                       ExpertLoad::Of(16), AlignmentStrategy::kBalanced, 1);
    const double honest = HonestUtility(told.world, told.cohort, plan, lied.liars);
    EXPECT_GE(lied.Honest(), 0.99 * honest);
  }
}

// One of each expert raises every bound by one, and takes it: the others' problem is the same.
TEST(Claims, OfRoomForEveryExpertLeaveTheOthersWhatTheyWouldHaveAlone) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    KnownPlan plan(seed);
    for (const int liar : plan.liars) plan.world.capacity[static_cast<std::size_t>(liar)] = 16;
    EXPECT_NEAR(plan.Honest(), plan.HonestAlone(), 1e-9);
  }
}

TEST(Claims, OfMoreRoomThanOthersStarveNobody) {
  for (const int capacity : {4, 8, 12, 15}) {
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
      SCOPED_TRACE("capacity " + std::to_string(capacity) + ", seed " + std::to_string(seed));
      KnownPlan plan(seed);
      for (const int liar : plan.liars) {
        plan.world.capacity[static_cast<std::size_t>(liar)] = capacity;
      }
      EXPECT_GE(plan.Honest(), 0.99 * plan.HonestAlone());
    }
  }
}

TEST(Claims, AreRefusedOutsideTheirBounds) {
  EXPECT_EQ(CheckAmount("x", 2.0, 2.0), Status::Ok());
  EXPECT_EQ(CheckAmount("x", 2.5, 2.0), InvalidArgument("x is 2.5, must be 0 to 2"));
  EXPECT_EQ(CheckRate("x", 0.0, 9.0), Status::Ok());
  EXPECT_EQ(CheckRate("x", 0.5, 9.0), InvalidArgument("x is 0.5, must be 0 (not known) or 1 to 9"));
  EXPECT_EQ(CheckCount("x", kMaxClaimedCount), Status::Ok());
  EXPECT_EQ(CheckCount("x", -1), InvalidArgument("x is -1, must be 0 to 1000000000000"));
}

}  // namespace
}  // namespace fedmoe
