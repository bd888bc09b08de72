// Client-expert fitness: how well each expert suits each client's data, learned from training
// feedback.
#pragma once

#include <Eigen/Core>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "common/ids.h"
#include "federation/feedback.h"

namespace fedmoe {

enum class FitnessSignal {
  kAffinity,  // "affinity": s = mean gate probability before masking, for every expert
  kLoss,      // "loss": s = exp(-alpha * loss_e) for trained experts (FLEX-MoE, arXiv 2512.23070)
  kAccuracy,  // "accuracy": s = acc_e for trained experts (FLEX-MoE)
  kSum,       // "sum": affinity plus loss, each kept as its own moving average
};

// What alignment makes of the table, whose signals are claims of clients.
enum class FitnessClaims {
  kRaw,      // "raw": the table as it is; pairs without a signal are neutral (FLEX-MoE)
  kBounded,  // "bounded": see FitnessParts
};

struct FitnessOptions {
  FitnessSignal signal = FitnessSignal::kAffinity;
  double beta = 0.5;            // F <- (1 - beta) F + beta s; (0, 1]
  double alpha = 1.0;           // loss: temperature, above 0
  double trial_discount = 1.0;  // what a trial still counts for a round later; (0, 1]
  FitnessClaims claims = FitnessClaims::kBounded;
};

// F[c, e]. Rows exist for clients that have ever reported; others read as the neutral value.
// The first signal of a pair replaces the neutral value instead of being averaged with it.
struct FitnessTable {
  struct Row {
    Eigen::VectorXd value;         // affinity, loss or accuracy average
    Eigen::VectorXd second;        // kSum: the loss average; else empty
    std::vector<int> seen;         // per expert: signals so far
    std::vector<int> second_seen;  // kSum
    // kLoss and kAccuracy: the affinity average, which says what the client's data is like; else
    // empty, for `value` is it.
    Eigen::VectorXd context;
    // The round that last merged the client's training of the expert; for one never tried, the
    // round before the client's first.
    std::vector<RoundNumber> tried;
    // Rounds in which the client had the expert, each weighted by trial_discount^(rounds since), as
    // of `tried`.
    Eigen::VectorXd trials;
  };
  int experts = 0;
  int layers = 1;  // MoE layers; each has experts / layers of the experts, one after another
  std::map<ClientId, Row> rows;

  // 1 / the experts of a layer: what a gate without preference gives.
  double Neutral() const { return static_cast<double>(layers) / experts; }
  int ExpertsPerLayer() const { return layers > 0 ? experts / layers : 0; }
  double At(const ClientId& client, ExpertIndex expert) const;
  // clients x experts, in the order given.
  Eigen::MatrixXd Matrix(std::span<const ClientId> clients) const;
};

// One merged update, as fitness sees it.
struct MergedTraining {
  const TrainingFeedback& feedback;
  std::span<const ExpertIndex> experts;  // that the task held: tried, whether or not tokens came
  RoundNumber round = 1;                 // that merged it; does not fall from call to call
};

void UpdateFitness(FitnessTable& table, const ClientId& client, const MergedTraining& training,
                   const FitnessOptions& options);

// A row as alignment is to use it: the sum of its parts, each by expert, or empty where the signal
// has no such part. Under kRaw as it is in the table. Under kBounded, layer by layer:
//   - affinity is divided by the layer's sum: a claim on one expert is paid for with the others;
//   - loss and accuracy of an expert that the client has not trained read as the mean of those that
//     it has: who claims the best of all that it gets has no preference at all, and a constant
//     added to a row does not change a plan in which each client gets its k_c experts.
struct FitnessParts {
  Eigen::VectorXd affinity;  // kAffinity, kSum
  Eigen::VectorXd trained;   // kLoss, kAccuracy, kSum

  Eigen::VectorXd Sum() const;
};
FitnessParts PartsOf(const FitnessTable& table, const FitnessTable::Row& row,
                     const FitnessOptions& options);

// clients x experts: the sums of the parts; neutral for clients without a row.
Eigen::MatrixXd FitnessOf(const FitnessTable& table, std::span<const ClientId> clients,
                          const FitnessOptions& options);

// Mutual information between clients and the experts of a layer in nats, the rows taken as
// p(expert | client) with equal clients, averaged over the layers: about 0.4 on true domains, 0.01
// where clients differ in labels only. 0 for an empty table.
double ClientExpertInformation(const FitnessTable& table);

}  // namespace fedmoe
