// How long alignment takes for large cohorts, and how near to the optimum its plans are.
//
// Fitness is skewed: each client has a preference over groups of experts, sharpened by a softmax,
// and a few experts are everybody's favourites. Capacities are unequal, 1 to 8 experts. "Warm" is
// the round after: one step of the moving average on 30 % of the rows, a tenth of the cohort
// replaced by other clients, the last round's prices at hand.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "common/counter_rng.h"
#include "common/thread_loop.h"
#include "federation/alignment.h"

namespace fedmoe {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// A client's row: softmax over 4 times normal draws, plus the pull of popular experts.
void FillRow(std::uint64_t seed, std::uint64_t client, FitnessMatrix& fitness, Eigen::Index row) {
  CounterRng rng(MixKey({seed, client}));
  const Eigen::Index experts = fitness.cols();
  double sum = 0.0;
  for (Eigen::Index e = 0; e < experts; ++e) {
    const double popularity = 2.0 / (1.0 + static_cast<double>(e));
    fitness(row, e) = std::exp(1.5 * rng.NextNormal() + popularity);
    sum += fitness(row, e);
  }
  fitness.row(row) /= sum;
}

std::string NameOf(std::uint64_t client) {
  char text[32];
  std::snprintf(text, sizeof(text), "c%09llu", static_cast<unsigned long long>(client));
  return text;
}

AlignmentProblem MakeProblem(int clients, int experts, std::uint64_t seed) {
  AlignmentProblem problem;
  problem.fitness.resize(clients, experts);
  CounterRng rng(MixKey({seed, KeyOf("capacity")}));
  for (int c = 0; c < clients; ++c) {
    problem.clients.push_back(NameOf(static_cast<std::uint64_t>(c) * 2));
    problem.capacity.push_back(1 + static_cast<int>(rng.NextBelow(8)));
    FillRow(seed, static_cast<std::uint64_t>(c), problem.fitness, c);
  }
  problem.load = ExpertLoad::Of(experts);
  problem.seed = seed;
  return problem;
}

// The next round of the same problem.
void Evolve(AlignmentProblem& problem, std::uint64_t seed) {
  CounterRng rng(MixKey({seed, KeyOf("evolve")}));
  FitnessMatrix signal(1, problem.fitness.cols());
  for (Eigen::Index c = 0; c < problem.fitness.rows(); ++c) {
    const double draw = rng.NextUniform();
    if (draw < 0.1) {
      FillRow(seed + 1, static_cast<std::uint64_t>(c), problem.fitness, c);
      problem.clients[static_cast<std::size_t>(c)] = NameOf(static_cast<std::uint64_t>(c) * 2 + 1);
      problem.capacity[static_cast<std::size_t>(c)] = 1 + static_cast<int>(rng.NextBelow(8));
    } else if (draw < 0.4) {
      FillRow(seed + 2, static_cast<std::uint64_t>(c), signal, 0);
      problem.fitness.row(c) = 0.5 * problem.fitness.row(c) + 0.5 * signal.row(0);
    }
  }
  ++problem.round;
}

bool MeetsBounds(const AlignmentProblem& problem, const AlignmentPlan& plan) {
  std::vector<int> held(problem.clients.size(), 0);
  for (const Assignment& assignment : plan.assignments) {
    ++held[static_cast<std::size_t>(assignment.client)];
  }
  if (held != problem.capacity) return false;
  for (std::size_t e = 0; e < plan.load.size(); ++e) {
    if (plan.load[e] < plan.bounds.lower[e] || plan.load[e] > plan.bounds.upper[e]) return false;
  }
  return plan.relaxed == 0;
}

struct Timing {
  double seconds = 0.0;  // median
  double gap = 0.0;      // greatest
  bool bounds_met = true;
};

struct Case {
  const char* name;
  int clients;
  int repetitions;
  bool warm;
};

Timing Measure(const Case& measured, int experts, int threads) {
  Timing timing;
  std::vector<double> seconds;
  for (int repetition = 0; repetition < measured.repetitions; ++repetition) {
    const auto seed = static_cast<std::uint64_t>(repetition + 1);
    AlignmentProblem problem = MakeProblem(measured.clients, experts, seed);
    AlignmentOptions options;
    options.solver = AlignmentSolver::kPrices;
    options.parallel = LoopOnThreads(threads);
    AlignmentMemory memory;
    if (measured.warm) {
      if (!Align(problem, options, memory).ok()) std::abort();
      Evolve(problem, seed);
    }
    const double start = Now();
    const auto plan = Align(problem, options, memory);
    seconds.push_back(Now() - start);
    if (!plan.ok()) {
      std::fprintf(stderr, "bench_alignment: %s\n", plan.status().ToString().c_str());
      std::exit(1);
    }
    timing.gap = std::max(timing.gap, plan->gap);
    timing.bounds_met = timing.bounds_met && MeetsBounds(problem, *plan);
    std::printf(
        "%-18s %9d x %d  %8.4f s  objective %.6g  gap %.2e  cv %.6f (floor %.6f)  sweeps %d  moved "
        "%lld\n",
        measured.name, measured.clients, experts, seconds.back(), plan->objective, plan->gap,
        plan->cv, plan->floor_cv, plan->sweeps, static_cast<long long>(plan->repairs));
    std::fflush(stdout);
  }
  std::nth_element(seconds.begin(),
                   seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2),
                   seconds.end());
  timing.seconds = seconds[seconds.size() / 2];
  return timing;
}

}  // namespace
}  // namespace fedmoe

int main(int argc, char** argv) {
  CLI::App app("Times alignment by prices. The last line is one JSON object; seconds are medians.");
  int threads = 2;
  int experts = 64;
  int largest = 1000000;
  app.add_option("--threads", threads, "threads")->check(CLI::Range(1, 256));
  app.add_option("--experts", experts, "experts")->check(CLI::Range(8, 4096));
  app.add_option("--largest", largest, "clients of the largest case")
      ->check(CLI::Range(1000, 10000000));
  CLI11_PARSE(app, argc, argv);
  const std::vector<fedmoe::Case> cases{{"cold_10k_x_64_s", 10000, 7, false},
                                        {"warm_10k_x_64_s", 10000, 7, true},
                                        {"cold_1m_x_64_s", largest, 3, false}};
  nlohmann::ordered_json line;
  double gap = 0.0;
  bool bounds_met = true;
  for (const fedmoe::Case& each : cases) {
    const fedmoe::Timing timing = fedmoe::Measure(each, experts, threads);
    line[each.name] = timing.seconds;
    line[std::string(each.name) + "_gap"] = timing.gap;
    gap = std::max(gap, timing.gap);
    bounds_met = bounds_met && timing.bounds_met;
  }
  line["gap"] = gap;
  line["bounds_met"] = bounds_met;
  line["threads"] = threads;
  std::puts(line.dump().c_str());
  return bounds_met ? 0 : 1;
}
