#include "federation/alignment_baselines.h"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "common/counter_rng.h"

namespace fedmoe {
namespace {

std::vector<ExpertIndex> AllExperts(int experts) {
  std::vector<ExpertIndex> all(static_cast<std::size_t>(experts));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

int ExpertsOfProblem(const AlignmentProblem& problem) {
  return static_cast<int>(problem.fitness.cols());
}

// The first `count` of a list, ascending.
std::vector<ExpertIndex> TakeFirst(std::vector<ExpertIndex> order, int count) {
  order.resize(static_cast<std::size_t>(count));
  std::sort(order.begin(), order.end());
  return order;
}

// All experts by count, least first; ties in the order that `rng` shuffles.
std::vector<ExpertIndex> LeastFirst(const std::vector<std::int64_t>& counts, CounterRng rng) {
  std::vector<ExpertIndex> order = AllExperts(static_cast<int>(counts.size()));
  rng.Shuffle(order);
  std::stable_sort(order.begin(), order.end(), [&](ExpertIndex a, ExpertIndex b) {
    return counts[static_cast<std::size_t>(a)] < counts[static_cast<std::size_t>(b)];
  });
  return order;
}

// Brings one pinned list to `capacity` entries and keeps `counts` in step.
void Resize(std::vector<ExpertIndex>& pinned, int capacity, std::vector<std::int64_t>& counts,
            const CounterRng& rng) {
  std::vector<ExpertIndex> order = LeastFirst(counts, rng);
  for (const ExpertIndex expert : order) {
    if (static_cast<int>(pinned.size()) >= capacity) break;
    if (std::find(pinned.begin(), pinned.end(), expert) != pinned.end()) continue;
    pinned.push_back(expert);
    ++counts[static_cast<std::size_t>(expert)];
  }
  std::reverse(order.begin(), order.end());
  for (const ExpertIndex expert : order) {
    if (static_cast<int>(pinned.size()) <= capacity) break;
    const auto found = std::find(pinned.begin(), pinned.end(), expert);
    if (found == pinned.end()) continue;
    pinned.erase(found);
    --counts[static_cast<std::size_t>(expert)];
  }
  std::sort(pinned.begin(), pinned.end());
}

}  // namespace

std::int64_t PairPreference(std::uint64_t seed, const ClientId& client, ExpertIndex expert) {
  return PairPreferences(seed, client).Of(expert);
}

std::vector<ExpertIndex> FittestFirst(const AlignmentProblem& problem, int index) {
  const int experts = ExpertsOfProblem(problem);
  const ClientId& client = problem.clients[static_cast<std::size_t>(index)];
  std::vector<std::tuple<double, std::int64_t, ExpertIndex>> keys;
  for (ExpertIndex e = 0; e < experts; ++e) {
    keys.emplace_back(-problem.fitness(index, e), -PairPreference(problem.seed, client, e), e);
  }
  std::sort(keys.begin(), keys.end());
  std::vector<ExpertIndex> order;
  for (const auto& key : keys) order.push_back(std::get<2>(key));
  return order;
}

bool IsAmongFittest(const AlignmentProblem& problem, int index, ExpertIndex expert, int count) {
  const double fitness = problem.fitness(index, expert);
  int before = 0;
  bool ties = false;
  for (ExpertIndex e = 0; e < ExpertsOfProblem(problem); ++e) {
    before += problem.fitness(index, e) > fitness ? 1 : 0;
    ties = ties || (e != expert && problem.fitness(index, e) == fitness);
  }
  if (!ties) return before < count;
  const PairPreferences preferences(problem.seed, problem.clients[static_cast<std::size_t>(index)]);
  const std::int64_t preference = preferences.Of(expert);
  for (ExpertIndex e = 0; e < ExpertsOfProblem(problem); ++e) {
    if (e == expert || problem.fitness(index, e) != fitness) continue;
    const std::int64_t other = preferences.Of(e);
    before += other > preference || (other == preference && e < expert) ? 1 : 0;
  }
  return before < count;
}

ExpertLists AlignFull(const AlignmentProblem& problem) {
  return ExpertLists(problem.clients.size(), AllExperts(ExpertsOfProblem(problem)));
}

ExpertLists AlignRandom(const AlignmentProblem& problem) {
  ExpertLists lists;
  for (std::size_t c = 0; c < problem.clients.size(); ++c) {
    CounterRng rng =
        CounterRng::For(problem.seed, problem.clients[c], problem.round, "alignment.random");
    std::vector<ExpertIndex> order = AllExperts(ExpertsOfProblem(problem));
    rng.Shuffle(order);
    lists.push_back(TakeFirst(std::move(order), problem.capacity[c]));
  }
  return lists;
}

ExpertLists AlignStatic(const AlignmentProblem& problem, AlignmentMemory& memory) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(ExpertsOfProblem(problem)), 0);
  for (const auto& [client, experts] : memory.pinned) {
    for (const ExpertIndex expert : experts) ++counts[static_cast<std::size_t>(expert)];
  }
  ExpertLists lists;
  for (std::size_t c = 0; c < problem.clients.size(); ++c) {
    std::vector<ExpertIndex>& pinned = memory.pinned[problem.clients[c]];
    Resize(pinned, problem.capacity[c], counts,
           CounterRng::For(problem.seed, problem.clients[c], 0, "alignment.static"));
    lists.push_back(pinned);
  }
  return lists;
}

ExpertLists AlignRoundRobin(const AlignmentProblem& problem) {
  const int experts = ExpertsOfProblem(problem);
  // At least the largest capacity, so that a round shows experts that the last one did not.
  std::int64_t stride = 1;
  for (const int capacity : problem.capacity) stride = std::max<std::int64_t>(stride, capacity);
  while (std::gcd(stride, std::int64_t{experts}) != 1) ++stride;
  const std::int64_t turn = (problem.round - 1) % experts * stride;
  std::int64_t start = turn;
  ExpertLists lists;
  for (const int capacity : problem.capacity) {
    std::vector<ExpertIndex> list;
    for (int i = 0; i < capacity; ++i) {
      list.push_back(static_cast<ExpertIndex>((start + i) % experts));
    }
    start += capacity;
    std::sort(list.begin(), list.end());
    lists.push_back(std::move(list));
  }
  return lists;
}

ExpertLists AlignGreedy(const AlignmentProblem& problem) {
  ExpertLists lists;
  for (std::size_t c = 0; c < problem.clients.size(); ++c) {
    lists.push_back(TakeFirst(FittestFirst(problem, static_cast<int>(c)), problem.capacity[c]));
  }
  return lists;
}

ExpertLists AlignLoadOnly(const AlignmentProblem& problem) {
  std::vector<std::int64_t> counts = problem.load.assignments;
  ExpertLists lists;
  for (std::size_t c = 0; c < problem.clients.size(); ++c) {
    const CounterRng rng =
        CounterRng::For(problem.seed, problem.clients[c], problem.round, "alignment.load_only");
    lists.push_back(TakeFirst(LeastFirst(counts, rng), problem.capacity[c]));
    for (const ExpertIndex expert : lists.back()) ++counts[static_cast<std::size_t>(expert)];
  }
  return lists;
}

}  // namespace fedmoe
