#include "storage/alignment_replay.h"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <iterator>
#include <map>
#include <set>
#include <span>
#include <string>
#include <utility>

namespace fedmoe {
namespace {

using Experts = std::vector<ExpertIndex>;

// What each client held: in the replay, and as the run's own outcomes would have it.
struct Holdings {
  std::map<ClientId, Experts> replayed;
  std::map<ClientId, Experts> recorded;
};

std::vector<double> ExpertBytes(const ModelSpec& spec, const DownloadOptions& download) {
  std::vector<double> bytes;
  for (ExpertIndex expert = 0; expert < spec.experts; ++expert) {
    bytes.push_back(static_cast<double>(DownloadBytes(spec, ShardOfExpert(expert), download)));
  }
  return bytes;
}

Experts Held(const std::map<ClientId, Experts>& holdings, const ClientId& client) {
  const auto found = holdings.find(client);
  return found == holdings.end() ? Experts{} : found->second;
}

// By client of the round. A client whose recorded experts are not those of its last accepted update
// came back without them, as a new instance; then it has none of the replay's either.
std::vector<Experts> HeldInReplay(const RecordedRound& round, Holdings& holdings) {
  std::vector<Experts> held;
  for (const RecordedClient& client : round.clients) {
    if (client.held != Held(holdings.recorded, client.client)) {
      holdings.recorded[client.client] = client.held;
      holdings.replayed[client.client] = client.held;
    }
    held.push_back(Held(holdings.replayed, client.client));
  }
  return held;
}

// The recorded fitness and bonus, and what moving costs from what clients hold in the replay.
ScoreMatrix ReplayedScore(const RecordedRound& round, const std::vector<Experts>& held,
                          const std::vector<double>& expert_bytes, const RunOptions& options) {
  const int experts = options.spec.experts;
  ScoreMatrix score = RecordedScore(round, experts);
  ScoreProblem problem;
  problem.expert_bytes = expert_bytes;
  problem.deadline_ms = options.participation.deadline_ms;
  problem.round = round.round;
  for (std::size_t c = 0; c < round.clients.size(); ++c) {
    const RecordedClient& client = round.clients[c];
    problem.clients.push_back(ScoreClient{.client = client.client,
                                          .held = held[c],
                                          .down_bytes_per_s = client.profile.down_bytes_per_s,
                                          .round_s = client.round_s});
  }
  const FitnessTable empty{.experts = experts, .layers = options.spec.layers, .rows = {}};
  score.movement =
      BuildScore(empty, problem, options.fitness, {.movement = options.score.movement}).movement;
  return score;
}

// The clients whose update the run accepted and that have the expert, by expert.
std::vector<std::vector<int>> AcceptedClients(const RecordedRound& round, const AlignmentPlan& plan,
                                              int experts) {
  std::vector<std::vector<int>> accepted(static_cast<std::size_t>(experts));
  for (const Assignment& assignment : plan.assignments) {
    if (round.clients[static_cast<std::size_t>(assignment.client)].outcome != "accepted") continue;
    accepted[static_cast<std::size_t>(assignment.expert)].push_back(assignment.client);
  }
  return accepted;
}

void RecordReplayed(const RecordedRound& round, const AlignmentProblem& problem,
                    const AlignmentPlan& plan, const RunOptions& options, ExpertLoad& load) {
  const int experts = options.spec.experts;
  const auto would = AcceptedClients(round, plan, experts);
  const auto did = AcceptedClients(round, round.plan, experts);
  std::vector<std::int64_t> assignments;
  std::vector<double> tokens;
  for (std::size_t e = 0; e < would.size(); ++e) {
    assignments.push_back(would[e] == did[e] ? round.load.round_assignments[e]
                                             : static_cast<std::int64_t>(would[e].size()));
  }
  const auto per_layer = static_cast<std::size_t>(options.spec.ExpertsPerLayer());
  for (std::size_t first = 0; first < would.size(); first += per_layer) {
    // Recorded and predicted tokens are not in one unit: a layer has the ones or the others.
    const bool same = std::equal(would.begin() + static_cast<std::ptrdiff_t>(first),
                                 would.begin() + static_cast<std::ptrdiff_t>(first + per_layer),
                                 did.begin() + static_cast<std::ptrdiff_t>(first));
    for (std::size_t e = first; e < first + per_layer; ++e) {
      double predicted = 0.0;
      for (const int client : would[e]) {
        predicted +=
            problem.weight.empty() ? 1.0 : problem.weight[static_cast<std::size_t>(client)];
      }
      tokens.push_back(same ? round.load.round_tokens[e] : predicted);
    }
  }
  RecordRound(load, assignments, tokens, options.alignment.load, options.spec.layers);
}

// The sum of the greatest scores of every client, as many in each layer as it has there.
double GreatestScore(const ScoreMatrix& score, const AlignmentPlan& plan, int layers) {
  const Eigen::MatrixXd total = score.Total();
  const Eigen::Index experts = total.cols() / layers;
  std::map<std::pair<int, Eigen::Index>, int> given;
  for (const Assignment& assignment : plan.assignments) {
    ++given[{assignment.client, assignment.expert / experts}];
  }
  double sum = 0.0;
  for (const auto& [place, count] : given) {
    const Eigen::RowVectorXd part = total.row(place.first).segment(place.second * experts, experts);
    std::vector<double> values(part.begin(), part.end());
    std::sort(values.begin(), values.end(), std::greater<>());
    for (int i = 0; i < count; ++i) sum += values[static_cast<std::size_t>(i)];
  }
  return sum;
}

ReplayFigures FiguresOf(const AlignmentPlan& plan, const ScoreMatrix& score, const ExpertLoad& load,
                        const std::vector<Experts>& held, const std::vector<double>& expert_bytes,
                        int layers) {
  ReplayFigures figures;
  figures.rounds = 1;
  figures.assignments = static_cast<std::int64_t>(plan.assignments.size());
  figures.objective = plan.objective;
  figures.bound = plan.bound;
  figures.greatest = GreatestScore(score, plan, layers);
  figures.cumulative_cv = CoefficientOfVariation(load.assignments);
  figures.coverage = plan.coverage;
  figures.relaxed = plan.relaxed;
  for (std::size_t c = 0; c < held.size(); ++c) {
    const Experts experts = plan.ExpertsOf(static_cast<int>(c));
    figures.keepable += static_cast<std::int64_t>(std::min(held[c].size(), experts.size()));
  }
  for (const Assignment& assignment : plan.assignments) {
    figures.fitness += assignment.fitness;
    const Experts& before = held[static_cast<std::size_t>(assignment.client)];
    if (std::find(before.begin(), before.end(), assignment.expert) != before.end()) {
      ++figures.kept;
      continue;
    }
    ++figures.moved;
    figures.moved_bytes += expert_bytes[static_cast<std::size_t>(assignment.expert)];
  }
  return figures;
}

void Add(const ReplayFigures& round, ReplayFigures& total) {
  const double before = static_cast<double>(total.rounds);
  total.rounds += round.rounds;
  total.assignments += round.assignments;
  total.objective += round.objective;
  total.fitness += round.fitness;
  total.bound += round.bound;
  total.greatest += round.greatest;
  total.cumulative_cv = round.cumulative_cv;
  total.coverage = (total.coverage * before + round.coverage) / (before + 1.0);
  total.keepable += round.keepable;
  total.kept += round.kept;
  total.moved += round.moved;
  total.moved_bytes += round.moved_bytes;
  total.relaxed = std::max(total.relaxed, round.relaxed);
}

bool SamePlan(const AlignmentPlan& a, const AlignmentPlan& b) {
  return std::equal(a.assignments.begin(), a.assignments.end(), b.assignments.begin(),
                    b.assignments.end(), [](const Assignment& x, const Assignment& y) {
                      return x.client == y.client && x.expert == y.expert;
                    });
}

void RememberHeld(const RecordedRound& round, const AlignmentPlan& plan, Holdings& holdings) {
  for (std::size_t c = 0; c < round.clients.size(); ++c) {
    const RecordedClient& client = round.clients[c];
    if (client.outcome != "accepted") continue;
    holdings.recorded[client.client] = client.experts;
    holdings.replayed[client.client] = plan.ExpertsOf(static_cast<int>(c));
  }
}

Result<AlignmentPlan> AlignRound(const AlignmentProblem& problem, const ScoreMatrix& score,
                                 const RunOptions& options, AlignmentMemory& memory) {
  Result<AlignmentPlan> plan = Align(problem, options.alignment, memory);
  if (!plan.ok()) return plan.status().WithContext("round " + std::to_string(problem.round));
  ExplainPlan(score, problem.layers, *plan);
  return plan;
}

}  // namespace

Result<Replay> ReplayAlignment(const std::vector<RecordedRound>& rounds,
                               const RunOptions& options) {
  const std::vector<double> expert_bytes = ExpertBytes(options.spec, options.training.download);
  const int layers = options.spec.layers;
  Replay replay;
  AlignmentMemory memory;
  Holdings holdings;
  ExpertLoad load = ExpertLoad::Of(options.spec.experts);
  for (const RecordedRound& round : rounds) {
    const std::vector<Experts> held = HeldInReplay(round, holdings);
    const ScoreMatrix score = ReplayedScore(round, held, expert_bytes, options);
    const AlignmentProblem problem = RecordedProblem(round, score, load, options);
    FEDMOE_ASSIGN_OR_RETURN(AlignmentPlan plan, AlignRound(problem, score, options, memory));
    RecordReplayed(round, problem, plan, options, load);
    RememberHeld(round, plan, holdings);
    ReplayedRound& replayed = replay.rounds.emplace_back();
    replayed.round = round.round;
    replayed.clients = static_cast<int>(round.clients.size());
    replayed.would = FiguresOf(plan, score, load, held, expert_bytes, layers);
    std::vector<Experts> recorded_held;
    for (const RecordedClient& client : round.clients) recorded_held.push_back(client.held);
    replayed.did = FiguresOf(round.plan, RecordedScore(round, options.spec.experts), round.load,
                             recorded_held, expert_bytes, layers);
    replayed.same = SamePlan(plan, round.plan);
    replayed.load = load;
    replayed.plan = std::move(plan);
    Add(replayed.would, replay.would);
    Add(replayed.did, replay.did);
  }
  return replay;
}

Result<AlignmentMemory> MemoryBefore(const std::vector<RecordedRound>& rounds, std::size_t index,
                                     const RunOptions& options) {
  AlignmentMemory memory;
  if (options.alignment.strategy == AlignmentStrategy::kStatic) {
    for (std::size_t i = 0; i < index; ++i) {
      const ScoreMatrix score = RecordedScore(rounds[i], options.spec.experts);
      const AlignmentProblem problem =
          RecordedProblem(rounds[i], score, LoadBefore(rounds, i, options.spec.experts), options);
      FEDMOE_RETURN_IF_ERROR(AlignRound(problem, score, options, memory).status());
    }
  }
  if (index > 0) memory.prices = rounds[index - 1].plan.prices;
  return memory;
}

}  // namespace fedmoe
