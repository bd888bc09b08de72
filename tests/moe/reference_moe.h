// `moe_mlp` as plain loops in float64: what the module must compute.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "federation/model_spec.h"
#include "moe/model_options.h"

namespace fedmoe {

using Vector = std::vector<double>;

struct ReferenceOutput {
  Vector logits;
  Vector gate_logits;         // over all experts
  Vector gate_probabilities;  // of the same
  std::vector<int> selected;  // best first
  Vector weights;
};

struct ReferenceMoe {
  ModelOptions options;
  std::vector<ExpertIndex> held;
  std::map<std::string, Vector> blocks;  // row-major, by the name in the spec

  // input: of text the ids of a window.
  ReferenceOutput Forward(std::span<const double> input) const;

 private:
  Vector Embed(std::span<const double> input) const;
  // What the gate reads, normalised.
  Vector Read(std::span<const double> input, const Vector& embedded, const Vector& features) const;
};

inline Vector Softmax(const Vector& logits) {
  const double most = *std::max_element(logits.begin(), logits.end());
  Vector result;
  double sum = 0.0;
  for (const double logit : logits) sum += result.emplace_back(std::exp(logit - most));
  for (double& value : result) value /= sum;
  return result;
}

// weight [outputs, inputs] times input, plus bias where there is one.
inline Vector Linear(const Vector& weight, std::span<const double> input, const Vector* bias) {
  const std::size_t outputs = weight.size() / input.size();
  Vector result(outputs, 0.0);
  for (std::size_t o = 0; o < outputs; ++o) {
    for (std::size_t i = 0; i < input.size(); ++i)
      result[o] += weight[o * input.size() + i] * input[i];
    if (bias != nullptr) result[o] += (*bias)[o];
  }
  return result;
}

inline Vector Relu(Vector values) {
  for (double& value : values) value = std::max(value, 0.0);
  return values;
}

inline Vector Standardise(std::span<const double> values) {
  const double count = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
  double variance = 0.0;
  for (const double value : values) variance += (value - mean) * (value - mean) / count;
  Vector result;
  for (const double value : values) result.push_back((value - mean) / std::sqrt(variance + 1e-5));
  return result;
}

inline Vector ReferenceMoe::Embed(std::span<const double> input) const {
  if (options.embedding == 0) return {input.begin(), input.end()};
  const Vector& table = blocks.at("embedding.weight");
  Vector embedded;
  for (const double id : input) {
    for (int i = 0; i < options.embedding; ++i) {
      embedded.push_back(table[static_cast<std::size_t>(id) * options.embedding + i]);
    }
  }
  return embedded;
}

inline Vector ReferenceMoe::Read(std::span<const double> input, const Vector& embedded,
                                 const Vector& features) const {
  Vector read;
  const double share = 1.0 / static_cast<double>(input.size());
  if (options.gate_input == GateInput::kToken) {
    read = features;
  } else if (options.embedding == 0) {
    read = embedded;
  } else if (options.gate_input == GateInput::kSequence) {
    read.assign(static_cast<std::size_t>(options.embedding), 0.0);
    for (std::size_t i = 0; i < embedded.size(); ++i) read[i % read.size()] += share * embedded[i];
  } else {
    read.assign(static_cast<std::size_t>(options.classes), 0.0);
    for (const double id : input) read[static_cast<std::size_t>(id)] += share;
  }
  read = Standardise(read);
  if (options.gate_normalisation == GateNormalisation::kExample) return read;
  const Vector& mean = blocks.at("gate.mean");
  const Vector& square = blocks.at("gate.square");
  if (std::accumulate(square.begin(), square.end(), 0.0) == 0.0) return read;
  for (std::size_t i = 0; i < read.size(); ++i) {
    const double variance = std::max(0.0, square[i] - mean[i] * mean[i]);
    read[i] = (read[i] - mean[i]) / std::sqrt(variance + 0.01);
  }
  return read;
}

inline ReferenceOutput ReferenceMoe::Forward(std::span<const double> input) const {
  ReferenceOutput output;
  const Vector embedded = Embed(input);
  const Vector features =
      Relu(Linear(blocks.at("trunk.weight"), embedded, &blocks.at("trunk.bias")));
  output.gate_logits = Linear(blocks.at("gate.weight"), Read(input, embedded, features), nullptr);
  output.gate_probabilities = Softmax(output.gate_logits);

  Vector mixed = features;
  if (!held.empty()) {
    Vector held_logits;
    for (const int expert : held)
      held_logits.push_back(output.gate_logits[static_cast<std::size_t>(expert)]);
    const Vector probabilities = Softmax(held_logits);
    std::vector<std::size_t> order(held.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return probabilities[a] > probabilities[b];
    });
    order.resize(std::min(order.size(), static_cast<std::size_t>(options.top_k)));
    double sum = 0.0;
    for (const std::size_t position : order) sum += probabilities[position];
    for (const std::size_t position : order) {
      output.selected.push_back(held[position]);
      output.weights.push_back(probabilities[position] / sum);
      const std::string prefix = "experts." + std::to_string(held[position]) + ".";
      const Vector hidden =
          Relu(Linear(blocks.at(prefix + "up.weight"), features, &blocks.at(prefix + "up.bias")));
      const Vector result =
          Linear(blocks.at(prefix + "down.weight"), hidden, &blocks.at(prefix + "down.bias"));
      for (std::size_t i = 0; i < mixed.size(); ++i) mixed[i] += output.weights.back() * result[i];
    }
  }

  double mean_square = 0.0;
  for (const double value : mixed) mean_square += value * value / static_cast<double>(mixed.size());
  const Vector& scale = blocks.at("norm.scale");
  for (std::size_t i = 0; i < mixed.size(); ++i)
    mixed[i] *= scale[i] / std::sqrt(mean_square + 1e-6);
  output.logits = Linear(blocks.at("head.weight"), mixed, &blocks.at("head.bias"));
  return output;
}

// Cross-entropy of one example, nats.
inline double ReferenceTaskLoss(const ReferenceOutput& output, int label) {
  return -std::log(Softmax(output.logits)[static_cast<std::size_t>(label)]);
}

inline double ReferenceHeldMassLoss(const ReferenceOutput& output, const std::vector<int>& held) {
  double mass = 0.0;
  for (const int expert : held) mass += output.gate_probabilities[static_cast<std::size_t>(expert)];
  return -std::log(mass);
}

}  // namespace fedmoe
