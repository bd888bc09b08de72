// Aggregation once more, by plain loops over whole vectors.
#include <cmath>

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

void MergeBlock(const ModelSpec& spec, int index, const Answers& answers, Parameter& parameter,
                const AggregationOptions& options) {
  const ParameterBlock& block = spec.blocks[index];
  const std::int64_t rows = block.merge == MergeRule::kRowsByTokens ? block.shape[0] : 1;
  const std::int64_t row_elements = block.ElementCount() / rows;
  for (std::int64_t row = 0; row < rows; ++row) {
    double total = 0.0;
    for (const auto& answer : answers) total += WeightOf(spec, block, row, answer.result.feedback);
    if (!(total > 0.0)) continue;
    for (std::int64_t i = row * row_elements; i < (row + 1) * row_elements; ++i) {
      double sum = 0.0;
      for (const auto& answer : answers) {
        const double weight = WeightOf(spec, block, row, answer.result.feedback);
        if (weight > 0.0) sum = std::fma(weight / total, DeltaOf(answer.result, index)[i], sum);
      }
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
