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

// Over the updates that trained the expert: assigned, with at least one token.
std::vector<double> ExpertWeights(const std::vector<AcceptedUpdate>& updates, ExpertIndex expert,
                                  ExpertWeighting weighting) {
  std::vector<double> weights;
  for (const AcceptedUpdate& update : updates) {
    const bool held =
        std::find(update.experts.begin(), update.experts.end(), expert) != update.experts.end();
    const double tokens = held ? update.feedback.tokens[static_cast<std::size_t>(expert)] : 0.0;
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

}  // namespace

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
                                const AggregationOptions& options) {
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
  return plan;
}

}  // namespace fedmoe
