#include "federation/alignment_score.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>
#include <utility>

#include "federation/fitness_prediction.h"

namespace fedmoe {
namespace {

// What a client differs from others of its affinity, as a variance beside that of the prediction.
constexpr double kOwnVariance = 0.25;

double Median(std::vector<double> values) {
  if (values.empty()) return 0.0;
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2.0;
}

const FitnessTable::Row* RowOf(const FitnessTable& table, const ClientId& client) {
  const auto found = table.rows.find(client);
  return found == table.rows.end() ? nullptr : &found->second;
}

// The trials of each expert as they count in `round`.
Eigen::VectorXd TrialsOf(const FitnessTable::Row& row, RoundNumber round, double discount) {
  Eigen::VectorXd trials = row.trials;
  for (Eigen::Index e = 0; e < trials.size(); ++e) {
    const auto passed = static_cast<double>(round - row.tried[static_cast<std::size_t>(e)]);
    trials[e] *= std::pow(discount, passed);
  }
  return trials;
}

Eigen::VectorXd Ages(const FitnessTable::Row& row, RoundNumber round) {
  Eigen::VectorXd ages(static_cast<Eigen::Index>(row.tried.size()));
  for (Eigen::Index e = 0; e < ages.size(); ++e) {
    ages[e] = static_cast<double>(round - row.tried[static_cast<std::size_t>(e)]);
  }
  return ages;
}

// sqrt(log(1 + N) / (1 + n)), N summed over each layer.
Eigen::VectorXd ConfidenceWidths(const Eigen::VectorXd& trials, int layers) {
  const Eigen::Index experts = trials.size() / layers;
  Eigen::VectorXd widths(trials.size());
  for (Eigen::Index layer = 0; layer < layers; ++layer) {
    const auto part = trials.segment(layer * experts, experts);
    widths.segment(layer * experts, experts) =
        (std::log1p(part.sum()) / (1.0 + part.array())).sqrt();
  }
  return widths;
}

Eigen::MatrixXd BonusOf(const FitnessTable& table, const ScoreProblem& problem, double discount,
                        const ExplorationOptions& options, const FitnessPrediction& prediction) {
  Eigen::MatrixXd bonus =
      Eigen::MatrixXd::Zero(static_cast<Eigen::Index>(problem.clients.size()), table.experts);
  for (std::size_t c = 0; c < problem.clients.size(); ++c) {
    const FitnessTable::Row* row = RowOf(table, problem.clients[c].client);
    if (row == nullptr) continue;  // nothing is known of any expert: all are alike
    auto into = bonus.row(static_cast<Eigen::Index>(c));
    if (options.strategy == ExplorationStrategy::kAge) {
      into = Ages(*row, problem.round).array().log1p().matrix().transpose();
    } else {
      into = ConfidenceWidths(TrialsOf(*row, problem.round, discount), table.layers).transpose();
    }
  }
  if (options.strategy == ExplorationStrategy::kContextual) {
    bonus.array() *= (prediction.variance.array() + kOwnVariance).sqrt();
  }
  return options.bonus * bonus;
}

// Multiplies each client's bonus in each layer by how much it prefers some experts to others, next
// to half of what the cohort's median client does, 1 at most.
void ScaleByPreference(const Eigen::MatrixXd& fitness, int layers, Eigen::MatrixXd& bonus) {
  const Eigen::Index experts = fitness.cols() / layers;
  for (Eigen::Index layer = 0; layer < layers; ++layer) {
    const auto part = fitness.middleCols(layer * experts, experts);
    const Eigen::VectorXd mean = part.rowwise().mean();
    const Eigen::VectorXd spread = (part.colwise() - mean).rowwise().norm();
    const double enough = Median({spread.begin(), spread.end()}) / 2.0;
    if (enough <= 0.0) continue;  // hardly anybody has preferences yet
    bonus.middleCols(layer * experts, experts).array().colwise() *=
        (spread.array() / enough).min(1.0);
  }
}

// The loss or accuracy part moves towards the prediction, the less the more the pair was trained.
void Blend(const FitnessTable& table, const ScoreProblem& problem, const FitnessOptions& options,
           const FitnessPrediction& prediction, Eigen::MatrixXd& fitness) {
  if (options.signal == FitnessSignal::kAffinity) return;
  for (std::size_t client = 0; client < problem.clients.size(); ++client) {
    const auto c = static_cast<Eigen::Index>(client);
    const FitnessTable::Row* row = RowOf(table, problem.clients[client].client);
    if (row == nullptr) {
      fitness.row(c) = prediction.value.row(c);
      continue;
    }
    FitnessParts parts = PartsOf(table, *row, options);
    const Eigen::VectorXd trials = TrialsOf(*row, problem.round, options.trial_discount);
    const bool sum = options.signal == FitnessSignal::kSum;
    const std::vector<int>& seen = sum ? row->second_seen : row->seen;
    for (Eigen::Index e = 0; e < fitness.cols(); ++e) {
      const bool trained = seen[static_cast<std::size_t>(e)] > 0;
      const double share = trained ? 1.0 / (1.0 + trials[e]) : 1.0;
      parts.trained[e] += share * (prediction.value(c, e) - parts.trained[e]);
    }
    fitness.row(c) = parts.Sum().transpose();
  }
}

// T: what a download is measured against, seconds; 0 where nothing is known.
double ReferenceSeconds(const ScoreProblem& problem) {
  if (problem.deadline_ms > 0) return static_cast<double>(problem.deadline_ms) / 1000.0;
  std::vector<double> rounds;
  for (const ScoreClient& client : problem.clients) {
    if (client.round_s > 0.0) rounds.push_back(client.round_s);
  }
  return Median(std::move(rounds));
}

Eigen::MatrixXd MovementOf(const ScoreProblem& problem, const MovementOptions& options) {
  const auto experts = static_cast<Eigen::Index>(problem.expert_bytes.size());
  const Eigen::Map<const Eigen::RowVectorXd> bytes(problem.expert_bytes.data(), experts);
  const double reference_s = ReferenceSeconds(problem);
  Eigen::MatrixXd cost =
      Eigen::MatrixXd::Zero(static_cast<Eigen::Index>(problem.clients.size()), experts);
  for (std::size_t c = 0; c < problem.clients.size(); ++c) {
    const ScoreClient& client = problem.clients[c];
    auto into = cost.row(static_cast<Eigen::Index>(c));
    if (options.cost == MovementCost::kBytes) {
      into = bytes / bytes.mean();
    } else if (client.down_bytes_per_s > 0.0 && reference_s > 0.0) {
      into = (bytes / client.down_bytes_per_s / reference_s).cwiseMin(1.0);
    }
    for (const ExpertIndex expert : client.held) into[expert] = 0.0;
  }
  return options.weight * cost;
}

// The n-th greatest.
double NthGreatest(std::vector<double> values, int n) {
  const auto nth = values.begin() + (n - 1);
  std::nth_element(values.begin(), nth, values.end(), std::greater<>());
  return *nth;
}

}  // namespace

Eigen::MatrixXd ScoreMatrix::Total() const {
  Eigen::MatrixXd total = fitness;
  if (bonus.size() > 0) total += bonus;
  if (movement.size() > 0) total -= movement;
  return total;
}

ScoreMatrix BuildScore(const FitnessTable& table, const ScoreProblem& problem,
                       const FitnessOptions& fitness, const ScoreOptions& options) {
  std::vector<ClientId> clients;
  for (const ScoreClient& client : problem.clients) clients.push_back(client.client);
  ScoreMatrix score{.fitness = FitnessOf(table, clients, fitness), .bonus = {}, .movement = {}};
  if (table.experts == 0 || clients.empty()) return score;
  const ExplorationOptions& exploration = options.exploration;
  FitnessPrediction prediction;
  if (exploration.strategy == ExplorationStrategy::kContextual) {
    prediction = PredictFitness(table, clients, fitness.signal);
    Blend(table, problem, fitness, prediction, score.fitness);
  }
  if (exploration.strategy != ExplorationStrategy::kNone && exploration.bonus > 0.0) {
    score.bonus = BonusOf(table, problem, fitness.trial_discount, exploration, prediction);
    if (fitness.claims == FitnessClaims::kBounded) {
      ScaleByPreference(score.fitness, table.layers, score.bonus);
    }
  }
  if (options.movement.weight > 0.0) score.movement = MovementOf(problem, options.movement);
  return score;
}

void ExplainPlan(const ScoreMatrix& score, int layers, AlignmentPlan& plan) {
  const Eigen::Index experts = layers > 0 ? score.fitness.cols() / layers : 0;
  std::map<std::pair<int, Eigen::Index>, int> given;  // by client and layer
  for (Assignment& assignment : plan.assignments) {
    assignment.fitness = score.fitness(assignment.client, assignment.expert);
    ++given[{assignment.client, assignment.expert / experts}];
  }
  if (score.bonus.size() == 0) return;
  const Eigen::MatrixXd known = score.Total() - score.bonus;
  for (Assignment& assignment : plan.assignments) {
    if (assignment.reason != AssignmentReason::kFitness) continue;
    const Eigen::Index layer = assignment.expert / experts;
    const Eigen::RowVectorXd part = known.row(assignment.client).segment(layer * experts, experts);
    const double least =
        NthGreatest({part.data(), part.data() + part.size()}, given.at({assignment.client, layer}));
    if (part[assignment.expert - layer * experts] < least) {
      assignment.reason = AssignmentReason::kExplored;
    }
  }
}

}  // namespace fedmoe
