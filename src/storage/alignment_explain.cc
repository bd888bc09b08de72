#include "storage/alignment_explain.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "federation/alignment_baselines.h"
#include "federation/alignment_layers.h"
#include "storage/alignment_replay.h"

namespace fedmoe {
namespace {

using Experts = std::vector<ExpertIndex>;

bool Has(const Experts& experts, ExpertIndex expert) {
  return std::binary_search(experts.begin(), experts.end(), expert);
}

// The round with all that its pairs are explained by.
struct Case {
  const RecordedRound& round;
  const RunOptions& options;
  ScoreMatrix score;
  AlignmentProblem problem;
  std::vector<AlignmentProblem> layers;
  AlignmentMemory memory;
  AlignmentPlan plan;            // aligned again, for its reasons
  std::vector<Experts> experts;  // by client, as recorded

  int PerLayer() const { return options.spec.ExpertsPerLayer(); }
  double Weight(int client) const {
    return problem.weight.empty() ? 1.0 : problem.weight[static_cast<std::size_t>(client)];
  }
  double Price(int client, ExpertIndex expert) const {
    if (round.plan.prices.empty()) return 0.0;
    return Weight(client) * round.plan.prices[static_cast<std::size_t>(expert)];
  }
  bool ByScore() const {
    return round.plan.strategy == AlignmentStrategy::kBalanced ||
           round.plan.strategy == AlignmentStrategy::kGreedy;
  }
  bool HasExchanges() const {
    return round.plan.strategy == AlignmentStrategy::kBalanced && problem.weight.empty();
  }
};

Result<Case> OpenCase(const std::vector<RecordedRound>& rounds, std::size_t index,
                      const RunOptions& options) {
  const int experts = options.spec.experts;
  Case opened{.round = rounds[index],
              .options = options,
              .score = {},
              .problem = {},
              .layers = {},
              .memory = {},
              .plan = {},
              .experts = {}};
  opened.score = RecordedScore(rounds[index], experts);
  opened.problem =
      RecordedProblem(rounds[index], opened.score, LoadBefore(rounds, index, experts), options);
  FEDMOE_ASSIGN_OR_RETURN(opened.memory, MemoryBefore(rounds, index, options));
  AlignmentMemory memory = opened.memory;
  FEDMOE_ASSIGN_OR_RETURN(opened.plan, Align(opened.problem, options.alignment, memory));
  ExplainPlan(opened.score, opened.problem.layers, opened.plan);
  const bool pinned = options.alignment.strategy == AlignmentStrategy::kStatic;
  const auto split = SplitCapacity(opened.problem, pinned ? &opened.memory : nullptr);
  for (int layer = 0; layer < opened.problem.layers; ++layer) {
    opened.layers.push_back(ProblemOfLayer(opened.problem, split, layer));
  }
  for (const RecordedClient& client : opened.round.clients) {
    opened.experts.push_back(client.experts);
  }
  return opened;
}

// Score less price of the layer's experts: the least of those that the client has and the best of
// those that it has not.
struct Thresholds {
  std::optional<std::pair<double, ExpertIndex>> least_in;
  std::optional<std::pair<double, ExpertIndex>> best_out;
};

Thresholds ThresholdsOf(const Case& from, int client, int layer) {
  Thresholds thresholds;
  const Experts& has = from.experts[static_cast<std::size_t>(client)];
  for (ExpertIndex e = layer * from.PerLayer(); e < (layer + 1) * from.PerLayer(); ++e) {
    const double reduced = from.problem.fitness(client, e) - from.Price(client, e);
    if (Has(has, e)) {
      if (!thresholds.least_in || reduced < thresholds.least_in->first) {
        thresholds.least_in = {reduced, e};
      }
    } else if (!thresholds.best_out || reduced > thresholds.best_out->first) {
      thresholds.best_out = {reduced, e};
    }
  }
  return thresholds;
}

PairExplanation ExplainPair(const Case& from, int client, ExpertIndex expert,
                            const Thresholds& thresholds) {
  PairExplanation pair;
  pair.expert = expert;
  pair.assigned = Has(from.experts[static_cast<std::size_t>(client)], expert);
  pair.fitness = from.score.fitness(client, expert);
  if (from.score.bonus.size() > 0) pair.bonus = from.score.bonus(client, expert);
  if (from.score.movement.size() > 0) pair.movement = from.score.movement(client, expert);
  pair.score = from.problem.fitness(client, expert);
  pair.price = from.Price(client, expert);
  const int layer = expert / from.PerLayer();
  const Experts order = FittestFirst(from.layers[static_cast<std::size_t>(layer)], client);
  const auto place = std::find(order.begin(), order.end(), expert - layer * from.PerLayer());
  pair.rank = 1 + static_cast<int>(place - order.begin());
  if (from.ByScore() && thresholds.least_in && thresholds.best_out) {
    const auto& [value, rival] = pair.assigned ? *thresholds.best_out : *thresholds.least_in;
    pair.threshold = value;
    pair.rival = rival;
  }
  for (const Assignment& assignment : from.plan.assignments) {
    if (assignment.client == client && assignment.expert == expert) pair.reason = assignment.reason;
  }
  return pair;
}

// More than any chain of exchanges within the layer can win or lose.
double Decisive(const AlignmentProblem& layer) {
  const double range = layer.fitness.maxCoeff() - layer.fitness.minCoeff();
  return range > 0.0 ? static_cast<double>(layer.fitness.cols() + 1) * range : 1.0;
}

Result<Exchange> FindExchange(const Case& from, int client, ExpertIndex expert, bool assigned) {
  AlignmentProblem turned = from.problem;
  const int layer = expert / from.PerLayer();
  const double decisive = Decisive(from.layers[static_cast<std::size_t>(layer)]);
  turned.fitness(client, expert) += assigned ? -decisive : decisive;
  AlignmentMemory memory = from.memory;
  FEDMOE_ASSIGN_OR_RETURN(const AlignmentPlan plan, Align(turned, from.options.alignment, memory));
  Exchange exchange;
  exchange.possible = Has(plan.ExpertsOf(client), expert) != assigned;
  if (!exchange.possible) return exchange;
  for (std::size_t c = 0; c < from.experts.size(); ++c) {
    const Experts& before = from.experts[c];
    const Experts after = plan.ExpertsOf(static_cast<int>(c));
    if (before == after) continue;
    ExchangeStep step{.client = from.problem.clients[c], .gives_up = {}, .takes = {}};
    std::set_difference(before.begin(), before.end(), after.begin(), after.end(),
                        std::back_inserter(step.gives_up));
    std::set_difference(after.begin(), after.end(), before.begin(), before.end(),
                        std::back_inserter(step.takes));
    const auto row = static_cast<Eigen::Index>(c);
    for (const ExpertIndex e : step.gives_up) step.change -= from.problem.fitness(row, e);
    for (const ExpertIndex e : step.takes) step.change += from.problem.fitness(row, e);
    exchange.cost -= step.change;
    exchange.steps.push_back(std::move(step));
  }
  return exchange;
}

std::vector<ExpertExplanation> ExplainExperts(const Case& from) {
  std::vector<ExpertExplanation> experts;
  const AlignmentPlan& plan = from.round.plan;
  const bool by_tokens = !plan.weighted_load.empty();
  for (ExpertIndex expert = 0; expert < from.options.spec.experts; ++expert) {
    const auto e = static_cast<std::size_t>(expert);
    ExpertExplanation& explained = experts.emplace_back();
    explained.expert = expert;
    explained.deficit = from.problem.load.deficit[e];
    explained.assignments = from.problem.load.assignments[e];
    if (!plan.prices.empty()) explained.price = plan.prices[e];
    explained.load = by_tokens ? plan.weighted_load[e] : plan.load[e];
    if (by_tokens && !plan.weighted_bounds.lower.empty()) {
      explained.lower = plan.weighted_bounds.lower[e];
      explained.upper = plan.weighted_bounds.upper[e];
    } else if (!plan.bounds.lower.empty()) {
      explained.lower = plan.bounds.lower[e];
      explained.upper = plan.bounds.upper[e];
    }
  }
  return experts;
}

// The nearest decision about each expert, on either side.
void AddMargins(const Case& from, std::vector<ExpertExplanation>& experts) {
  if (!from.ByScore()) return;
  for (std::size_t c = 0; c < from.experts.size(); ++c) {
    const int client = static_cast<int>(c);
    for (int layer = 0; layer < from.problem.layers; ++layer) {
      const Thresholds thresholds = ThresholdsOf(from, client, layer);
      if (!thresholds.least_in || !thresholds.best_out) continue;
      for (ExpertIndex e = layer * from.PerLayer(); e < (layer + 1) * from.PerLayer(); ++e) {
        const double reduced = from.problem.fitness(client, e) - from.Price(client, e);
        const bool assigned = Has(from.experts[c], e);
        const double margin =
            assigned ? reduced - thresholds.best_out->first : thresholds.least_in->first - reduced;
        ExpertExplanation& explained = experts[static_cast<std::size_t>(e)];
        auto& nearest = assigned ? explained.last_in : explained.first_out;
        if (!nearest || margin < nearest->second) nearest = {from.problem.clients[c], margin};
      }
    }
  }
}

Result<ClientExplanation> ExplainClient(const Case& from, int client,
                                        const ExplainRequest& request) {
  const RecordedClient& recorded = from.round.clients[static_cast<std::size_t>(client)];
  ClientExplanation explained{.client = recorded.client,
                              .capacity = recorded.capacity,
                              .capacity_reason = recorded.capacity_reason,
                              .outcome = recorded.outcome,
                              .weight = from.Weight(client),
                              .held = recorded.held,
                              .experts = recorded.experts,
                              .pairs = {}};
  if (!request.client && !request.expert) return explained;
  for (int layer = 0; layer < from.problem.layers; ++layer) {
    const Thresholds thresholds = ThresholdsOf(from, client, layer);
    for (ExpertIndex e = layer * from.PerLayer(); e < (layer + 1) * from.PerLayer(); ++e) {
      if (request.expert && *request.expert != e) continue;
      PairExplanation pair = ExplainPair(from, client, e, thresholds);
      if (request.client && request.exchanges && from.HasExchanges()) {
        FEDMOE_ASSIGN_OR_RETURN(pair.exchange, FindExchange(from, client, e, pair.assigned));
      }
      explained.pairs.push_back(std::move(pair));
    }
  }
  return explained;
}

Status CheckRequest(const std::vector<RecordedRound>& rounds, const RunOptions& options,
                    const ExplainRequest& request) {
  const auto last = static_cast<RoundNumber>(rounds.size());
  if (request.round < 1 || request.round > last) {
    return NotFound(
        fmt::format("there is no round {}; the run has rounds 1 to {}", request.round, last));
  }
  if (request.expert && (*request.expert < 0 || *request.expert >= options.spec.experts)) {
    return NotFound(fmt::format("there is no expert {}; the model has experts 0 to {}",
                                *request.expert, options.spec.experts - 1));
  }
  if (!request.client) return Status::Ok();
  constexpr std::size_t kNamed = 20;
  std::string names;
  const std::vector<RecordedClient>& clients =
      rounds[static_cast<std::size_t>(request.round - 1)].clients;
  for (std::size_t c = 0; c < clients.size(); ++c) {
    if (clients[c].client == *request.client) return Status::Ok();
    if (c < kNamed) names += (c == 0 ? "" : ", ") + clients[c].client;
    if (c == kNamed) names += ", ...";
  }
  return NotFound(fmt::format("client '{}' was not in round {}; its clients were {}",
                              *request.client, request.round, names));
}

}  // namespace

Result<RoundExplanation> ExplainRound(const std::vector<RecordedRound>& rounds,
                                      const RunOptions& options, const ExplainRequest& request) {
  FEDMOE_RETURN_IF_ERROR(CheckRequest(rounds, options, request));
  const auto index = static_cast<std::size_t>(request.round - 1);
  FEDMOE_ASSIGN_OR_RETURN(const Case opened, OpenCase(rounds, index, options));
  RoundExplanation explanation;
  explanation.round = request.round;
  explanation.layers = options.spec.layers;
  explanation.plan = opened.round.plan;
  explanation.by_tokens = !opened.round.plan.weighted_load.empty();
  explanation.reproduced = true;
  for (std::size_t c = 0; c < opened.experts.size(); ++c) {
    if (opened.plan.ExpertsOf(static_cast<int>(c)) != opened.experts[c]) {
      explanation.reproduced = false;
    }
  }
  explanation.experts = ExplainExperts(opened);
  AddMargins(opened, explanation.experts);
  for (std::size_t c = 0; c < opened.experts.size(); ++c) {
    if (request.client && opened.problem.clients[c] != *request.client) continue;
    FEDMOE_ASSIGN_OR_RETURN(ClientExplanation client,
                            ExplainClient(opened, static_cast<int>(c), request));
    explanation.clients.push_back(std::move(client));
  }
  return explanation;
}

}  // namespace fedmoe
