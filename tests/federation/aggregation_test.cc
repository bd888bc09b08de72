#include "federation/aggregation.h"

#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fedmoe {
namespace {

using testing::DoubleEq;
using testing::ElementsAre;
using testing::IsEmpty;

// Blocks: 0 trunk, 1 to 3 experts 0 to 2, 4 the client's own, 5 the gate by rows.
ModelSpec Spec() {
  ModelSpec spec;
  spec.experts = 3;
  spec.top_k = 1;
  spec.blocks.push_back({.name = "trunk.weight", .shape = {2}});
  for (int e = 0; e < 3; ++e) {
    spec.blocks.push_back({.name = "experts." + std::to_string(e) + ".weight",
                           .shape = {2},
                           .owner = BlockOwner::kExpert,
                           .expert = e,
                           .merge = MergeRule::kByTokens});
  }
  spec.blocks.push_back({.name = "own", .shape = {1}, .owner = BlockOwner::kClient});
  spec.blocks.push_back(
      {.name = "gate", .shape = {3, 2}, .expert = 0, .merge = MergeRule::kRowsByTokens});
  return spec;
}

AcceptedUpdate Update(TaskId task, ClientId client, std::vector<ExpertIndex> experts,
                      std::int64_t examples, std::vector<double> tokens) {
  AcceptedUpdate update{.task = task, .client = std::move(client), .experts = std::move(experts)};
  update.feedback.examples = examples;
  update.feedback.tokens = std::move(tokens);
  return update;
}

// ann: 100 examples, experts 0 and 1; bob: 300 examples, expert 1. Nobody has expert 2.
std::vector<AcceptedUpdate> TwoUpdates() {
  return {Update(11, "bob", {1}, 300, {0, 10, 0}), Update(12, "ann", {0, 1}, 100, {50, 30, 0})};
}

TEST(PlanAggregation, ListsUpdatesByClientThenTask) {
  std::vector<AcceptedUpdate> accepted = TwoUpdates();
  accepted.push_back(Update(9, "bob", {0}, 1, {1, 0, 0}));
  EXPECT_THAT(PlanAggregation(Spec(), accepted, {}).updates, ElementsAre(12, 9, 11));
}

TEST(PlanAggregation, WeightsTheTrunkByExamplesAndExpertsByTokens) {
  const AggregationPlan plan = PlanAggregation(Spec(), TwoUpdates(), {});
  ASSERT_EQ(plan.blocks.size(), 5U) << "all but the client's own";
  EXPECT_EQ(plan.blocks[0].parameter, 0);
  EXPECT_THAT(plan.blocks[0].weights, ElementsAre(0.25, 0.75));
  EXPECT_THAT(plan.blocks[1].weights, ElementsAre(1.0, 0.0));
  EXPECT_THAT(plan.blocks[2].weights, ElementsAre(0.75, 0.25));
  EXPECT_THAT(plan.blocks[3].weights, ElementsAre(0.0, 0.0));
  for (std::size_t i = 0; i < 4; ++i) EXPECT_THAT(plan.blocks[i].row_weights, IsEmpty());
}

TEST(PlanAggregation, WeightsEachRowByItsExpertsTokens) {
  const AggregationPlan plan = PlanAggregation(Spec(), TwoUpdates(), {});
  EXPECT_EQ(plan.blocks[4].parameter, 5);
  EXPECT_THAT(plan.blocks[4].weights, IsEmpty());
  EXPECT_THAT(plan.blocks[4].row_weights,
              ElementsAre(ElementsAre(1.0, 0.0), ElementsAre(0.75, 0.25), ElementsAre(0.0, 0.0)));
  EXPECT_TRUE(plan.blocks[4].changes());
}

TEST(PlanAggregation, WeightsTheRowsOfEachLayerByThatLayersExpertsAndFurtherRowsByExamples) {
  ModelSpec spec;
  spec.experts = 4;
  spec.layers = 2;
  spec.top_k = 1;
  // Two experts a layer, and one zero-computation expert.
  for (const ExpertIndex first : {0, 2}) {
    spec.blocks.push_back({.name = "gate." + std::to_string(first),
                           .shape = {3, 2},
                           .expert = first,
                           .merge = MergeRule::kRowsByTokens});
  }
  const AggregationPlan plan = PlanAggregation(spec,
                                               {Update(1, "ann", {0, 2, 3}, 100, {5, 0, 30, 7}),
                                                Update(2, "bob", {1, 2}, 300, {0, 9, 10, 0})},
                                               {});
  ASSERT_EQ(plan.blocks.size(), 2U);
  EXPECT_THAT(plan.blocks[0].row_weights,
              ElementsAre(ElementsAre(1.0, 0.0), ElementsAre(0.0, 1.0), ElementsAre(0.25, 0.75)));
  EXPECT_THAT(plan.blocks[1].row_weights,
              ElementsAre(ElementsAre(0.75, 0.25), ElementsAre(1.0, 0.0), ElementsAre(0.25, 0.75)));
}

TEST(PlanAggregation, WeightsExpertsByExamplesOrAlikeIfAsked) {
  const AggregationPlan by_examples =
      PlanAggregation(Spec(), TwoUpdates(), {.expert_weighting = ExpertWeighting::kExamples});
  EXPECT_THAT(by_examples.blocks[2].weights, ElementsAre(0.25, 0.75));
  EXPECT_THAT(by_examples.blocks[4].row_weights[1], ElementsAre(0.25, 0.75));
  const AggregationPlan uniform =
      PlanAggregation(Spec(), TwoUpdates(), {.expert_weighting = ExpertWeighting::kUniform});
  EXPECT_THAT(uniform.blocks[2].weights, ElementsAre(0.5, 0.5));
  EXPECT_THAT(uniform.blocks[0].weights, ElementsAre(0.25, 0.75)) << "the trunk as ever";
}

// Law 4, first half: what got no token keeps its value; the plan says so.
TEST(PlanAggregation, ChangesNoExpertWithoutAToken) {
  for (const ExpertWeighting weighting :
       {ExpertWeighting::kTokens, ExpertWeighting::kExamples, ExpertWeighting::kUniform}) {
    std::vector<AcceptedUpdate> accepted = TwoUpdates();
    accepted.push_back(Update(13, "cat", {2}, 50, {0, 0, 0}));  // held it, trained it on nothing
    const AggregationPlan plan = PlanAggregation(Spec(), accepted, {.expert_weighting = weighting});
    EXPECT_FALSE(plan.blocks[3].changes());
    EXPECT_THAT(plan.changed_shards, ElementsAre(kTrunkShard, 1, 2));
  }
}

TEST(PlanAggregation, CountsNoTokensOfAnExpertThatWasNotAssigned) {
  const AggregationPlan plan = PlanAggregation(
      Spec(), {Update(1, "ann", {0}, 10, {5, 5, 0}), Update(2, "bob", {1}, 10, {0, 1, 0})}, {});
  EXPECT_THAT(plan.blocks[2].weights, ElementsAre(0.0, 1.0));
  EXPECT_THAT(plan.blocks[4].row_weights[1], ElementsAre(0.0, 1.0));
}

TEST(PlanAggregation, OfAnExpertsBlockByExamplesCountsThoseWhoTrainedIt) {
  ModelSpec spec = Spec();
  spec.blocks[2].merge = MergeRule::kByExamples;
  std::vector<AcceptedUpdate> accepted = TwoUpdates();
  accepted.push_back(Update(13, "cat", {0}, 600, {5, 0, 0}));
  const AggregationPlan plan = PlanAggregation(spec, accepted, {});
  EXPECT_THAT(plan.blocks[2].weights, ElementsAre(0.25, 0.75, 0.0));
  EXPECT_THAT(plan.blocks[0].weights, ElementsAre(DoubleEq(0.1), DoubleEq(0.3), DoubleEq(0.6)));
}

TEST(PlanAggregation, ChangesNothingWithoutUpdatesOrExamples) {
  const AggregationPlan none = PlanAggregation(Spec(), {}, {});
  EXPECT_THAT(none.updates, IsEmpty());
  EXPECT_THAT(none.changed_shards, IsEmpty());
  for (const BlockPlan& block : none.blocks) EXPECT_FALSE(block.changes());
  const AggregationPlan idle = PlanAggregation(Spec(), {Update(1, "ann", {0}, 0, {0, 0, 0})}, {});
  EXPECT_THAT(idle.changed_shards, IsEmpty());
}

TEST(PlanAggregation, DoesNotDependOnTheOrderOfArrival) {
  std::vector<AcceptedUpdate> accepted = TwoUpdates();
  const AggregationPlan plan = PlanAggregation(Spec(), accepted, {});
  std::swap(accepted[0], accepted[1]);
  const AggregationPlan swapped = PlanAggregation(Spec(), accepted, {});
  EXPECT_EQ(plan.updates, swapped.updates);
  for (std::size_t i = 0; i < plan.blocks.size(); ++i) {
    EXPECT_EQ(plan.blocks[i].weights, swapped.blocks[i].weights);
    EXPECT_EQ(plan.blocks[i].row_weights, swapped.blocks[i].row_weights);
  }
}

TEST(MomentCount, IsWhatTheOptimizerKeeps) {
  EXPECT_EQ(MomentCount(ServerOptimizer::kFedAvg), 0);
  EXPECT_EQ(MomentCount(ServerOptimizer::kFedAvgM), 1);
  EXPECT_EQ(MomentCount(ServerOptimizer::kFedAdam), 2);
  EXPECT_EQ(MomentCount(ServerOptimizer::kFedYogi), 2);
}

TEST(Consensus, IsPlannedOverTheExpertsThatWereTrainedByTheirTokens) {
  const AggregationPlan plan = PlanAggregation(Spec(), TwoUpdates(), {.consensus = 0.2});
  EXPECT_EQ(plan.consensus_share, 0.2);
  ASSERT_EQ(plan.consensus.size(), 1U);
  EXPECT_THAT(plan.consensus[0].shards, ElementsAre(1, 2));  // nobody trained expert 2
  EXPECT_THAT(plan.consensus[0].weights, ElementsAre(DoubleEq(50.0 / 90.0), DoubleEq(40.0 / 90.0)));
}

TEST(Consensus, NeedsTwoExpertsOfALayerAndAShare) {
  EXPECT_THAT(PlanAggregation(Spec(), TwoUpdates(), {}).consensus, IsEmpty());
  const std::vector<AcceptedUpdate> alone = {Update(11, "bob", {1}, 300, {0, 10, 0})};
  EXPECT_THAT(PlanAggregation(Spec(), alone, {.consensus = 0.2}).consensus, IsEmpty());
  ModelSpec layers = Spec();
  layers.experts = 2;
  layers.layers = 2;
  layers.blocks.erase(layers.blocks.begin() + 3);
  const std::vector<AcceptedUpdate> both = {Update(1, "ann", {0, 1}, 10, {5, 5})};
  EXPECT_THAT(PlanAggregation(layers, both, {.consensus = 0.2}).consensus, IsEmpty());
}

TEST(Consensus, LeavesOutExpertsOfAnotherShape) {
  ModelSpec spec = Spec();
  spec.blocks[2].shape = {3};
  const std::vector<AcceptedUpdate> all = {Update(1, "ann", {0, 1, 2}, 10, {1, 2, 3})};
  const AggregationPlan plan = PlanAggregation(spec, all, {.consensus = 1.0});
  ASSERT_EQ(plan.consensus.size(), 1U);
  EXPECT_THAT(plan.consensus[0].shards, ElementsAre(1, 3));
  EXPECT_THAT(plan.consensus[0].weights, ElementsAre(0.25, 0.75));
}

TEST(Consensus, FadesWithTheInformationOfClientsAndExperts) {
  const AggregationOptions always{.consensus = 0.4};
  EXPECT_EQ(ConsensusShare(always, 0.0), 0.4);
  EXPECT_EQ(ConsensusShare(always, 3.0), 0.4);
  const AggregationOptions fading{.consensus = 0.4, .consensus_information = 0.1};
  EXPECT_EQ(ConsensusShare(fading, 0.0), 0.4);
  EXPECT_DOUBLE_EQ(ConsensusShare(fading, 0.025), 0.3);
  EXPECT_EQ(ConsensusShare(fading, 0.1), 0.0);
  EXPECT_EQ(ConsensusShare(fading, 0.4), 0.0);
  const AggregationPlan plan = PlanAggregation(Spec(), TwoUpdates(), fading, 0.2);
  EXPECT_EQ(plan.consensus_share, 0.0);
  EXPECT_THAT(plan.consensus, IsEmpty());
}

}  // namespace
}  // namespace fedmoe
