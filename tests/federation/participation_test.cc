#include "federation/participation.h"

#include <cmath>

#include <gtest/gtest.h>

#include "common/counter_rng.h"
#include "federation/aggregation.h"

namespace fedmoe {
namespace {

using Trained = std::map<ClientId, std::vector<ExpertIndex>>;

TEST(Participation, MeansThePastGapsOfTheTrunkAndOfEachExpert) {
  ParticipationTable table;
  const std::vector<ClientId> clients{"a", "b"};
  EXPECT_EQ(table.Trunk("a"), 1.0) << "not known yet";
  // a takes part in rounds 1, 2 and 5, with expert 0 in rounds 1 and 5; b never.
  const std::vector<Trained> rounds{{{"a", {0}}}, {{"a", {1}}}, {}, {}, {{"a", {0, 1}}}};
  for (const Trained& trained : rounds) {
    RecordParticipation(table, clients, trained, 2, 50);
  }
  EXPECT_DOUBLE_EQ(table.Trunk("a"), (1.0 + 1.0 + 3.0) / 3.0);
  EXPECT_DOUBLE_EQ(table.Expert("a", 0), (1.0 + 4.0) / 2.0);
  EXPECT_DOUBLE_EQ(table.Expert("a", 1), (2.0 + 3.0) / 2.0);
  EXPECT_DOUBLE_EQ(table.Trunk("b"), 1.0) << "no gap has ended";
}

TEST(Participation, ACutoffEndsAGapThatGoesOn) {
  ParticipationTable table;
  const std::vector<ClientId> clients{"a"};
  for (int round = 0; round < 9; ++round) RecordParticipation(table, clients, {}, 0, 4);
  EXPECT_DOUBLE_EQ(table.Trunk("a"), 4.0);
  EXPECT_EQ(table.rows.at("a")[0].gaps, 2);
  EXPECT_EQ(table.rows.at("a")[0].since, 1);
}

// A model of one trunk block and one expert, for the plan's weights.
ModelSpec TinySpec() {
  ModelSpec spec;
  spec.experts = 1;
  spec.blocks.push_back({.name = "trunk", .shape = {1}, .merge = MergeRule::kByExamples});
  spec.blocks.push_back({.name = "expert",
                         .shape = {1},
                         .owner = BlockOwner::kExpert,
                         .expert = 0,
                         .merge = MergeRule::kByTokens});
  return spec;
}

// Ten clients pull a number towards their own targets, 0 to 9; client c takes part with chance p_c
// from 1 down to 0.1. Where the mean ends up.
double Settle(bool fedau) {
  const ModelSpec spec = TinySpec();
  ParticipationTable table;
  std::vector<ClientId> clients;
  for (int c = 0; c < 10; ++c) clients.push_back("c" + std::to_string(c));
  CounterRng rng(5);
  double model = 0.0;
  double sum = 0.0;
  int counted = 0;
  for (int round = 0; round < 4000; ++round) {
    std::vector<AcceptedUpdate> accepted;
    Trained trained;
    for (int c = 0; c < 10; ++c) {
      if (rng.NextUniform() >= 1.0 - 0.1 * c) continue;
      const auto index = static_cast<std::size_t>(c);
      AcceptedUpdate& update = accepted.emplace_back();
      update.task = static_cast<TaskId>(c + 1);
      update.client = clients[index];
      update.experts = {0};
      update.feedback.examples = 10;
      update.feedback.tokens = {20.0};
      if (fedau) {
        update.trunk_factor = table.Trunk(update.client);
        update.expert_factors = {table.Expert(update.client, 0)};
      }
      trained[clients[index]] = {0};
    }
    if (!accepted.empty()) {
      const AggregationPlan plan = PlanAggregation(spec, accepted, {});
      const BlockPlan& expert = plan.blocks.back();
      double step = 0.0;
      for (std::size_t i = 0; i < expert.weights.size(); ++i) {
        const double target = static_cast<double>(plan.updates[i]) - 1.0;
        step += expert.weights[i] * (target - model);
      }
      model += 0.02 * step;
    }
    RecordParticipation(table, clients, trained, 1, 50);
    if (round < 2000) continue;
    sum += model;
    ++counted;
  }
  return sum / counted;
}

TEST(Participation, FedAUUndoesMostOfTheBiasTowardsThoseOftenThere) {
  const double everybody = 4.5;  // the mean of all targets
  const double plain = Settle(false);
  const double fedau = Settle(true);
  EXPECT_NEAR(plain, 3.0, 0.2) << "the mean weighted by participation";
  // Not all: a round's weights are made to sum to 1, so one rare client among many others moves
  // the model less than its weight would have it.
  EXPECT_LT(std::abs(fedau - everybody), 0.4 * std::abs(plain - everybody));
}

}  // namespace
}  // namespace fedmoe
