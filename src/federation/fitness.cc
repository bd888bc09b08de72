#include "federation/fitness.h"

#include <algorithm>
#include <cmath>

namespace fedmoe {
namespace {

// F <- (1 - beta) F + beta s, but the first signal of a pair replaces the neutral value.
void Average(double& value, int& seen, double signal, double beta) {
  value = seen == 0 ? signal : (1.0 - beta) * value + beta * signal;
  ++seen;
}

FitnessTable::Row& RowOf(FitnessTable& table, const ClientId& client, RoundNumber round,
                         FitnessSignal signal) {
  FitnessTable::Row& row = table.rows[client];
  if (!row.seen.empty()) return row;
  const auto experts = static_cast<std::size_t>(table.experts);
  const Eigen::VectorXd neutral = Eigen::VectorXd::Constant(table.experts, table.Neutral());
  row.value = neutral;
  row.seen.assign(experts, 0);
  if (signal == FitnessSignal::kSum) {
    row.second = neutral;
    row.second_seen.assign(experts, 0);
  }
  row.tried.assign(experts, round - 1);
  row.trials = Eigen::VectorXd::Zero(table.experts);
  return row;
}

void RecordTrials(FitnessTable::Row& row, const MergedTraining& training, double discount) {
  for (const ExpertIndex expert : training.experts) {
    RoundNumber& tried = row.tried[static_cast<std::size_t>(expert)];
    const auto passed = static_cast<double>(training.round - tried);
    row.trials[expert] = row.trials[expert] * std::pow(discount, passed) + 1.0;
    tried = training.round;
  }
}

void AverageAffinity(Eigen::VectorXd& value, std::vector<int>& seen,
                     const TrainingFeedback& feedback, double beta) {
  for (std::size_t e = 0; e < feedback.affinity.size(); ++e) {
    Average(value[static_cast<Eigen::Index>(e)], seen[e], feedback.affinity[e], beta);
  }
}

// Affinity comes whole or not at all, so that one look tells whether it is the first.
void AverageContext(Eigen::VectorXd& context, const TrainingFeedback& feedback, double beta) {
  if (feedback.affinity.empty()) return;
  const Eigen::Map<const Eigen::VectorXd> signal(
      feedback.affinity.data(), static_cast<Eigen::Index>(feedback.affinity.size()));
  if (context.size() == 0) {
    context = signal;
  } else {
    context = (1.0 - beta) * context + beta * signal;
  }
}

// FLEX-MoE, arXiv 2512.23070: pairs that were not trained keep their value.
void AverageLoss(Eigen::VectorXd& value, std::vector<int>& seen, const TrainingFeedback& feedback,
                 const FitnessOptions& options) {
  for (std::size_t e = 0; e < feedback.tokens.size(); ++e) {
    if (feedback.tokens[e] <= 0.0) continue;
    Average(value[static_cast<Eigen::Index>(e)], seen[e],
            std::exp(-options.alpha * feedback.expert_loss[e]), options.beta);
  }
}

void AverageAccuracy(Eigen::VectorXd& value, std::vector<int>& seen,
                     const TrainingFeedback& feedback, double beta) {
  for (std::size_t e = 0; e < feedback.tokens.size(); ++e) {
    if (feedback.tokens[e] <= 0.0) continue;
    Average(value[static_cast<Eigen::Index>(e)], seen[e], feedback.expert_accuracy[e], beta);
  }
}

double LayerInformation(const FitnessTable& table, int first, int experts) {
  std::vector<Eigen::VectorXd> conditional;  // p(expert | client)
  Eigen::VectorXd marginal = Eigen::VectorXd::Zero(experts);
  for (const auto& [client, row] : table.rows) {
    Eigen::VectorXd values = row.value.segment(first, experts);
    if (row.second.size() > 0) values += row.second.segment(first, experts);
    const double sum = values.sum();
    if (sum <= 0.0) continue;  // no preference to speak of
    conditional.push_back(values / sum);
    marginal += conditional.back();
  }
  if (conditional.empty()) return 0.0;
  marginal /= static_cast<double>(conditional.size());
  double information = 0.0;
  for (const Eigen::VectorXd& row : conditional) {
    for (Eigen::Index e = 0; e < row.size(); ++e) {
      if (row[e] > 0.0) information += row[e] * std::log(row[e] / marginal[e]);
    }
  }
  // Never below 0 but for rounding.
  return std::max(0.0, information / static_cast<double>(conditional.size()));
}

// In place: each layer sums to 1, or is neutral where nothing was claimed.
void ToShares(const FitnessTable& table, Eigen::VectorXd& values) {
  const int experts = table.ExpertsPerLayer();
  for (int layer = 0; layer < table.layers; ++layer) {
    auto part = values.segment(static_cast<Eigen::Index>(layer) * experts, experts);
    const double sum = part.sum();
    if (sum > 0.0) {
      part /= sum;
    } else {
      part.setConstant(table.Neutral());
    }
  }
}

// In place: what has no signal reads as the mean of what has, in its layer.
void FillUnseen(const FitnessTable& table, const std::vector<int>& seen, Eigen::VectorXd& values) {
  const int experts = table.ExpertsPerLayer();
  for (int first = 0; first < table.experts; first += experts) {
    double sum = 0.0;
    int count = 0;
    for (int e = first; e < first + experts; ++e) {
      if (seen[static_cast<std::size_t>(e)] == 0) continue;
      sum += values[e];
      ++count;
    }
    if (count == 0) continue;
    for (int e = first; e < first + experts; ++e) {
      if (seen[static_cast<std::size_t>(e)] == 0) values[e] = sum / count;
    }
  }
}

}  // namespace

double FitnessTable::At(const ClientId& client, ExpertIndex expert) const {
  const auto found = rows.find(client);
  if (found == rows.end()) return Neutral();
  const Row& row = found->second;
  return row.value[expert] + (row.second.size() > 0 ? row.second[expert] : 0.0);
}

Eigen::MatrixXd FitnessTable::Matrix(std::span<const ClientId> clients) const {
  Eigen::MatrixXd matrix(static_cast<Eigen::Index>(clients.size()), experts);
  for (std::size_t c = 0; c < clients.size(); ++c) {
    const auto found = rows.find(clients[c]);
    auto into = matrix.row(static_cast<Eigen::Index>(c));
    if (found == rows.end()) {
      into.setConstant(Neutral());
      continue;
    }
    into = found->second.value.transpose();
    if (found->second.second.size() > 0) into += found->second.second.transpose();
  }
  return matrix;
}

void UpdateFitness(FitnessTable& table, const ClientId& client, const MergedTraining& training,
                   const FitnessOptions& options) {
  if (table.experts == 0) return;
  const TrainingFeedback& feedback = training.feedback;
  FitnessTable::Row& row = RowOf(table, client, training.round, options.signal);
  RecordTrials(row, training, options.trial_discount);
  switch (options.signal) {
    case FitnessSignal::kAffinity:
      AverageAffinity(row.value, row.seen, feedback, options.beta);
      break;
    case FitnessSignal::kLoss:
      AverageLoss(row.value, row.seen, feedback, options);
      AverageContext(row.context, feedback, options.beta);
      break;
    case FitnessSignal::kAccuracy:
      AverageAccuracy(row.value, row.seen, feedback, options.beta);
      AverageContext(row.context, feedback, options.beta);
      break;
    case FitnessSignal::kSum:
      AverageAffinity(row.value, row.seen, feedback, options.beta);
      AverageLoss(row.second, row.second_seen, feedback, options);
      break;
  }
}

Eigen::VectorXd FitnessParts::Sum() const {
  if (affinity.size() == 0) return trained;
  if (trained.size() == 0) return affinity;
  return affinity + trained;
}

FitnessParts PartsOf(const FitnessTable& table, const FitnessTable::Row& row,
                     const FitnessOptions& options) {
  const bool bounded = options.claims == FitnessClaims::kBounded;
  FitnessParts parts;
  if (options.signal == FitnessSignal::kAffinity || options.signal == FitnessSignal::kSum) {
    parts.affinity = row.value;
    if (bounded) ToShares(table, parts.affinity);
  }
  if (options.signal != FitnessSignal::kAffinity) {
    const bool sum = options.signal == FitnessSignal::kSum;
    parts.trained = sum ? row.second : row.value;
    if (bounded) FillUnseen(table, sum ? row.second_seen : row.seen, parts.trained);
  }
  return parts;
}

Eigen::MatrixXd FitnessOf(const FitnessTable& table, std::span<const ClientId> clients,
                          const FitnessOptions& options) {
  Eigen::MatrixXd fitness(static_cast<Eigen::Index>(clients.size()), table.experts);
  if (table.experts == 0) return fitness;
  for (std::size_t c = 0; c < clients.size(); ++c) {
    const auto found = table.rows.find(clients[c]);
    auto into = fitness.row(static_cast<Eigen::Index>(c));
    if (found == table.rows.end()) {
      into.setConstant(table.Neutral());
    } else {
      into = PartsOf(table, found->second, options).Sum().transpose();
    }
  }
  return fitness;
}

double ClientExpertInformation(const FitnessTable& table) {
  if (table.experts == 0) return 0.0;
  const int per_layer = table.experts / table.layers;
  double information = 0.0;
  for (int layer = 0; layer < table.layers; ++layer) {
    information += LayerInformation(table, layer * per_layer, per_layer);
  }
  return information / table.layers;
}

}  // namespace fedmoe
