#include "federation/alignment.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "federation/alignment_balanced.h"
#include "federation/alignment_baselines.h"
#include "federation/alignment_bound.h"
#include "federation/alignment_layers.h"

namespace fedmoe {
namespace {

constexpr std::array<std::pair<AlignmentStrategy, const char*>, 8> kStrategies{{
    {AlignmentStrategy::kNone, "none"},
    {AlignmentStrategy::kFull, "full"},
    {AlignmentStrategy::kRandom, "random"},
    {AlignmentStrategy::kStatic, "static"},
    {AlignmentStrategy::kRoundRobin, "round_robin"},
    {AlignmentStrategy::kGreedy, "greedy"},
    {AlignmentStrategy::kLoadOnly, "load_only"},
    {AlignmentStrategy::kBalanced, "balanced"},
}};

Status ValidateSizes(const AlignmentProblem& problem) {
  const std::size_t clients = problem.clients.size();
  const std::size_t experts = problem.load.deficit.size();
  if (experts == 0) return InvalidArgument("the load history has no experts");
  if (problem.load.assignments.size() != experts) {
    return InvalidArgument("the load history has " +
                           std::to_string(problem.load.assignments.size()) +
                           " assignment counts and " + std::to_string(experts) + " deficits");
  }
  if (problem.layers < 1 || experts % static_cast<std::size_t>(problem.layers) != 0) {
    return InvalidArgument("the load history has " + std::to_string(experts) +
                           " experts, must be a multiple of " + std::to_string(problem.layers) +
                           " layers, at least 1");
  }
  if (problem.capacity.size() != clients) {
    return InvalidArgument(std::to_string(problem.capacity.size()) + " capacities for " +
                           std::to_string(clients) + " clients");
  }
  if (static_cast<std::size_t>(problem.fitness.rows()) != clients ||
      static_cast<std::size_t>(problem.fitness.cols()) != experts) {
    return InvalidArgument("the fitness is " + std::to_string(problem.fitness.rows()) + " x " +
                           std::to_string(problem.fitness.cols()) + ", must be " +
                           std::to_string(clients) + " clients x " + std::to_string(experts) +
                           " experts");
  }
  if (!problem.weight.empty() && problem.weight.size() != clients) {
    return InvalidArgument(std::to_string(problem.weight.size()) + " weights for " +
                           std::to_string(clients) + " clients");
  }
  if (problem.expert_bytes.empty() != problem.room_bytes.empty() ||
      (!problem.expert_bytes.empty() &&
       (problem.expert_bytes.size() != experts || problem.room_bytes.size() != clients))) {
    return InvalidArgument(std::to_string(problem.expert_bytes.size()) + " expert sizes for " +
                           std::to_string(experts) + " experts and " +
                           std::to_string(problem.room_bytes.size()) + " rooms for " +
                           std::to_string(clients) + " clients; both or none");
  }
  if (problem.round < 1) {
    return InvalidArgument("round is " + std::to_string(problem.round) + ", must be at least 1");
  }
  for (std::size_t e = 0; e < problem.expert_bytes.size(); ++e) {
    if (problem.expert_bytes[e] > 0.0 && problem.expert_bytes[e] < 1e300) continue;
    return InvalidArgument("expert " + std::to_string(e) + " is of " +
                           std::to_string(problem.expert_bytes[e]) +
                           " bytes, must be above 0 and finite");
  }
  return Status::Ok();
}

Status ValidateProblem(const AlignmentProblem& problem) {
  FEDMOE_RETURN_IF_ERROR(ValidateSizes(problem));
  for (std::size_t c = 0; c < problem.clients.size(); ++c) {
    const std::string named = "client '" + problem.clients[c] + "'";
    if (c > 0 && problem.clients[c - 1] >= problem.clients[c]) {
      return InvalidArgument(named + " comes after '" + problem.clients[c - 1] +
                             "', clients must be sorted and unique");
    }
    if (problem.capacity[c] < 0 || problem.capacity[c] > problem.fitness.cols()) {
      return InvalidArgument("capacity of " + named + " is " + std::to_string(problem.capacity[c]) +
                             ", must be 0 to " + std::to_string(problem.fitness.cols()));
    }
    if (!problem.weight.empty() && !(problem.weight[c] > 0.0 && problem.weight[c] < 1e300)) {
      return InvalidArgument("weight of " + named + " is " + std::to_string(problem.weight[c]) +
                             ", must be above 0 and finite");
    }
    if (!problem.room_bytes.empty() && !(problem.room_bytes[c] >= 0.0)) {
      return InvalidArgument("room of " + named + " is " + std::to_string(problem.room_bytes[c]) +
                             " bytes, must be at least 0");
    }
    if (!problem.fitness.row(static_cast<Eigen::Index>(c)).allFinite()) {
      return InvalidArgument("fitness of " + named + " is not finite");
    }
  }
  return Status::Ok();
}

Result<ExpertLists> AlignWith(const AlignmentProblem& problem, const AlignmentOptions& options,
                              AlignmentMemory& memory, AlignmentPlan& plan) {
  switch (options.strategy) {
    case AlignmentStrategy::kNone:
      return ExpertLists(problem.clients.size());
    case AlignmentStrategy::kFull:
      return AlignFull(problem);
    case AlignmentStrategy::kRandom:
      return AlignRandom(problem);
    case AlignmentStrategy::kStatic:
      return AlignStatic(problem, memory);
    case AlignmentStrategy::kRoundRobin:
      return AlignRoundRobin(problem);
    case AlignmentStrategy::kGreedy:
      return AlignGreedy(problem);
    case AlignmentStrategy::kLoadOnly:
      return AlignLoadOnly(problem);
    case AlignmentStrategy::kBalanced:
      return AlignBalanced(problem, options, memory, plan);
  }
  return InvalidArgument("unknown alignment strategy " +
                         std::to_string(static_cast<int>(options.strategy)));
}

// Balanced plans have two reasons, found pair by pair; every other strategy has one for all.
AssignmentReason ReasonOf(AlignmentStrategy strategy) {
  switch (strategy) {
    case AlignmentStrategy::kFull:
      return AssignmentReason::kFull;
    case AlignmentStrategy::kRandom:
      return AssignmentReason::kRandom;
    case AlignmentStrategy::kStatic:
      return AssignmentReason::kPinned;
    case AlignmentStrategy::kRoundRobin:
      return AssignmentReason::kRotation;
    case AlignmentStrategy::kLoadOnly:
      return AssignmentReason::kLoad;
    case AlignmentStrategy::kNone:
    case AlignmentStrategy::kGreedy:
    case AlignmentStrategy::kBalanced:
      break;
  }
  return AssignmentReason::kFitness;
}

void AddAssignments(const AlignmentProblem& problem, const ExpertLists& lists,
                    const AlignmentOptions& options, AlignmentPlan& plan) {
  const AssignmentReason shared = ReasonOf(plan.strategy);
  const bool balanced = plan.strategy == AlignmentStrategy::kBalanced;
  std::vector<std::size_t> first(lists.size() + 1, 0);
  for (std::size_t c = 0; c < lists.size(); ++c) first[c + 1] = first[c] + lists[c].size();
  plan.assignments.resize(first.back());
  const int parts = std::clamp(static_cast<int>(lists.size()) / 256, 1, 64);
  RunParts(options.parallel, parts, [&](int part) {
    const auto begin =
        lists.size() * static_cast<std::size_t>(part) / static_cast<std::size_t>(parts);
    const auto end =
        lists.size() * (static_cast<std::size_t>(part) + 1) / static_cast<std::size_t>(parts);
    for (std::size_t c = begin; c < end; ++c) {
      const int client = static_cast<int>(c);
      std::size_t at = first[c];
      for (const ExpertIndex expert : lists[c]) {
        const bool moved =
            balanced && !IsAmongFittest(problem, client, expert, static_cast<int>(lists[c].size()));
        plan.assignments[at++] = {client, expert, problem.fitness(client, expert),
                                  moved ? AssignmentReason::kBalance : shared};
      }
    }
  });
}

// Everything but the figures over the whole plan.
Result<AlignmentPlan> AlignLayer(const AlignmentProblem& problem, const AlignmentOptions& options,
                                 AlignmentMemory& memory) {
  AlignmentPlan plan;
  plan.strategy = options.strategy;
  FEDMOE_ASSIGN_OR_RETURN(const ExpertLists lists, AlignWith(problem, options, memory, plan));
  AddAssignments(problem, lists, options, plan);
  if (plan.strategy == AlignmentStrategy::kBalanced) {
    // With weights the solver has it.
    if (IsWeighted(problem)) return plan;
    plan.bound = DualBound(problem, lists, plan.bounds, plan.prices, options.parallel);
  } else {
    plan.bound = DualBound(problem, lists, {}, {}, options.parallel);
  }
  return plan;
}

Result<AlignmentPlan> AlignLayers(const AlignmentProblem& problem, const AlignmentOptions& options,
                                  AlignmentMemory& memory) {
  const bool pinned = options.strategy == AlignmentStrategy::kStatic;
  const std::vector<LayerCapacity> split = SplitCapacity(problem, pinned ? &memory : nullptr);
  std::vector<AlignmentPlan> plans;
  std::vector<AlignmentMemory> memories;
  for (int layer = 0; layer < problem.layers; ++layer) {
    memories.push_back(MemoryOfLayer(problem, memory, layer));
    FEDMOE_ASSIGN_OR_RETURN(AlignmentPlan plan, AlignLayer(ProblemOfLayer(problem, split, layer),
                                                           options, memories.back()));
    plans.push_back(std::move(plan));
  }
  memory = JoinMemories(problem, memories);
  return JoinPlans(problem, plans);
}

void AddFigures(int experts, AlignmentPlan& plan) {
  plan.load.assign(static_cast<std::size_t>(experts), 0);
  for (const Assignment& assignment : plan.assignments) {
    ++plan.load[static_cast<std::size_t>(assignment.expert)];
    plan.objective += assignment.fitness;
  }
  const std::vector<std::int64_t> load(plan.load.begin(), plan.load.end());
  plan.cv = CoefficientOfVariation(std::span<const std::int64_t>(load));
  plan.floor_cv = IntegerFloorCv(static_cast<std::int64_t>(plan.assignments.size()), experts);
  plan.gap =
      plan.bound == 0.0 ? 0.0 : std::max(0.0, plan.bound - plan.objective) / std::abs(plan.bound);
  const auto covered =
      std::count_if(load.begin(), load.end(), [](auto count) { return count > 0; });
  plan.coverage = static_cast<double>(covered) / experts;
}

}  // namespace

Result<AlignmentStrategy> ParseAlignmentStrategy(const std::string& name) {
  std::string known;
  for (const auto& [strategy, text] : kStrategies) {
    if (name == text) return strategy;
    if (!known.empty()) known += ", ";
    known += text;
  }
  return InvalidArgument("unknown alignment strategy '" + name + "', known are " + known);
}

const char* AlignmentStrategyName(AlignmentStrategy strategy) {
  for (const auto& [known, text] : kStrategies) {
    if (known == strategy) return text;
  }
  return "unknown";
}

const char* AlignmentSolverName(AlignmentSolver solver) {
  switch (solver) {
    case AlignmentSolver::kAuto:
      return "auto";
    case AlignmentSolver::kExact:
      return "exact";
    case AlignmentSolver::kPrices:
      return "prices";
  }
  return "unknown";
}

const char* AssignmentReasonName(AssignmentReason reason) {
  switch (reason) {
    case AssignmentReason::kFitness:
      return "fitness";
    case AssignmentReason::kBalance:
      return "balance";
    case AssignmentReason::kRandom:
      return "random";
    case AssignmentReason::kPinned:
      return "pinned";
    case AssignmentReason::kRotation:
      return "rotation";
    case AssignmentReason::kLoad:
      return "load";
    case AssignmentReason::kFull:
      return "full";
    case AssignmentReason::kExplored:
      return "explored";
  }
  return "unknown";
}

std::vector<ExpertIndex> AlignmentPlan::ExpertsOf(int client) const {
  std::vector<ExpertIndex> experts;
  for (auto it = std::partition_point(assignments.begin(), assignments.end(),
                                      [&](const Assignment& a) { return a.client < client; });
       it != assignments.end() && it->client == client; ++it) {
    experts.push_back(it->expert);
  }
  return experts;
}

Result<AlignmentPlan> Align(const AlignmentProblem& problem, const AlignmentOptions& options,
                            AlignmentMemory& memory) {
  FEDMOE_RETURN_IF_ERROR(ValidateProblem(problem));
  FEDMOE_ASSIGN_OR_RETURN(AlignmentPlan plan, problem.layers == 1
                                                  ? AlignLayer(problem, options, memory)
                                                  : AlignLayers(problem, options, memory));
  AddFigures(static_cast<int>(problem.fitness.cols()), plan);
  return plan;
}

}  // namespace fedmoe
