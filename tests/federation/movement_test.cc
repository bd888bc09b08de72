// What the cost of movement does to plans and to the bytes that clients must fetch.
#include <cmath>
#include <map>
#include <set>

#include <gtest/gtest.h>

#include "tests/federation/fitness_environment.h"
#include "tests/federation/round_driver.h"

namespace fedmoe {
namespace {

constexpr int kClients = 8;
constexpr int kRounds = 12;

// A run of clients that suit all experts about equally well, with another favourite every round.
class FickleRun {
 public:
  FickleRun(double weight, EvaluationMode evaluation) : driver_(OptionsOf(weight, evaluation)) {
    for (int c = 0; c < kClients; ++c) driver_.Join(World::Name(c), 1);
    while (driver_.state.round > 0) {
      for (const ClientId& client : std::vector<ClientId>(driver_.state.cohort)) Report(client);
      driver_.Aggregate();
      driver_.Checkpoint();
    }
    EXPECT_EQ(driver_.state.version, kRounds);
  }

  // What clients that keep every shard that they ever had must fetch, training and evaluation.
  std::int64_t BytesDown() const {
    std::map<ClientId, std::set<Digest>> caches;
    std::int64_t bytes = 0;
    for (const Action& action : driver_.history) {
      const auto* dispatch = std::get_if<Dispatch>(&action);
      if (dispatch == nullptr) continue;
      for (const TaskAssignment& task : dispatch->tasks) {
        for (const ShardReference& shard : task.shards) {
          if (caches[task.client].insert(shard.digest).second) bytes += shard.bytes;
        }
      }
    }
    return bytes;
  }
  // Training tasks with an expert that the client's one before did not have.
  int Moved() const {
    std::map<ClientId, std::vector<ExpertIndex>> last;
    int moved = 0;
    for (const Action& action : driver_.history) {
      const auto* dispatch = std::get_if<Dispatch>(&action);
      if (dispatch == nullptr) continue;
      for (const TaskAssignment& task : dispatch->tasks) {
        if (task.kind != TaskKind::kTrain) continue;
        const auto found = last.find(task.client);
        moved += found != last.end() && found->second != task.experts ? 1 : 0;
        last[task.client] = task.experts;
      }
    }
    return moved;
  }

 private:
  static RunOptions OptionsOf(double weight, EvaluationMode evaluation) {
    RunOptions options = TinyOptions(8);
    options.rounds = kRounds;
    options.participation.min_clients = kClients;
    options.evaluation.mode = evaluation;
    options.score.movement = {.cost = MovementCost::kBytes, .weight = weight};
    return options;
  }
  void Report(const ClientId& client) {
    UpdateReceived update = driver_.UpdateFor(driver_.TaskOf(client));
    CounterRng rng = CounterRng::For(1, client, driver_.state.round, "favourite");
    std::vector<double>& affinity = update.header.feedback.affinity;
    affinity.assign(affinity.size(), 0.12);
    affinity[rng.NextBelow(affinity.size())] = 0.16;
    driver_.Apply(update);
  }

  RoundDriver driver_;
};

// The last commit has no round after it.
constexpr int kChances = kClients * (kRounds - 1);

TEST(MovementInARun, CostIsHysteresisASmallGainMovesNobody) {
  EXPECT_GT(FickleRun(0.0, EvaluationMode::kNone).Moved(), kChances / 2);
  EXPECT_EQ(FickleRun(0.1, EvaluationMode::kNone).Moved(), 0);
}

// Every expert is trained every round, so that a version held is an old one whoever holds it.
TEST(MovementInARun, SavesNoByteWhereEveryExpertChangesEveryRound) {
  EXPECT_EQ(FickleRun(0.1, EvaluationMode::kNone).BytesDown(),
            FickleRun(0.0, EvaluationMode::kNone).BytesDown());
}

// A client is evaluated with the new versions of the experts that it trained. If it keeps them, the
// next round's task finds them in its cache.
TEST(MovementInARun, SavesAnExpertForEveryMoveWhereClientsEvaluate) {
  const FickleRun moving(0.0, EvaluationMode::kClients);
  const FickleRun staying(0.1, EvaluationMode::kClients);
  const std::int64_t expert_bytes = TinySpec(8).ShardBytes(ShardOfExpert(0));
  EXPECT_EQ(moving.BytesDown() - staying.BytesDown(),
            expert_bytes * (moving.Moved() - staying.Moved()));
  EXPECT_GT(moving.Moved(), staying.Moved());
}

TEST(MovementInARun, IsToldInTheReportWithWhatEachClientHeld) {
  RunOptions options = TinyOptions(4);
  options.score.exploration = {.strategy = ExplorationStrategy::kUcb, .bonus = 0.5};
  options.score.movement = {.cost = MovementCost::kBytes, .weight = 0.25};
  RoundDriver driver(options);
  driver.Join("a", 1);
  driver.Join("b", 1);
  driver.CommitRound();
  const ClientReport first = driver.Last<Report>().report.clients.front();
  EXPECT_EQ(first.held, std::vector<ExpertIndex>());
  EXPECT_EQ(first.bonus, std::vector<double>(4, 0.0));
  EXPECT_EQ(first.movement, std::vector<double>(4, 0.25));
  driver.CommitRound();
  const ClientReport second = driver.Last<Report>().report.clients.front();
  EXPECT_EQ(second.held, first.experts);
  for (ExpertIndex e = 0; e < 4; ++e) {
    const bool held = e == first.experts.front();
    const auto index = static_cast<std::size_t>(e);
    EXPECT_EQ(second.movement[index], held ? 0.0 : 0.25);
    EXPECT_DOUBLE_EQ(second.bonus[index], 0.5 * std::sqrt(std::log(2.0) / (held ? 2.0 : 1.0)));
  }
}

TEST(MovementInARun, DampsTheChurnOfExplorationWithoutLosingTheOptimum) {
  const World world = MakeWorld({.seed = 1});
  Campaign campaign;
  campaign.fitness.signal = FitnessSignal::kLoss;
  campaign.score.exploration = {.strategy = ExplorationStrategy::kUcb, .bonus = 0.3};
  const Outcome moving = RunCampaign(world, campaign);
  campaign.score.movement = {.cost = MovementCost::kBytes, .weight = 0.1};
  const Outcome staying = RunCampaign(world, campaign);
  EXPECT_LT(staying.moved, 0.5 * moving.moved);
  EXPECT_GT(staying.share, moving.share);
}

}  // namespace
}  // namespace fedmoe
