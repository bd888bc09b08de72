#include "federation/fitness_prediction.h"

#include <Eigen/Cholesky>
#include <algorithm>
#include <vector>

namespace fedmoe {
namespace {

// No client's pair counts for more, however often it claims the same.
constexpr double kMaxWeight = 4.0;

// Of one layer.
struct Layer {
  Eigen::Index first = 0;
  Eigen::Index experts = 0;
};

// One linear model an expert.
struct Model {
  Eigen::MatrixXd precision;  // A_e
  Eigen::VectorXd moment;     // b_e
};

// The affinity of one layer, of length 1; without any, that of a client without preference.
Eigen::VectorXd ContextOf(const FitnessTable::Row* row, FitnessSignal signal, const Layer& layer) {
  const Eigen::VectorXd neutral = Eigen::VectorXd::Ones(layer.experts).normalized();
  if (row == nullptr) return neutral;
  const bool own = signal == FitnessSignal::kLoss || signal == FitnessSignal::kAccuracy;
  const Eigen::VectorXd& affinity = own ? row->context : row->value;
  if (affinity.size() == 0) return neutral;
  const Eigen::VectorXd context = affinity.segment(layer.first, layer.experts);
  return context.norm() > 0.0 ? Eigen::VectorXd(context.normalized()) : neutral;
}

// What one client has trained in the layer.
struct Trained {
  std::vector<Eigen::Index> experts;
  std::vector<double> signals;
  double mean = 0.0;
};

Trained TrainedBy(const FitnessTable::Row& row, FitnessSignal signal, const Layer& layer) {
  const bool sum = signal == FitnessSignal::kSum;
  const Eigen::VectorXd& values = sum ? row.second : row.value;
  const std::vector<int>& seen = sum ? row.second_seen : row.seen;
  Trained trained;
  for (Eigen::Index e = 0; e < layer.experts; ++e) {
    if (seen[static_cast<std::size_t>(layer.first + e)] == 0) continue;
    trained.experts.push_back(e);
    trained.signals.push_back(values[layer.first + e]);
    trained.mean += trained.signals.back();
  }
  if (!trained.experts.empty()) trained.mean /= static_cast<double>(trained.experts.size());
  return trained;
}

void Learn(const FitnessTable::Row& row, FitnessSignal signal, const Layer& layer,
           std::vector<Model>& models) {
  const Trained trained = TrainedBy(row, signal, layer);
  const Eigen::VectorXd context = ContextOf(&row, signal, layer);
  for (std::size_t i = 0; i < trained.experts.size(); ++i) {
    const Eigen::Index e = trained.experts[i];
    const double weight = std::min(kMaxWeight, row.trials[layer.first + e]);
    Model& model = models[static_cast<std::size_t>(e)];
    model.precision += weight * context * context.transpose();
    model.moment += weight * (trained.signals[i] - trained.mean) * context;
  }
}

void PredictLayer(const FitnessTable& table, std::span<const ClientId> clients,
                  FitnessSignal signal, const Layer& layer, FitnessPrediction& prediction) {
  std::vector<Model> models(static_cast<std::size_t>(layer.experts),
                            {Eigen::MatrixXd::Identity(layer.experts, layer.experts),
                             Eigen::VectorXd::Zero(layer.experts)});
  for (const auto& [client, row] : table.rows) Learn(row, signal, layer, models);

  const auto count = static_cast<Eigen::Index>(clients.size());
  Eigen::MatrixXd contexts(layer.experts, count);
  Eigen::VectorXd means = Eigen::VectorXd::Constant(count, table.Neutral());
  for (Eigen::Index c = 0; c < count; ++c) {
    const auto found = table.rows.find(clients[static_cast<std::size_t>(c)]);
    const bool known = found != table.rows.end();
    contexts.col(c) = ContextOf(known ? &found->second : nullptr, signal, layer);
    if (!known) continue;
    const Trained trained = TrainedBy(found->second, signal, layer);
    if (!trained.experts.empty()) means[c] = trained.mean;
  }
  for (Eigen::Index e = 0; e < layer.experts; ++e) {
    const Model& model = models[static_cast<std::size_t>(e)];
    const Eigen::LLT<Eigen::MatrixXd> factor(model.precision);
    const Eigen::VectorXd weights = factor.solve(model.moment);
    prediction.value.col(layer.first + e) = means + contexts.transpose() * weights;
    // x . A^-1 x is the squared length of L^-1 x.
    prediction.variance.col(layer.first + e) =
        factor.matrixL().solve(contexts).colwise().squaredNorm().transpose();
  }
}

}  // namespace

FitnessPrediction PredictFitness(const FitnessTable& table, std::span<const ClientId> clients,
                                 FitnessSignal signal) {
  const auto rows = static_cast<Eigen::Index>(clients.size());
  FitnessPrediction prediction{
      .value = Eigen::MatrixXd::Constant(rows, table.experts, table.Neutral()),
      .variance = Eigen::MatrixXd::Ones(rows, table.experts)};
  if (table.experts == 0 || signal == FitnessSignal::kAffinity) return prediction;
  const Eigen::Index experts = table.ExpertsPerLayer();
  for (int layer = 0; layer < table.layers; ++layer) {
    PredictLayer(table, clients, signal, {layer * experts, experts}, prediction);
  }
  return prediction;
}

}  // namespace fedmoe
