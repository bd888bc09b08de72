#include "federation/alignment_layers.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <tuple>

#include "common/counter_rng.h"

namespace fedmoe {
namespace {

int ExpertsPerLayer(const AlignmentProblem& problem) {
  return static_cast<int>(problem.fitness.cols()) / problem.layers;
}

LayerCapacity CountByLayer(const AlignmentProblem& problem,
                           const std::vector<ExpertIndex>& experts) {
  LayerCapacity counts(static_cast<std::size_t>(problem.layers), 0);
  for (const ExpertIndex expert : experts) {
    ++counts[static_cast<std::size_t>(expert / ExpertsPerLayer(problem))];
  }
  return counts;
}

// The layers with the least total first; ties by layer.
std::vector<std::size_t> LeastFirst(const std::vector<std::int64_t>& totals) {
  std::vector<std::size_t> order(totals.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return totals[a] < totals[b]; });
  return order;
}

template <typename T>
std::vector<T> PartOf(const std::vector<T>& values, int first, int count) {
  if (values.empty()) return {};
  return {values.begin() + first, values.begin() + first + count};
}

ExpertLoad LoadOfLayer(const ExpertLoad& load, int first, int count) {
  ExpertLoad part;
  part.assignments = PartOf(load.assignments, first, count);
  part.round_assignments = PartOf(load.round_assignments, first, count);
  part.tokens = PartOf(load.tokens, first, count);
  part.round_tokens = PartOf(load.round_tokens, first, count);
  part.average_tokens = PartOf(load.average_tokens, first, count);
  part.deficit = PartOf(load.deficit, first, count);
  return part;
}

}  // namespace

std::vector<LayerCapacity> SplitCapacity(const AlignmentProblem& problem,
                                         const AlignmentMemory* pinned) {
  const auto layers = static_cast<std::size_t>(problem.layers);
  std::vector<std::int64_t> totals(layers, 0);
  std::vector<LayerCapacity> split(problem.clients.size());
  const auto give = [&](std::size_t client, LayerCapacity capacity) {
    for (std::size_t layer = 0; layer < layers; ++layer) totals[layer] += capacity[layer];
    split[client] = std::move(capacity);
  };
  std::vector<std::size_t> open;
  for (std::size_t c = 0; c < problem.clients.size(); ++c) {
    open.push_back(c);
    if (pinned == nullptr) continue;
    const auto found = pinned->pinned.find(problem.clients[c]);
    if (found == pinned->pinned.end() ||
        found->second.size() != static_cast<std::size_t>(problem.capacity[c])) {
      continue;
    }
    give(c, CountByLayer(problem, found->second));
    open.pop_back();
  }
  for (const std::size_t c : open) {
    LayerCapacity capacity(layers, problem.capacity[c] / problem.layers);
    const std::vector<std::size_t> order = LeastFirst(totals);
    for (int i = 0; i < problem.capacity[c] % problem.layers; ++i) {
      ++capacity[order[static_cast<std::size_t>(i)]];
    }
    give(c, std::move(capacity));
  }
  return split;
}

AlignmentProblem ProblemOfLayer(const AlignmentProblem& problem,
                                const std::vector<LayerCapacity>& split, int layer) {
  const int count = ExpertsPerLayer(problem);
  const int first = layer * count;
  AlignmentProblem part;
  part.clients = problem.clients;
  for (const LayerCapacity& capacity : split) {
    part.capacity.push_back(capacity[static_cast<std::size_t>(layer)]);
  }
  part.fitness = problem.fitness.middleCols(first, count);
  part.load = LoadOfLayer(problem.load, first, count);
  part.seed =
      layer == 0
          ? problem.seed
          : MixKey({problem.seed, KeyOf("alignment.layer"), static_cast<std::uint64_t>(layer)});
  part.round = problem.round;
  part.weight = problem.weight;
  if (!problem.expert_bytes.empty()) {
    part.expert_bytes.assign(problem.expert_bytes.begin() + first,
                             problem.expert_bytes.begin() + first + count);
    // A layer's share of the room is its share of the capacity.
    for (std::size_t c = 0; c < problem.room_bytes.size(); ++c) {
      const int all = problem.capacity[c];
      part.room_bytes.push_back(all > 0 ? problem.room_bytes[c] * part.capacity[c] / all : 0.0);
    }
  }
  return part;
}

AlignmentMemory MemoryOfLayer(const AlignmentProblem& problem, const AlignmentMemory& memory,
                              int layer) {
  const int count = ExpertsPerLayer(problem);
  AlignmentMemory part;
  for (const auto& [client, experts] : memory.pinned) {
    std::vector<ExpertIndex>& pinned = part.pinned[client];
    for (const ExpertIndex expert : experts) {
      if (expert / count == layer) pinned.push_back(expert - layer * count);
    }
  }
  const auto first = static_cast<std::ptrdiff_t>(layer) * count;
  if (memory.prices.size() == static_cast<std::size_t>(problem.fitness.cols())) {
    part.prices.assign(memory.prices.begin() + first, memory.prices.begin() + first + count);
  }
  return part;
}

AlignmentMemory JoinMemories(const AlignmentProblem& problem,
                             const std::vector<AlignmentMemory>& layers) {
  const int count = ExpertsPerLayer(problem);
  AlignmentMemory memory;
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    const int first = static_cast<int>(layer) * count;
    for (const auto& [client, experts] : layers[layer].pinned) {
      std::vector<ExpertIndex>& pinned = memory.pinned[client];
      for (const ExpertIndex expert : experts) pinned.push_back(first + expert);
    }
    memory.prices.insert(memory.prices.end(), layers[layer].prices.begin(),
                         layers[layer].prices.end());
  }
  return memory;
}

AlignmentPlan JoinPlans(const AlignmentProblem& problem, const std::vector<AlignmentPlan>& layers) {
  const int count = ExpertsPerLayer(problem);
  AlignmentPlan plan;
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    const AlignmentPlan& part = layers[layer];
    plan.strategy = part.strategy;
    for (Assignment assignment : part.assignments) {
      assignment.expert += static_cast<int>(layer) * count;
      plan.assignments.push_back(assignment);
    }
    // The mean of the layers' targets is the target over all experts.
    plan.bounds.target += part.bounds.target / static_cast<double>(layers.size());
    plan.bounds.lower.insert(plan.bounds.lower.end(), part.bounds.lower.begin(),
                             part.bounds.lower.end());
    plan.bounds.upper.insert(plan.bounds.upper.end(), part.bounds.upper.begin(),
                             part.bounds.upper.end());
    plan.relaxed = std::max(plan.relaxed, part.relaxed);
    if (!part.conflict.empty()) {
      plan.conflict += (plan.conflict.empty() ? "layer " : "; layer ") + std::to_string(layer) +
                       ": " + part.conflict;
    }
    plan.bound += part.bound;
    const auto append = [](std::vector<double>& to, const std::vector<double>& from) {
      to.insert(to.end(), from.begin(), from.end());
    };
    append(plan.weighted_bounds.lower, part.weighted_bounds.lower);
    append(plan.weighted_bounds.upper, part.weighted_bounds.upper);
    append(plan.weighted_load, part.weighted_load);
    plan.weighted_bounds.target += part.weighted_bounds.target / static_cast<double>(layers.size());
    plan.violation += part.violation / static_cast<double>(layers.size());
    plan.prices.insert(plan.prices.end(), part.prices.begin(), part.prices.end());
    plan.solver = part.solver;
    plan.sweeps += part.sweeps;
    plan.repairs += part.repairs;
  }
  std::sort(plan.assignments.begin(), plan.assignments.end(),
            [](const Assignment& a, const Assignment& b) {
              return std::tie(a.client, a.expert) < std::tie(b.client, b.expert);
            });
  return plan;
}

}  // namespace fedmoe
