// Expert-wise aggregation: whose delta counts how much in which block, and the server optimiser
// that applies the mean.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "federation/update.h"

namespace fedmoe {

enum class ServerOptimizer {
  kFedAvg,
  kFedAvgM,
  kFedAdam,
  kFedYogi
};  // Reddi et al., arXiv 2003.00295
enum class ExpertWeighting { kTokens, kExamples, kUniform };

// How a client's share depends on how often it takes part.
enum class ParticipationWeighting {
  kPlain,  // "plain": not at all, so that clients that are seldom there count less over time
  kFedAU,  // "fedau": times the mean of its past participation gaps, in the trunk and each expert
};

// What the updates of a block, or of a shard, make together. But for the first, these keep a few
// bad updates from steering the model (kernels/robust_rules.h), and look at no weight that a client
// could claim, kClip apart.
enum class AggregationRule {
  kMean,         // "mean": weighted
  kMedian,       // "median": of each element, over the updates that count in it
  kTrimmedMean,  // "trimmed_mean": of each element, without the `trim` smallest and greatest
  kKrum,         // "krum": the update that is nearest to its neighbours, shard by shard
  kMultiKrum,    // "multi_krum": the mean of all but the `hostile` farthest ones
  kClip,         // "clip": the weighted mean, no update of a shard longer than `clip_norm`
};

struct AggregationOptions {
  ServerOptimizer optimizer = ServerOptimizer::kFedAvg;
  AggregationRule rule = AggregationRule::kMean;
  double trim = 0.1;       // trimmed_mean: share of the updates on each side; below 0.5
  double hostile = 0.2;    // krum, multi_krum: share of the updates that may be; below 0.5
  double clip_norm = 0.0;  // clip: L2, over a shard; 0: the median of the updates' norms
  double learning_rate = 1.0;
  double momentum = 0.9;  // FedAvgM; FedAdam and FedYogi: beta_1
  double beta2 = 0.99;
  double tau = 1e-3;  // adaptivity
  ExpertWeighting expert_weighting = ExpertWeighting::kTokens;
  ParticipationWeighting participation = ParticipationWeighting::kPlain;
  int gap_cutoff = 50;  // fedau: rounds after which a gap is counted as ended; at least 1
  // How far the experts trained in a round move towards their mean in it: 0 not at all, 1 all the
  // way.
  double consensus = 0.0;
  // Mutual information of clients and experts, nats, from which on there is no consensus; below it
  // the less the more. 0: consensus always.
  double consensus_information = 0.0;
};
// consensus * max(0, 1 - information / consensus_information): where the gate tells clients apart,
// experts are to differ.
double ConsensusShare(const AggregationOptions& options, double information);
// Of `updates`: how many values are cut off on each side; fewer than half.
int TrimCount(const AggregationOptions& options, int updates);
// Of `updates`, at least 3: how many may be hostile, so few that Krum is left with enough others.
int HostileCount(const AggregationOptions& options, int updates);
// Moments a block needs: 0, 1 (FedAvgM) or 2 (FedAdam, FedYogi) arrays of its size.
int MomentCount(ServerOptimizer optimizer);

// One accepted update.
struct AcceptedUpdate {
  TaskId task = 0;
  ClientId client;
  std::vector<ExpertIndex> experts;  // assigned
  TrainingFeedback feedback;
  // Factors of its weights: in the trunk, and in each expert (empty: 1).
  double trunk_factor = 1.0;
  std::vector<double> expert_factors = {};
};

// The weights of one block: `weights[i]` belongs to update i of the plan; for kRowsByTokens
// `row_weights[row][i]` and weights is empty. Weights are normalised to sum 1 over the updates that
// count, 0 for the others. An empty block plan (all zero) means: the block keeps its value, moments
// and step count (law 4).
struct BlockPlan {
  int parameter = 0;
  std::vector<double> weights;
  std::vector<std::vector<double>> row_weights;
  bool changes() const;
};

// Experts of one layer, alike in shape, that move towards their mean: each merged value w becomes
// (1 - share) w + share * sum over the group of weight * merged value.
struct ConsensusGroup {
  std::vector<int> shards;      // ascending, each changed in this round, at least two
  std::vector<double> weights;  // their shares of the tokens trained in this round; sum 1
};

struct AggregationPlan {
  std::vector<TaskId> updates;      // in client order
  std::vector<BlockPlan> blocks;    // one for each block in a shard, in block order
  std::vector<int> changed_shards;  // ascending
  double consensus_share = 0.0;
  std::vector<ConsensusGroup> consensus;  // none where the share is 0
};

// `accepted` in any order; sorted by client id (then task) inside. `information`: see
// ConsensusShare.
AggregationPlan PlanAggregation(const ModelSpec& spec, std::vector<AcceptedUpdate> accepted,
                                const AggregationOptions& options, double information = 0.0);

}  // namespace fedmoe
