#include "storage/alignment_replay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/storage/alignment_support.h"

namespace fedmoe {
namespace {

using ::testing::StartsWith;

constexpr int kRounds = 8;

constexpr AlignmentStrategy kAll[] = {AlignmentStrategy::kNone,       AlignmentStrategy::kFull,
                                      AlignmentStrategy::kRandom,     AlignmentStrategy::kStatic,
                                      AlignmentStrategy::kRoundRobin, AlignmentStrategy::kGreedy,
                                      AlignmentStrategy::kLoadOnly,   AlignmentStrategy::kBalanced};

void ExpectSameLoad(const ExpertLoad& a, const ExpertLoad& b) {
  EXPECT_EQ(a.assignments, b.assignments);
  EXPECT_EQ(a.round_assignments, b.round_assignments);
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.round_tokens, b.round_tokens);
  EXPECT_EQ(a.average_tokens, b.average_tokens);
  EXPECT_EQ(a.deficit, b.deficit);
}

// Every figure to the last bit.
void ExpectReplayedExactly(const RunOptions& options, std::uint64_t seed) {
  SCOPED_TRACE(std::string(AlignmentStrategyName(options.alignment.strategy)) + ", seed " +
               std::to_string(seed));
  RecordedFleet fleet(options, seed);
  const auto rounds = fleet.Record(kRounds);
  ASSERT_EQ(rounds.status().ToString(), "OK");
  const Result<Replay> replay = ReplayAlignment(*rounds, options);
  ASSERT_EQ(replay.status().ToString(), "OK");
  const std::vector<RoundReport> reports = fleet.Reports();
  ASSERT_EQ(replay->rounds.size(), reports.size());
  ASSERT_EQ(reports.size(), std::size_t{kRounds});
  for (std::size_t i = 0; i < reports.size(); ++i) {
    SCOPED_TRACE("round " + std::to_string(i + 1));
    const ReplayedRound& replayed = replay->rounds[i];
    const RoundReport& report = reports[i];
    EXPECT_TRUE(replayed.same);
    ASSERT_EQ(replayed.plan.assignments.size(), report.plan.assignments.size());
    for (std::size_t a = 0; a < report.plan.assignments.size(); ++a) {
      EXPECT_EQ(replayed.plan.assignments[a].client, report.plan.assignments[a].client);
      EXPECT_EQ(replayed.plan.assignments[a].expert, report.plan.assignments[a].expert);
      EXPECT_EQ(replayed.plan.assignments[a].fitness, report.plan.assignments[a].fitness);
      EXPECT_EQ(replayed.plan.assignments[a].reason, report.plan.assignments[a].reason);
    }
    EXPECT_EQ(replayed.plan.objective, report.plan.objective);
    EXPECT_EQ(replayed.plan.bound, report.plan.bound);
    EXPECT_EQ(replayed.plan.prices, report.plan.prices);
    EXPECT_EQ(replayed.plan.bounds.lower, report.plan.bounds.lower);
    EXPECT_EQ(replayed.plan.bounds.upper, report.plan.bounds.upper);
    ExpectSameLoad(replayed.load, report.load);
    EXPECT_EQ(replayed.would.objective, replayed.did.objective);
    EXPECT_EQ(replayed.would.fitness, replayed.did.fitness);
    EXPECT_EQ(replayed.would.greatest, replayed.did.greatest);
    EXPECT_EQ(replayed.would.cumulative_cv, report.cumulative_load_cv);
    EXPECT_EQ(replayed.would.kept, replayed.did.kept);
    EXPECT_EQ(replayed.would.moved_bytes, replayed.did.moved_bytes);
  }
}

TEST(AlignmentReplay, OfTheRunsOwnStrategyIsTheRunToTheLastBit) {
  for (const AlignmentStrategy strategy : kAll) {
    for (std::uint64_t seed = 1; seed <= 5; ++seed) {
      ExpectReplayedExactly(RecordedOptions(strategy), seed);
      ExpectReplayedExactly(RecordedOptions(strategy, 6, 2), seed);
    }
  }
}

TEST(AlignmentReplay, IsExactForEveryOptionOfTheScoreAndTheSolvers) {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    RunOptions options = RecordedOptions(AlignmentStrategy::kBalanced);
    options.score.movement = {.cost = MovementCost::kSeconds, .weight = 0.2};
    ExpectReplayedExactly(options, seed);
    options.participation.deadline_ms = 0;
    ExpectReplayedExactly(options, seed);
    options.score.movement = {.cost = MovementCost::kBytes, .weight = 0.1};
    options.score.exploration = {.strategy = ExplorationStrategy::kUcb, .bonus = 0.3};
    ExpectReplayedExactly(options, seed);
    options.fitness.signal = FitnessSignal::kSum;
    options.score.exploration.strategy = ExplorationStrategy::kContextual;
    options.alignment.solver = AlignmentSolver::kPrices;
    options.alignment.load.slack = 0.5;
    ExpectReplayedExactly(options, seed);
    options.alignment.load.unit = LoadUnit::kTokens;
    ExpectReplayedExactly(options, seed);
  }
}

TEST(AlignmentReplay, CarriesTheStrategysOwnLoadHistoryAlong) {
  RecordedFleet fleet(RecordedOptions(AlignmentStrategy::kGreedy), 1);
  const auto rounds = fleet.Record(kRounds);
  ASSERT_EQ(rounds.status().ToString(), "OK");
  RunOptions options = fleet.driver.options;
  options.alignment.strategy = AlignmentStrategy::kLoadOnly;
  const Result<Replay> replay = ReplayAlignment(*rounds, options);
  ASSERT_EQ(replay.status().ToString(), "OK");
  ExpertLoad load = ExpertLoad::Of(6);
  bool differed = false;
  for (std::size_t i = 0; i < rounds->size(); ++i) {
    // Every client gets the least loaded experts, counted over the replay's own rounds.
    AlignmentMemory memory;
    const AlignmentProblem problem =
        RecordedProblem((*rounds)[i], RecordedScore((*rounds)[i], 6), load, options);
    const AlignmentPlan plan = Align(problem, options.alignment, memory).value();
    for (std::size_t c = 0; c < problem.clients.size(); ++c) {
      EXPECT_EQ(replay->rounds[i].plan.ExpertsOf(static_cast<int>(c)),
                plan.ExpertsOf(static_cast<int>(c)));
    }
    load = replay->rounds[i].load;
    differed = differed || !replay->rounds[i].same;
  }
  EXPECT_TRUE(differed);
  EXPECT_LT(replay->would.cumulative_cv, replay->did.cumulative_cv);
  EXPECT_LE(replay->would.fitness, replay->did.fitness);
}

TEST(AlignmentReplay, CountsEachAcceptedClientOfAnotherPlan) {
  RecordedFleet fleet(RecordedOptions(AlignmentStrategy::kNone), 2);
  const auto rounds = fleet.Record(3);
  ASSERT_EQ(rounds.status().ToString(), "OK");
  RunOptions options = fleet.driver.options;
  options.alignment.strategy = AlignmentStrategy::kFull;
  const Result<Replay> replay = ReplayAlignment(*rounds, options);
  ASSERT_EQ(replay.status().ToString(), "OK");
  std::int64_t accepted = 0;
  for (const RecordedRound& round : *rounds) {
    for (const RecordedClient& client : round.clients) accepted += client.outcome == "accepted";
  }
  EXPECT_EQ(replay->rounds.back().load.assignments, std::vector<std::int64_t>(6, accepted));
  EXPECT_EQ(replay->did.assignments, 0);
  EXPECT_EQ(replay->did.keepable, 0);
}

TEST(AlignmentReplay, CountsWhatClientsKeepAndWhatMoves) {
  RunOptions options = RecordedOptions(AlignmentStrategy::kRandom);
  options.participation.per_round = 0;
  RecordedFleet fleet(options, 3);
  const auto rounds = fleet.Record(kRounds);
  ASSERT_EQ(rounds.status().ToString(), "OK");
  options.alignment.strategy = AlignmentStrategy::kStatic;
  const Result<Replay> replay = ReplayAlignment(*rounds, options);
  ASSERT_EQ(replay.status().ToString(), "OK");
  EXPECT_EQ(replay->would.kept, replay->would.keepable);
  EXPECT_LT(replay->did.kept, replay->did.keepable);
  const double bytes = static_cast<double>(options.spec.ShardBytes(ShardOfExpert(0)));
  EXPECT_EQ(replay->would.moved_bytes, static_cast<double>(replay->would.moved) * bytes);
  EXPECT_EQ(replay->would.kept + replay->would.moved, replay->would.assignments);
  EXPECT_LT(replay->would.moved, replay->did.moved);
}

TEST(AlignmentReplay, MovementIsPricedFromWhatTheReplayHolds) {
  RecordedFleet fleet(RecordedOptions(AlignmentStrategy::kBalanced), 4);
  const auto rounds = fleet.Record(kRounds);
  ASSERT_EQ(rounds.status().ToString(), "OK");
  RunOptions options = fleet.driver.options;
  options.alignment.strategy = AlignmentStrategy::kGreedy;
  options.score.movement = {.cost = MovementCost::kBytes, .weight = 100.0};
  const Result<Replay> replay = ReplayAlignment(*rounds, options);
  ASSERT_EQ(replay.status().ToString(), "OK");
  // Nothing is worth a move: whoever comes back keeps all that it has room for.
  EXPECT_GT(replay->would.keepable, 0);
  EXPECT_EQ(replay->would.kept, replay->would.keepable);
}

TEST(AlignmentReplay, SaysWhichRoundCannotBeAligned) {
  RunOptions options = RecordedOptions(AlignmentStrategy::kBalanced);
  RecordedFleet fleet(options, 1);
  auto rounds = fleet.Record(2);
  ASSERT_EQ(rounds.status().ToString(), "OK");
  // As if one expert had got far too much: the others are owed more than there is.
  (*rounds)[0].load.round_assignments = {50, 0, 0, 0, 0, 0};
  const Result<Replay> relaxed = ReplayAlignment(*rounds, options);
  ASSERT_EQ(relaxed.status().ToString(), "OK");
  EXPECT_GT(relaxed->would.relaxed, 0);
  options.alignment.relax_bounds = false;
  const Result<Replay> strict = ReplayAlignment(*rounds, options);
  EXPECT_EQ(strict.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(strict.status().message(), StartsWith("round 2: no plan meets the load bounds: "));
}

}  // namespace
}  // namespace fedmoe
