// A world with known utilities in which signals, claims and exploration are compared: clients of a
// few domains, experts that serve one each, noisy signals, and loss and accuracy of trained pairs
// only. Nothing is learned but the fitness table.
#pragma once

#include <algorithm>
#include <functional>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "common/counter_rng.h"
#include "federation/alignment_score.h"

namespace fedmoe {

struct World {
  int experts = 16;
  int layers = 1;
  std::vector<int> capacity;  // k_c
  Eigen::MatrixXd utility;    // true: exp(-loss) and accuracy of the pair, (0, 1)
  Eigen::MatrixXd affinity;   // of the gates, each layer's row sums to 1
  double noise = 0.05;        // standard deviation of each signal
  std::uint64_t seed = 1;
  int per_round = 0;  // clients drawn for a round; 0 for all

  int Clients() const { return static_cast<int>(capacity.size()); }
  static ClientId Name(int client) { return "c" + std::to_string(1000 + client); }
};

struct WorldOptions {
  int clients = 32;
  int experts = 16;
  int domains = 8;
  int capacity = 2;
  // How well the gates know: 1 as well as the utilities themselves, 0 not at all (the input does
  // not tell the concept).
  double gate = 1.0;
  std::uint64_t seed = 1;
};

// Client c is of domain c mod domains and expert e serves domain e mod domains: about 0.7 to those,
// 0.3 to others, each pair a little different.
inline World MakeWorld(const WorldOptions& options) {
  World world;
  world.experts = options.experts;
  world.seed = options.seed;
  world.capacity.assign(static_cast<std::size_t>(options.clients), options.capacity);
  world.utility.resize(options.clients, options.experts);
  world.affinity.resize(options.clients, options.experts);
  CounterRng rng = CounterRng::For(options.seed, "", 0, "world");
  for (int c = 0; c < options.clients; ++c) {
    for (int e = 0; e < options.experts; ++e) {
      const bool serves = c % options.domains == e % options.domains;
      world.utility(c, e) = (serves ? 0.7 : 0.3) + 0.1 * (rng.NextUniform() - 0.5);
      const double nonsense = rng.NextUniform();
      world.affinity(c, e) =
          std::exp(4.0 * (options.gate * world.utility(c, e) + (1.0 - options.gate) * nonsense));
    }
    world.affinity.row(c) /= world.affinity.row(c).sum();
  }
  return world;
}

// What an honest client tells after training `experts`.
inline TrainingFeedback HonestFeedback(const World& world, int client,
                                       const std::vector<ExpertIndex>& experts, RoundNumber round) {
  CounterRng rng = CounterRng::For(world.seed, World::Name(client), round, "signals");
  const auto noisy = [&](double value) {
    return std::clamp(value + world.noise * rng.NextNormal(), 0.01, 0.99);
  };
  TrainingFeedback feedback;
  feedback.examples = 100;
  const auto size = static_cast<std::size_t>(world.experts);
  feedback.tokens.assign(size, 0.0);
  feedback.expert_loss.assign(size, 0.0);
  feedback.expert_accuracy.assign(size, 0.0);
  for (int e = 0; e < world.experts; ++e) {
    feedback.affinity.push_back(noisy(world.affinity(client, e)));
  }
  const double sum = std::accumulate(feedback.affinity.begin(), feedback.affinity.end(), 0.0);
  for (double& share : feedback.affinity) share /= sum;
  for (const ExpertIndex expert : experts) {
    const auto e = static_cast<std::size_t>(expert);
    feedback.tokens[e] = 100.0;
    feedback.expert_loss[e] = -std::log(noisy(world.utility(client, expert)));
    feedback.expert_accuracy[e] = noisy(world.utility(client, expert));
  }
  return feedback;
}

// Changes the feedback of a client that lies.
using Lie =
    std::function<void(const std::vector<ExpertIndex>& experts, TrainingFeedback& feedback)>;

struct Campaign {
  AlignmentStrategy strategy = AlignmentStrategy::kBalanced;
  FitnessOptions fitness;
  ScoreOptions score;
  int rounds = 60;
  std::set<int> liars;  // indices of clients
  Lie lie;              // none: they are as honest as the others
};

struct Outcome {
  double utility = 0.0;  // true, of the honest clients' assignments, over the last third
  double share = 0.0;    // of what full knowledge would have given them
  double moved = 0.0;    // share of assignments that the client did not have before, likewise
  int explored = 0;      // assignments with that reason, over all rounds
  FitnessTable table;
};

inline AlignmentPlan PlanFor(const World& world, const std::vector<int>& cohort,
                             const Eigen::MatrixXd& score, const ExpertLoad& load,
                             AlignmentStrategy strategy, RoundNumber round) {
  AlignmentProblem problem;
  for (const int client : cohort) {
    problem.clients.push_back(World::Name(client));
    problem.capacity.push_back(world.capacity[static_cast<std::size_t>(client)]);
  }
  problem.fitness = score;
  problem.load = load;
  problem.layers = world.layers;
  problem.seed = world.seed;
  problem.round = round;
  AlignmentMemory memory;
  Result<AlignmentPlan> plan = Align(problem, {.strategy = strategy}, memory);
  EXPECT_TRUE(plan.ok()) << plan.status().ToString();
  return plan.ok() ? std::move(plan).value() : AlignmentPlan{};
}

inline std::vector<int> CohortOf(const World& world, RoundNumber round) {
  std::vector<int> cohort(static_cast<std::size_t>(world.Clients()));
  std::iota(cohort.begin(), cohort.end(), 0);
  if (world.per_round > 0) {
    CounterRng rng = CounterRng::For(world.seed, "", round, "cohort");
    rng.Shuffle(cohort);
    cohort.resize(static_cast<std::size_t>(world.per_round));
    std::sort(cohort.begin(), cohort.end());
  }
  return cohort;
}

// Sum over the honest clients' assignments.
inline double HonestUtility(const World& world, const std::vector<int>& cohort,
                            const AlignmentPlan& plan, const std::set<int>& liars) {
  double sum = 0.0;
  for (const Assignment& assignment : plan.assignments) {
    const int client = cohort[static_cast<std::size_t>(assignment.client)];
    if (liars.count(client) == 0) sum += world.utility(client, assignment.expert);
  }
  return sum;
}

// Every round anew: score, plan, feedback of the cohort, the table's update.
inline Outcome RunCampaign(const World& world, const Campaign& campaign) {
  Outcome outcome;
  outcome.table.experts = world.experts;
  outcome.table.layers = world.layers;
  ExpertLoad load = ExpertLoad::Of(world.experts);
  std::vector<std::vector<ExpertIndex>> held(static_cast<std::size_t>(world.Clients()));
  double optimum = 0.0;
  double assigned = 0.0;
  for (RoundNumber round = 1; round <= campaign.rounds; ++round) {
    const bool counts = 3 * round > 2 * campaign.rounds;
    const std::vector<int> cohort = CohortOf(world, round);
    ScoreProblem problem{.round = round};
    problem.expert_bytes.assign(static_cast<std::size_t>(world.experts), 1e6);
    Eigen::MatrixXd truth(static_cast<Eigen::Index>(cohort.size()), world.experts);
    for (std::size_t i = 0; i < cohort.size(); ++i) {
      problem.clients.push_back(
          {.client = World::Name(cohort[i]), .held = held[static_cast<std::size_t>(cohort[i])]});
      truth.row(static_cast<Eigen::Index>(i)) = world.utility.row(cohort[i]);
    }
    const ScoreMatrix score = BuildScore(outcome.table, problem, campaign.fitness, campaign.score);
    AlignmentPlan plan = PlanFor(world, cohort, score.Total(), load, campaign.strategy, round);
    ExplainPlan(score, world.layers, plan);
    if (counts) {
      outcome.utility += HonestUtility(world, cohort, plan, campaign.liars);
      const AlignmentPlan best = PlanFor(world, cohort, truth, load, campaign.strategy, round);
      optimum += HonestUtility(world, cohort, best, campaign.liars);
    }
    for (const Assignment& assignment : plan.assignments) {
      outcome.explored += assignment.reason == AssignmentReason::kExplored ? 1 : 0;
    }
    for (std::size_t i = 0; i < cohort.size(); ++i) {
      const std::vector<ExpertIndex> experts = plan.ExpertsOf(static_cast<int>(i));
      std::vector<ExpertIndex>& before = held[static_cast<std::size_t>(cohort[i])];
      if (counts) {
        for (const ExpertIndex expert : experts) {
          assigned += 1.0;
          outcome.moved += std::count(before.begin(), before.end(), expert) == 0 ? 1.0 : 0.0;
        }
      }
      before = experts;
      TrainingFeedback feedback = HonestFeedback(world, cohort[i], experts, round);
      if (campaign.lie && campaign.liars.count(cohort[i]) > 0) campaign.lie(experts, feedback);
      UpdateFitness(outcome.table, World::Name(cohort[i]),
                    {.feedback = feedback, .experts = experts, .round = round}, campaign.fitness);
    }
    const std::vector<std::int64_t> assignments(plan.load.begin(), plan.load.end());
    RecordRound(load, assignments, std::vector<double>(plan.load.begin(), plan.load.end()), {},
                world.layers);
  }
  outcome.share = outcome.utility / optimum;
  outcome.moved /= assigned;
  return outcome;
}

}  // namespace fedmoe
