// Aggregation once more, by plain loops over whole vectors.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "tests/coordinator/fleet.h"

namespace fedmoe {
namespace {

using Answers = std::vector<AnswerLedger::Answer>;

// What one block's element is made of.
struct Parameter {
  std::vector<float> values, first, second;
};

// The weight of one answer in row `row` of a block.
double WeightOf(const ModelSpec& spec, const ParameterBlock& block, std::int64_t row,
                const TrainingFeedback& feedback) {
  switch (block.merge) {
    case MergeRule::kByExamples:
      return static_cast<double>(feedback.examples);
    case MergeRule::kByTokens:
      return feedback.tokens[static_cast<std::size_t>(block.expert)];
    case MergeRule::kRowsByTokens:
      if (row >= spec.ExpertsPerLayer()) return static_cast<double>(feedback.examples);
      return feedback.tokens[static_cast<std::size_t>(block.expert + row)];
  }
  return 0.0;
}

const float* DeltaOf(const TrainResult& result, int parameter) {
  for (const BlockDelta& block : result.blocks) {
    if (block.parameter == parameter) return block.delta.data();
  }
  return nullptr;
}

void StepElement(Parameter& parameter, std::size_t i, double delta, const AggregationOptions& o) {
  const double x = parameter.values[i];
  const double m = parameter.first[i];
  const double v = parameter.second[i];
  double step = delta;
  double new_m = m, new_v = v;
  if (o.optimizer == ServerOptimizer::kFedAvgM) {
    new_m = o.momentum * m + delta;
    step = new_m;
  } else if (o.optimizer != ServerOptimizer::kFedAvg) {
    new_m = o.momentum * m + (1.0 - o.momentum) * delta;
    if (o.optimizer == ServerOptimizer::kFedAdam) {
      new_v = o.beta2 * v + (1.0 - o.beta2) * (delta * delta);
    } else {
      const double sign = v > delta * delta ? 1.0 : (v < delta * delta ? -1.0 : 0.0);
      new_v = v - (1.0 - o.beta2) * (delta * delta) * sign;
    }
    parameter.values[i] =
        static_cast<float>(x + o.learning_rate * new_m / (std::sqrt(new_v) + o.tau));
    parameter.first[i] = static_cast<float>(new_m);
    parameter.second[i] = static_cast<float>(new_v);
    return;
  }
  parameter.first[i] = static_cast<float>(new_m);
  parameter.values[i] = static_cast<float>(x + o.learning_rate * step);
}

// The sum of (a - b)^2 over the blocks of a shard that are not merged by rows.
double SquaredDistance(const ModelSpec& spec, int shard, const TrainResult& a,
                       const TrainResult* b) {
  double sum = 0.0;
  for (const int index : spec.BlocksOf(shard)) {
    if (spec.blocks[static_cast<std::size_t>(index)].merge == MergeRule::kRowsByTokens) continue;
    const auto elements =
        static_cast<std::size_t>(spec.blocks[static_cast<std::size_t>(index)].ElementCount());
    for (std::size_t i = 0; i < elements; ++i) {
      const float difference = DeltaOf(a, index)[i] - (b == nullptr ? 0.0F : DeltaOf(*b, index)[i]);
      sum += static_cast<double>(difference) * difference;
    }
  }
  return sum;
}

// By answer: whether Krum keeps it in the shard (1 or 0), or what clipping multiplies it by. Empty
// where there is nobody to outvote, or no such rule.
std::vector<double> FactorsOf(const ModelSpec& spec, int shard, const Answers& answers,
                              const AggregationOptions& options) {
  std::vector<double> factors;
  std::vector<std::size_t> used;
  for (std::size_t i = 0; i < answers.size(); ++i) {
    const ParameterBlock& block =
        spec.blocks[static_cast<std::size_t>(spec.BlocksOf(shard).front())];
    if (WeightOf(spec, block, 0, answers[i].result.feedback) > 0.0) used.push_back(i);
  }
  const auto count = static_cast<int>(used.size());
  if (options.rule == AggregationRule::kClip) {
    std::vector<double> norms;
    for (const std::size_t i : used) {
      norms.push_back(std::sqrt(SquaredDistance(spec, shard, answers[i].result, nullptr)));
    }
    std::vector<double> sorted = norms;
    std::sort(sorted.begin(), sorted.end());
    const double limit =
        options.clip_norm > 0.0 ? options.clip_norm : sorted[(sorted.size() - 1) / 2];
    factors.assign(answers.size(), 1.0);
    for (int i = 0; i < count; ++i) {
      factors[used[static_cast<std::size_t>(i)]] =
          std::min(1.0, limit / norms[static_cast<std::size_t>(i)]);
    }
  }
  const bool krum = options.rule == AggregationRule::kKrum;
  if ((!krum && options.rule != AggregationRule::kMultiKrum) || count < 3) return factors;
  const int hostile = HostileCount(options, count);
  std::vector<std::pair<double, std::size_t>> scores;
  for (const std::size_t a : used) {
    std::vector<double> distances;
    for (const std::size_t b : used) {
      if (a != b) {
        distances.push_back(SquaredDistance(spec, shard, answers[a].result, &answers[b].result));
      }
    }
    std::sort(distances.begin(), distances.end());
    scores.push_back(
        {std::accumulate(distances.begin(), distances.begin() + count - hostile - 2, 0.0), a});
  }
  std::sort(scores.begin(), scores.end());
  factors.assign(answers.size(), 0.0);
  for (int i = 0; i < (krum ? 1 : count - hostile); ++i) {
    factors[scores[static_cast<std::size_t>(i)].second] = 1.0;
  }
  return factors;
}

// The middle of the values, or their mean without the outer ones.
double PickOf(std::vector<double> values, const AggregationOptions& options) {
  std::sort(values.begin(), values.end());
  const auto count = static_cast<int>(values.size());
  const int cut =
      options.rule == AggregationRule::kMedian ? (count - 1) / 2 : TrimCount(options, count);
  double sum = 0.0;
  for (int i = cut; i < count - cut; ++i) sum += values[static_cast<std::size_t>(i)];
  return sum / (count - 2 * cut);
}

void MergeBlock(const ModelSpec& spec, int index, const Answers& answers, Parameter& parameter,
                const AggregationOptions& options) {
  const ParameterBlock& block = spec.blocks[static_cast<std::size_t>(index)];
  const std::int64_t rows = block.merge == MergeRule::kRowsByTokens ? block.shape[0] : 1;
  const std::int64_t row_elements = block.ElementCount() / rows;
  const std::vector<double> factors = FactorsOf(spec, spec.ShardOf(index), answers, options);
  const bool picks =
      options.rule == AggregationRule::kMedian || options.rule == AggregationRule::kTrimmedMean;
  const bool krum =
      options.rule == AggregationRule::kKrum || options.rule == AggregationRule::kMultiKrum;
  for (std::int64_t row = 0; row < rows; ++row) {
    std::vector<double> weights;
    double total = 0.0;
    for (std::size_t a = 0; a < answers.size(); ++a) {
      weights.push_back(WeightOf(spec, block, row, answers[a].result.feedback));
      // Whom Krum keeps counts alike, if there was anybody to outvote.
      if (krum && !factors.empty()) weights[a] *= factors[a];
      total += weights[a];
    }
    const auto kept =
        std::count_if(weights.begin(), weights.end(), [](double w) { return w > 0.0; });
    const bool alike = krum && !factors.empty();
    const bool clips = !krum && !factors.empty();
    if (kept == 0) continue;
    for (std::int64_t i = row * row_elements; i < (row + 1) * row_elements; ++i) {
      double sum = 0.0;
      std::vector<double> values;
      for (std::size_t a = 0; a < answers.size(); ++a) {
        if (!(weights[a] > 0.0)) continue;
        const double weight = alike ? 1.0 / static_cast<double>(kept) : weights[a] / total;
        const double delta = DeltaOf(answers[a].result, index)[static_cast<std::size_t>(i)];
        values.push_back(delta);
        sum = std::fma(clips ? weight * factors[a] : weight, delta, sum);
      }
      if (picks) sum = PickOf(values, options);
      StepElement(parameter, static_cast<std::size_t>(i), static_cast<float>(sum), options);
    }
  }
}

double TokensOf(const Answers& answers, ExpertIndex expert) {
  double tokens = 0.0;
  for (const auto& answer : answers) {
    tokens += answer.result.feedback.tokens[static_cast<std::size_t>(expert)];
  }
  return tokens;
}

// Experts of the layer that were trained, towards their mean.
void MoveToConsensus(const ModelSpec& spec, int layer, const Answers& answers, double share,
                     std::vector<Parameter>& model) {
  std::vector<ExpertIndex> experts;
  double total = 0.0;
  for (int i = 0; i < spec.ExpertsPerLayer(); ++i) {
    const ExpertIndex expert = layer * spec.ExpertsPerLayer() + i;
    if (!(TokensOf(answers, expert) > 0.0)) continue;
    experts.push_back(expert);
    total += TokensOf(answers, expert);
  }
  const auto values = [&](ExpertIndex expert, std::size_t block) -> std::vector<float>& {
    const std::vector<int> blocks = spec.BlocksOf(ShardOfExpert(expert));
    return model[static_cast<std::size_t>(blocks[block])].values;
  };
  const std::size_t blocks = spec.BlocksOf(ShardOfExpert(layer * spec.ExpertsPerLayer())).size();
  for (std::size_t block = 0; block < blocks && experts.size() > 1; ++block) {
    for (std::size_t i = 0; i < values(experts[0], block).size(); ++i) {
      double sum = 0.0;
      for (const ExpertIndex expert : experts) {
        sum = std::fma(TokensOf(answers, expert) / total, values(expert, block)[i], sum);
      }
      const double mean = static_cast<float>(sum);
      for (const ExpertIndex expert : experts) {
        float& value = values(expert, block)[i];
        value = static_cast<float>(value + share * (mean - value));
      }
    }
  }
}

Digest DigestOf(const ModelSpec& spec, const std::vector<Parameter>& model) {
  std::vector<Digest> shards;
  for (int shard = 0; shard < spec.ShardCount(); ++shard) {
    Sha256 digest;
    for (const int index : spec.BlocksOf(shard)) {
      digest.Update(AsBytes(std::span<const float>(model[static_cast<std::size_t>(index)].values)));
    }
    shards.push_back(digest.Finish());
  }
  return ModelDigest(shards);
}

}  // namespace

std::string ReferenceDigest(const CoreOptions& options, const AnswerLedger& ledger,
                            InitialValues initial) {
  const ModelSpec& spec = options.run.spec;
  std::vector<Parameter> model;
  for (const ParameterBlock& block : spec.blocks) {
    const auto count = static_cast<std::size_t>(block.ElementCount());
    Parameter parameter{.values = std::vector<float>(count), .first = {}, .second = {}};
    if (initial != nullptr) {
      parameter.values = initial(block, options.run.seed);
    } else {
      InitializeBlock(block, options.run.seed, parameter.values);
    }
    parameter.first.assign(count, 0.0f);
    const double tau = options.run.aggregation.tau;
    parameter.second.assign(count, static_cast<float>(tau * tau));
    model.push_back(std::move(parameter));
  }
  std::map<RoundNumber, Answers> rounds;  // in client order, as the ledger's keys are
  for (const auto& [key, answer] : ledger.answers()) rounds[key.first].push_back(answer);
  for (const auto& [round, answers] : rounds) {
    for (int index = 0; index < static_cast<int>(spec.blocks.size()); ++index) {
      MergeBlock(spec, index, answers, model[static_cast<std::size_t>(index)],
                 options.run.aggregation);
    }
    for (int layer = 0; layer < spec.layers && options.run.aggregation.consensus > 0.0; ++layer) {
      MoveToConsensus(spec, layer, answers, options.run.aggregation.consensus, model);
    }
  }
  return DigestOf(spec, model);
}

}  // namespace fedmoe
