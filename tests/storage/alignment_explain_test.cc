#include "storage/alignment_explain.h"

#include <algorithm>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "federation/alignment_baselines.h"
#include "storage/alignment_text.h"
#include "tests/storage/alignment_support.h"

namespace fedmoe {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr double kRounding = 1e-9;

// All lists of `count` of the experts, ascending.
std::vector<std::vector<ExpertIndex>> Choices(int experts, int count) {
  std::vector<std::vector<ExpertIndex>> all;
  for (int mask = 0; mask < 1 << experts; ++mask) {
    std::vector<ExpertIndex> list;
    for (int e = 0; e < experts; ++e) {
      if (mask >> e & 1) list.push_back(e);
    }
    if (static_cast<int>(list.size()) == count) all.push_back(list);
  }
  return all;
}

// The greatest objective of any plan within the bounds in which the pair is as asked; -inf for
// none. By trying them all.
double BestWith(const AlignmentProblem& problem, const LoadBounds& bounds, int client,
                ExpertIndex expert, bool assigned, std::size_t at = 0, std::vector<int> load = {}) {
  const int experts = static_cast<int>(problem.fitness.cols());
  load.resize(static_cast<std::size_t>(experts));
  if (at == problem.clients.size()) {
    for (std::size_t e = 0; e < load.size(); ++e) {
      if (load[e] < bounds.lower[e] || load[e] > bounds.upper[e]) {
        return -std::numeric_limits<double>::infinity();
      }
    }
    return 0.0;
  }
  double best = -std::numeric_limits<double>::infinity();
  for (const auto& list : Choices(experts, problem.capacity[at])) {
    const bool has = std::binary_search(list.begin(), list.end(), expert);
    if (static_cast<int>(at) == client && has != assigned) continue;
    std::vector<int> next = load;
    double score = 0.0;
    for (const ExpertIndex e : list) {
      ++next[static_cast<std::size_t>(e)];
      score += problem.fitness(static_cast<Eigen::Index>(at), e);
    }
    best =
        std::max(best, score + BestWith(problem, bounds, client, expert, assigned, at + 1, next));
  }
  return best;
}

TEST(AlignmentExplain, AnExchangeIsTheBestPlanWithThePairTheOtherWayRound) {
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    RunOptions options = RecordedOptions(AlignmentStrategy::kBalanced, 4);
    options.score.movement = {.cost = MovementCost::kBytes, .weight = 0.05};
    RecordedFleet fleet(options, seed);
    const auto rounds = fleet.Record(3);
    ASSERT_EQ(rounds.status().ToString(), "OK");
    const RecordedRound& round = rounds->back();
    const AlignmentProblem problem =
        RecordedProblem(round, RecordedScore(round, 4), LoadBefore(*rounds, 2, 4), options);
    for (std::size_t c = 0; c < round.clients.size(); ++c) {
      const auto explanation = ExplainRound(
          *rounds, options, {.round = 3, .client = round.clients[c].client, .expert = {}});
      ASSERT_EQ(explanation.status().ToString(), "OK");
      ASSERT_TRUE(explanation->reproduced);
      ASSERT_EQ(explanation->clients.size(), 1u);
      ASSERT_EQ(explanation->clients[0].pairs.size(), 4u);
      for (const PairExplanation& pair : explanation->clients[0].pairs) {
        const double best =
            BestWith(problem, round.plan.bounds, static_cast<int>(c), pair.expert, !pair.assigned);
        ASSERT_TRUE(pair.exchange.has_value());
        ASSERT_EQ(pair.exchange->possible, best > -1e9);
        if (!pair.exchange->possible) continue;
        EXPECT_NEAR(pair.exchange->cost, round.plan.objective - best, kRounding);
        // Prices are optimal: no exchange costs less than what its own client is to spare or short.
        ASSERT_TRUE(pair.threshold.has_value());
        EXPECT_GE(pair.Margin(), -kRounding);
        EXPECT_GE(pair.exchange->cost, pair.Margin() - kRounding);
        EXPECT_FALSE(pair.exchange->steps.empty());
      }
    }
  }
}

TEST(AlignmentExplain, TellsThePartsOfTheScoreAndItsRank) {
  RunOptions options = RecordedOptions(AlignmentStrategy::kGreedy);
  options.fitness.signal = FitnessSignal::kSum;
  options.score.exploration = {.strategy = ExplorationStrategy::kUcb, .bonus = 0.3};
  options.score.movement = {.cost = MovementCost::kBytes, .weight = 0.1};
  RecordedFleet fleet(options, 5);
  const auto rounds = fleet.Record(4);
  ASSERT_EQ(rounds.status().ToString(), "OK");
  const auto explanation = ExplainRound(*rounds, options, {.round = 4, .client = {}, .expert = 2});
  ASSERT_EQ(explanation.status().ToString(), "OK");
  ASSERT_EQ(explanation->clients.size(), rounds->back().clients.size());
  const RoundReport report = fleet.Reports().back();
  for (std::size_t c = 0; c < explanation->clients.size(); ++c) {
    const RecordedClient& client = rounds->back().clients[c];
    ASSERT_EQ(explanation->clients[c].pairs.size(), 1u);
    const PairExplanation& pair = explanation->clients[c].pairs[0];
    EXPECT_EQ(pair.fitness, client.fitness[2]);
    EXPECT_EQ(pair.bonus, client.bonus[2]);
    EXPECT_EQ(pair.movement, client.movement[2]);
    EXPECT_DOUBLE_EQ(pair.score, pair.fitness + pair.bonus - pair.movement);
    EXPECT_EQ(pair.price, 0.0);
    EXPECT_FALSE(pair.exchange.has_value());
    // Greedy: exactly the k_c best.
    EXPECT_EQ(pair.assigned, pair.rank <= client.capacity);
    EXPECT_GE(pair.Margin(), 0.0);
    for (const Assignment& assignment : report.plan.assignments) {
      if (assignment.client == static_cast<int>(c) && assignment.expert == 2) {
        EXPECT_EQ(pair.reason, assignment.reason);
      }
    }
  }
}

TEST(AlignmentExplain, RanksWithinTheLayer) {
  const RunOptions options = RecordedOptions(AlignmentStrategy::kBalanced, 6, 2);
  RecordedFleet fleet(options, 6);
  const auto rounds = fleet.Record(3);
  ASSERT_EQ(rounds.status().ToString(), "OK");
  const ClientId client = rounds->back().clients[0].client;
  const auto explanation =
      ExplainRound(*rounds, options, {.round = 3, .client = client, .expert = {}});
  ASSERT_EQ(explanation.status().ToString(), "OK");
  const std::vector<PairExplanation>& pairs = explanation->clients[0].pairs;
  ASSERT_EQ(pairs.size(), 6u);
  for (int layer = 0; layer < 2; ++layer) {
    std::vector<int> ranks;
    for (int e = 0; e < 3; ++e)
      ranks.push_back(pairs[static_cast<std::size_t>(3 * layer + e)].rank);
    std::sort(ranks.begin(), ranks.end());
    EXPECT_EQ(ranks, (std::vector<int>{1, 2, 3}));
  }
}

TEST(AlignmentExplain, EveryStrategyIsReproducedAndHasItsWords) {
  const std::pair<AlignmentStrategy, const char*> cases[] = {
      {AlignmentStrategy::kFull, "has it like every client."},
      {AlignmentStrategy::kRandom, "has it by the draw of this round."},
      {AlignmentStrategy::kStatic, "has it by the plan that static keeps."},
      {AlignmentStrategy::kRoundRobin, "has it because it was its turn."},
      {AlignmentStrategy::kGreedy, "has it for its fitness."},
      {AlignmentStrategy::kLoadOnly,
       "has it because it was among the experts with the fewest assignments."},
      {AlignmentStrategy::kBalanced, "To have it, the best plan:"},
  };
  for (const auto& [strategy, words] : cases) {
    SCOPED_TRACE(AlignmentStrategyName(strategy));
    const RunOptions options = RecordedOptions(strategy);
    RecordedFleet fleet(options, 7);
    const auto rounds = fleet.Record(5);
    ASSERT_EQ(rounds.status().ToString(), "OK");
    const ClientId client = rounds->back().clients[0].client;
    const auto explanation =
        ExplainRound(*rounds, options, {.round = 5, .client = client, .expert = {}});
    ASSERT_EQ(explanation.status().ToString(), "OK");
    EXPECT_TRUE(explanation->reproduced);
    EXPECT_THAT(ExplanationText(*explanation), HasSubstr(words));
  }
}

TEST(AlignmentExplain, SaysWhenThisBuildAlignsOtherwise) {
  const RunOptions options = RecordedOptions(AlignmentStrategy::kBalanced);
  RecordedFleet fleet(options, 8);
  auto rounds = fleet.Record(2);
  ASSERT_EQ(rounds.status().ToString(), "OK");
  RecordedClient& client = rounds->back().clients[0];
  client.experts =
      client.experts.front() == 0 ? std::vector<ExpertIndex>{1, 2} : std::vector<ExpertIndex>{0, 2};
  const auto explanation =
      ExplainRound(*rounds, options, {.round = 2, .client = client.client, .expert = {}});
  ASSERT_EQ(explanation.status().ToString(), "OK");
  EXPECT_FALSE(explanation->reproduced);
  const std::string text = ExplanationText(*explanation);
  EXPECT_THAT(text, HasSubstr("This build does not align the round as it was aligned"));
  EXPECT_THAT(text, Not(HasSubstr("for its fitness")));
}

TEST(AlignmentExplain, OverviewNamesTheNearestClientsOfEachExpert) {
  const RunOptions options = RecordedOptions(AlignmentStrategy::kBalanced);
  RecordedFleet fleet(options, 9);
  const auto rounds = fleet.Record(4);
  ASSERT_EQ(rounds.status().ToString(), "OK");
  const auto all = ExplainRound(*rounds, options, {.round = 4, .client = {}, .expert = {}});
  ASSERT_EQ(all.status().ToString(), "OK");
  for (const ExpertExplanation& expert : all->experts) {
    const auto pairs =
        ExplainRound(*rounds, options, {.round = 4, .client = {}, .expert = expert.expert});
    ASSERT_EQ(pairs.status().ToString(), "OK");
    double last_in = std::numeric_limits<double>::infinity();
    double first_out = std::numeric_limits<double>::infinity();
    for (const ClientExplanation& client : pairs->clients) {
      const PairExplanation& pair = client.pairs.at(0);
      if (!pair.threshold) continue;
      double& nearest = pair.assigned ? last_in : first_out;
      nearest = std::min(nearest, pair.Margin());
    }
    const double none = std::numeric_limits<double>::infinity();
    EXPECT_EQ(expert.last_in ? expert.last_in->second : none, last_in);
    EXPECT_EQ(expert.first_out ? expert.first_out->second : none, first_out);
  }
  EXPECT_THAT(ExplanationText(*all), HasSubstr("last in (to spare)"));
}

TEST(AlignmentExplain, NamesWhatThereIs) {
  const RunOptions options = RecordedOptions(AlignmentStrategy::kBalanced);
  RecordedFleet fleet(options, 1);
  const auto rounds = fleet.Record(2);
  ASSERT_EQ(rounds.status().ToString(), "OK");
  const auto error = [&](const ExplainRequest& request) {
    return ExplainRound(*rounds, options, request).status().ToString();
  };
  EXPECT_EQ(error({.round = 3, .client = {}, .expert = {}}),
            "NOT_FOUND: there is no round 3; the run has rounds 1 to 2");
  EXPECT_EQ(error({.round = 1, .client = {}, .expert = 6}),
            "NOT_FOUND: there is no expert 6; the model has experts 0 to 5");
  std::string names;
  for (const RecordedClient& client : rounds->front().clients) {
    names += (names.empty() ? "" : ", ") + client.client;
  }
  EXPECT_EQ(error({.round = 1, .client = "nobody", .expert = {}}),
            "NOT_FOUND: client 'nobody' was not in round 1; its clients were " + names);
}

}  // namespace
}  // namespace fedmoe
