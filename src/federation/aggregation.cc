#include "federation/aggregation.h"

#include <algorithm>
#include <set>
#include <tuple>

namespace fedmoe {
namespace {

bool Positive(const std::vector<double>& weights) {
  return std::any_of(weights.begin(), weights.end(), [](double weight) { return weight > 0.0; });
}

// Scales to sum 1; all zero stays all zero.
std::vector<double> Normalized(std::vector<double> weights) {
  double sum = 0.0;
  for (const double weight : weights) sum += weight;
  if (sum > 0.0) {
    for (double& weight : weights) weight /= sum;
  }
  return weights;
}

std::vector<double> ExampleWeights(const std::vector<AcceptedUpdate>& updates) {
  std::vector<double> weights;
  for (const AcceptedUpdate& update : updates) {
    weights.push_back(static_cast<double>(update.feedback.examples) * update.trunk_factor);
  }
  return Normalized(std::move(weights));
}

// Of an expert that the client was assigned; others count none.
double TokensOf(const AcceptedUpdate& update, ExpertIndex expert) {
  const bool held =
      std::find(update.experts.begin(), update.experts.end(), expert) != update.experts.end();
  return held ? update.feedback.tokens[static_cast<std::size_t>(expert)] : 0.0;
}

// Over the updates that trained the expert: assigned, with at least one token.
std::vector<double> ExpertWeights(const std::vector<AcceptedUpdate>& updates, ExpertIndex expert,
                                  ExpertWeighting weighting) {
  std::vector<double> weights;
  for (const AcceptedUpdate& update : updates) {
    const double tokens = TokensOf(update, expert);
    double weight = 0.0;
    if (tokens > 0.0) {
      switch (weighting) {
        case ExpertWeighting::kTokens:
          weight = tokens;
          break;
        case ExpertWeighting::kExamples:
          weight = static_cast<double>(update.feedback.examples);
          break;
        case ExpertWeighting::kUniform:
          weight = 1.0;
          break;
      }
    }
    if (!update.expert_factors.empty()) {
      weight *= update.expert_factors[static_cast<std::size_t>(expert)];
    }
    weights.push_back(weight);
  }
  return Normalized(std::move(weights));
}

BlockPlan PlanBlock(const ModelSpec& spec, int index, const std::vector<AcceptedUpdate>& updates,
                    const AggregationOptions& options) {
  const ParameterBlock& block = spec.blocks[static_cast<std::size_t>(index)];
  BlockPlan plan;
  plan.parameter = index;
  switch (block.merge) {
    case MergeRule::kByExamples:
      // An expert's block still counts only those who trained the expert.
      plan.weights = block.owner == BlockOwner::kExpert
                         ? ExpertWeights(updates, block.expert, ExpertWeighting::kExamples)
                         : ExampleWeights(updates);
      break;
    case MergeRule::kByTokens:
      plan.weights = ExpertWeights(updates, block.expert, options.expert_weighting);
      break;
    case MergeRule::kRowsByTokens:
      for (int row = 0; row < static_cast<int>(block.shape[0]); ++row) {
        plan.row_weights.push_back(
            row < spec.ExpertsPerLayer()
                ? ExpertWeights(updates, block.expert + row, options.expert_weighting)
                : ExampleWeights(updates));
      }
      break;
  }
  return plan;
}

bool AlikeInShape(const ModelSpec& spec, int shard, int other) {
  const std::vector<int> blocks = spec.BlocksOf(shard);
  const std::vector<int> others = spec.BlocksOf(other);
  return std::equal(blocks.begin(), blocks.end(), others.begin(), others.end(), [&](int a, int b) {
    return spec.blocks[static_cast<std::size_t>(a)].shape ==
           spec.blocks[static_cast<std::size_t>(b)].shape;
  });
}

// Of the layer's changed experts, those that are shaped like the first of them.
ConsensusGroup PlanConsensus(const ModelSpec& spec, int layer,
                             const std::vector<AcceptedUpdate>& updates,
                             const std::set<int>& changed) {
  ConsensusGroup group;
  const int first = layer * spec.ExpertsPerLayer();
  for (ExpertIndex expert = first; expert < first + spec.ExpertsPerLayer(); ++expert) {
    const int shard = ShardOfExpert(expert);
    if (!changed.contains(shard)) continue;
    if (!group.shards.empty() && !AlikeInShape(spec, group.shards.front(), shard)) continue;
    double tokens = 0.0;
    for (const AcceptedUpdate& update : updates) tokens += TokensOf(update, expert);
    group.shards.push_back(shard);
    group.weights.push_back(tokens);
  }
  group.weights = Normalized(std::move(group.weights));
  return group;
}

}  // namespace

double ConsensusShare(const AggregationOptions& options, double information) {
  if (options.consensus_information == 0.0) return options.consensus;
  return options.consensus * std::max(0.0, 1.0 - information / options.consensus_information);
}

int TrimCount(const AggregationOptions& options, int updates) {
  return std::min(static_cast<int>(options.trim * updates), (updates - 1) / 2);
}

int HostileCount(const AggregationOptions& options, int updates) {
  return std::min(static_cast<int>(options.hostile * updates), (updates - 3) / 2);
}

int MomentCount(ServerOptimizer optimizer) {
  switch (optimizer) {
    case ServerOptimizer::kFedAvg:
      return 0;
    case ServerOptimizer::kFedAvgM:
      return 1;
    case ServerOptimizer::kFedAdam:
    case ServerOptimizer::kFedYogi:
      return 2;
  }
  return 0;
}

bool BlockPlan::changes() const {
  return Positive(weights) || std::any_of(row_weights.begin(), row_weights.end(), Positive);
}

AggregationPlan PlanAggregation(const ModelSpec& spec, std::vector<AcceptedUpdate> accepted,
                                const AggregationOptions& options, double information) {
  std::sort(accepted.begin(), accepted.end(), [](const AcceptedUpdate& a, const AcceptedUpdate& b) {
    return std::tie(a.client, a.task) < std::tie(b.client, b.task);
  });
  AggregationPlan plan;
  for (const AcceptedUpdate& update : accepted) plan.updates.push_back(update.task);
  std::set<int> changed;
  for (int index = 0; index < static_cast<int>(spec.blocks.size()); ++index) {
    const int shard = spec.ShardOf(index);
    if (shard < 0) continue;
    plan.blocks.push_back(PlanBlock(spec, index, accepted, options));
    if (plan.blocks.back().changes()) changed.insert(shard);
  }
  plan.changed_shards.assign(changed.begin(), changed.end());
  plan.consensus_share = ConsensusShare(options, information);
  for (int layer = 0; plan.consensus_share > 0.0 && layer < spec.layers; ++layer) {
    ConsensusGroup group = PlanConsensus(spec, layer, accepted, changed);
    if (group.shards.size() > 1) plan.consensus.push_back(std::move(group));
  }
  return plan;
}

}  // namespace fedmoe
