// The strategies that keep or turn a plan from round to round.
#include <algorithm>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "federation/alignment.h"

namespace fedmoe {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

AlignmentProblem Problem(const std::vector<ClientId>& clients, std::vector<int> capacity,
                         int experts) {
  AlignmentProblem problem;
  problem.clients = clients;
  problem.fitness = Eigen::MatrixXd::Zero(static_cast<Eigen::Index>(clients.size()), experts);
  problem.capacity = std::move(capacity);
  problem.load = ExpertLoad::Of(experts);
  problem.seed = 9;
  return problem;
}

AlignmentPlan Plan(const AlignmentProblem& problem, AlignmentStrategy strategy,
                   AlignmentMemory& memory) {
  auto plan = Align(problem, {.strategy = strategy}, memory);
  EXPECT_TRUE(plan.ok()) << plan.status().ToString();
  return std::move(plan).value();
}

TEST(Static, KeepsItsPlanOverRoundsAndFeedback) {
  AlignmentMemory memory;
  AlignmentProblem problem = Problem({"a", "b", "c", "d"}, {1, 2, 3, 2}, 8);
  const AlignmentPlan first = Plan(problem, AlignmentStrategy::kStatic, memory);
  EXPECT_EQ(first.cv, 0.0) << "8 assignments over 8 experts";
  problem.round = 2;
  problem.fitness.setRandom();
  problem.load.assignments.assign(8, 3);
  const AlignmentPlan second = Plan(problem, AlignmentStrategy::kStatic, memory);
  for (int c = 0; c < 4; ++c) EXPECT_EQ(first.ExpertsOf(c), second.ExpertsOf(c));
}

TEST(Static, GivesNewcomersTheLeastPinnedExperts) {
  AlignmentMemory memory;
  memory.pinned = {{"b", {0, 1, 3}}, {"gone", {0, 3}}};
  const AlignmentPlan plan =
      Plan(Problem({"a", "b"}, {1, 3}, 4), AlignmentStrategy::kStatic, memory);
  // Expert 2 is the only one that nobody has; who is away keeps what is pinned.
  EXPECT_THAT(plan.ExpertsOf(0), ElementsAre(2));
  EXPECT_THAT(plan.ExpertsOf(1), ElementsAre(0, 1, 3));
  EXPECT_THAT(memory.pinned.at("a"), ElementsAre(2));
  EXPECT_THAT(memory.pinned.at("gone"), ElementsAre(0, 3));
}

TEST(Static, GrowsByTheLeastPinnedAndShrinksByTheMostPinned) {
  AlignmentMemory memory;
  memory.pinned = {{"a", {0, 1}}, {"b", {0, 2}}, {"c", {2, 3, 0}}};
  // Pinned: expert 0 three times, 1 once, 2 twice, 3 once. "a" gives up 0 and keeps 1.
  Plan(Problem({"a"}, {1}, 4), AlignmentStrategy::kStatic, memory);
  EXPECT_THAT(memory.pinned.at("a"), ElementsAre(1));
  // Now 0 and 2 twice, 1 and 3 once. "c" takes 1, the only one that it lacks.
  Plan(Problem({"c"}, {4}, 4), AlignmentStrategy::kStatic, memory);
  EXPECT_THAT(memory.pinned.at("c"), ElementsAre(0, 1, 2, 3));
  // 0, 1 and 2 twice, 3 once: "b" takes 3 before 1.
  Plan(Problem({"b"}, {3}, 4), AlignmentStrategy::kStatic, memory);
  EXPECT_THAT(memory.pinned.at("b"), ElementsAre(0, 2, 3));
  Plan(Problem({"b"}, {0}, 4), AlignmentStrategy::kStatic, memory);
  EXPECT_THAT(memory.pinned.at("b"), IsEmpty());
}

TEST(Static, DrawsAnotherPlanFromAnotherSeed) {
  std::set<std::vector<ExpertIndex>> plans;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    AlignmentMemory memory;
    AlignmentProblem problem = Problem({"a"}, {2}, 8);
    problem.seed = seed;
    plans.insert(Plan(problem, AlignmentStrategy::kStatic, memory).ExpertsOf(0));
  }
  EXPECT_GE(plans.size(), 10U);
}

TEST(Static, IsTheOnlyOneThatRemembers) {
  AlignmentMemory memory;
  const AlignmentProblem problem = Problem({"a", "b"}, {1, 2}, 4);
  for (const AlignmentStrategy strategy :
       {AlignmentStrategy::kNone, AlignmentStrategy::kFull, AlignmentStrategy::kRandom,
        AlignmentStrategy::kRoundRobin, AlignmentStrategy::kGreedy, AlignmentStrategy::kLoadOnly,
        AlignmentStrategy::kBalanced}) {
    Plan(problem, strategy, memory);
    EXPECT_THAT(memory.pinned, IsEmpty());
  }
  Plan(problem, AlignmentStrategy::kStatic, memory);
  EXPECT_THAT(memory.pinned, SizeIs(2));
}

TEST(RoundRobin, LaysTheClientsEndToEndAndTurnsTheRing) {
  AlignmentMemory memory;
  AlignmentProblem problem = Problem({"a", "b", "c"}, {2, 1, 2}, 4);
  AlignmentPlan plan = Plan(problem, AlignmentStrategy::kRoundRobin, memory);
  EXPECT_THAT(plan.ExpertsOf(0), ElementsAre(0, 1));
  EXPECT_THAT(plan.ExpertsOf(1), ElementsAre(2));
  EXPECT_THAT(plan.ExpertsOf(2), ElementsAre(0, 3));
  // The stride is 3: at least the largest capacity 2, and without common divisor with 4.
  problem.round = 2;
  plan = Plan(problem, AlignmentStrategy::kRoundRobin, memory);
  EXPECT_THAT(plan.ExpertsOf(0), ElementsAre(0, 3));
  EXPECT_THAT(plan.ExpertsOf(1), ElementsAre(1));
  EXPECT_THAT(plan.ExpertsOf(2), ElementsAre(2, 3));
}

// No aliasing to a static plan, whatever the numbers: also where the experts handed out in a round
// are a multiple of all experts.
TEST(RoundRobin, ShowsEveryExpertToEveryClientWithinAsManyRoundsAsThereAreExperts) {
  for (int experts = 1; experts <= 12; ++experts) {
    for (int capacity = 1; capacity <= experts; ++capacity) {
      for (int clients = 1; clients <= 6; ++clients) {
        SCOPED_TRACE(std::to_string(experts) + " experts, " + std::to_string(clients) +
                     " clients of " + std::to_string(capacity));
        std::vector<ClientId> names;
        for (int c = 0; c < clients; ++c) names.push_back("c" + std::to_string(c));
        AlignmentProblem problem =
            Problem(names, std::vector<int>(static_cast<std::size_t>(clients), capacity), experts);
        AlignmentMemory memory;
        std::vector<std::set<ExpertIndex>> seen(static_cast<std::size_t>(clients));
        std::vector<int> load(static_cast<std::size_t>(experts), 0);
        // From any round on, not only from the first.
        for (problem.round = 5; problem.round < 5 + experts; ++problem.round) {
          const AlignmentPlan plan = Plan(problem, AlignmentStrategy::kRoundRobin, memory);
          ASSERT_NEAR(plan.cv, plan.floor_cv, 1e-12);
          for (const Assignment& assignment : plan.assignments) {
            seen[static_cast<std::size_t>(assignment.client)].insert(assignment.expert);
            ++load[static_cast<std::size_t>(assignment.expert)];
          }
        }
        for (const auto& experts_seen : seen) {
          ASSERT_EQ(static_cast<int>(experts_seen.size()), experts);
        }
        // And in that time all experts had the same load.
        ASSERT_EQ(*std::min_element(load.begin(), load.end()),
                  *std::max_element(load.begin(), load.end()));
      }
    }
  }
}

}  // namespace
}  // namespace fedmoe
