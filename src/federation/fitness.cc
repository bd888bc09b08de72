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

FitnessTable::Row& RowOf(FitnessTable& table, const ClientId& client, bool with_second) {
  FitnessTable::Row& row = table.rows[client];
  const auto experts = static_cast<std::size_t>(table.experts);
  const double neutral = table.Neutral();
  if (row.seen.empty()) {
    row.value = Eigen::VectorXd::Constant(table.experts, neutral);
    row.seen.assign(experts, 0);
  }
  if (with_second && row.second_seen.empty()) {
    row.second = Eigen::VectorXd::Constant(table.experts, neutral);
    row.second_seen.assign(experts, 0);
  }
  return row;
}

void AverageAffinity(Eigen::VectorXd& value, std::vector<int>& seen,
                     const TrainingFeedback& feedback, double beta) {
  for (std::size_t e = 0; e < feedback.affinity.size(); ++e) {
    Average(value[static_cast<Eigen::Index>(e)], seen[e], feedback.affinity[e], beta);
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
    for (ExpertIndex e = 0; e < experts; ++e) {
      matrix(static_cast<Eigen::Index>(c), e) = At(clients[c], e);
    }
  }
  return matrix;
}

void UpdateFitness(FitnessTable& table, const ClientId& client, const TrainingFeedback& feedback,
                   const FitnessOptions& options) {
  if (table.experts == 0) return;
  FitnessTable::Row& row = RowOf(table, client, options.signal == FitnessSignal::kSum);
  switch (options.signal) {
    case FitnessSignal::kAffinity:
      AverageAffinity(row.value, row.seen, feedback, options.beta);
      break;
    case FitnessSignal::kLoss:
      AverageLoss(row.value, row.seen, feedback, options);
      break;
    case FitnessSignal::kAccuracy:
      AverageAccuracy(row.value, row.seen, feedback, options.beta);
      break;
    case FitnessSignal::kSum:
      AverageAffinity(row.value, row.seen, feedback, options.beta);
      AverageLoss(row.second, row.second_seen, feedback, options);
      break;
  }
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
