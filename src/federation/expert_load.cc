#include "federation/expert_load.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace fedmoe {
namespace {

// Deficits are sums of fractions such as 1/3; what should be a whole number must not fall to the
// next one by their rounding error.
constexpr double kRounding = 1e-9;

int FloorOf(double value) { return static_cast<int>(std::floor(value + kRounding)); }
int CeilingOf(double value) { return static_cast<int>(std::ceil(value - kRounding)); }

template <typename T>
double PopulationCv(std::span<const T> values) {
  if (values.empty()) return 0.0;
  const double count = static_cast<double>(values.size());
  double sum = 0.0;
  for (const T value : values) sum += static_cast<double>(value);
  const double mean = sum / count;
  if (mean == 0.0) return 0.0;
  double squares = 0.0;
  for (const T value : values) {
    const double deviation = static_cast<double>(value) - mean;
    squares += deviation * deviation;
  }
  return std::sqrt(squares / count) / mean;
}

}  // namespace

ExpertLoad ExpertLoad::Of(int experts) {
  const auto size = static_cast<std::size_t>(experts);
  ExpertLoad load;
  load.assignments.assign(size, 0);
  load.round_assignments.assign(size, 0);
  load.tokens.assign(size, 0.0);
  load.round_tokens.assign(size, 0.0);
  load.average_tokens.assign(size, 0.0);
  load.deficit.assign(size, 0.0);
  return load;
}

LoadBounds BoundsFor(const ExpertLoad& load, std::span<const int> capacity,
                     const LoadOptions& options) {
  LoadBounds bounds;
  const std::size_t experts = load.deficit.size();
  if (experts == 0) return bounds;
  const int clients = static_cast<int>(capacity.size());
  const double total =
      static_cast<double>(std::accumulate(capacity.begin(), capacity.end(), std::int64_t{0}));
  bounds.target = total / static_cast<double>(experts);
  for (const double deficit : load.deficit) {
    const int lower =
        std::clamp(FloorOf((1.0 - options.slack) * bounds.target + deficit), 0, clients);
    const int upper = CeilingOf((1.0 + options.slack) * bounds.target + deficit);
    bounds.lower.push_back(lower);
    bounds.upper.push_back(std::clamp(upper, lower, clients));
  }
  return bounds;
}

WeightedBounds WeightedBoundsFor(const ExpertLoad& load, std::span<const int> capacity,
                                 std::span<const double> weight, const LoadOptions& options) {
  WeightedBounds bounds;
  double total = 0.0;
  double assignments = 0.0;
  double heaviest = 0.0;
  for (std::size_t c = 0; c < capacity.size(); ++c) {
    total += capacity[c] * weight[c];
    assignments += capacity[c];
    if (capacity[c] > 0) heaviest = std::max(heaviest, weight[c]);
  }
  const double mean = assignments > 0.0 ? total / assignments : 0.0;
  bounds.target = total / static_cast<double>(std::max<std::size_t>(1, load.deficit.size()));
  for (const double deficit : load.deficit) {
    const double lower = (1.0 - options.slack) * bounds.target + deficit * mean - heaviest / 2.0;
    const double upper = (1.0 + options.slack) * bounds.target + deficit * mean + heaviest / 2.0;
    bounds.lower.push_back(std::max(0.0, lower));
    bounds.upper.push_back(std::max(bounds.lower.back(), upper));
  }
  return bounds;
}

void RecordRound(ExpertLoad& load, std::span<const std::int64_t> assignments,
                 std::span<const double> tokens, const LoadOptions& options, int layers) {
  const std::size_t experts = load.deficit.size();
  if (experts == 0) return;
  const std::size_t per_layer = experts / static_cast<std::size_t>(layers);
  double target = 0.0;
  double by_token = 0.0;  // assignments
  for (std::size_t e = 0; e < experts; ++e) {
    if (e % per_layer == 0) {
      const auto layer = assignments.subspan(e, per_layer);
      const double total =
          static_cast<double>(std::accumulate(layer.begin(), layer.end(), std::int64_t{0}));
      target = total / static_cast<double>(per_layer);
      const auto trained = tokens.subspan(e, per_layer);
      const double all = std::accumulate(trained.begin(), trained.end(), 0.0);
      by_token = all > 0.0 ? total / all : 0.0;
    }
    const double actual = options.unit == LoadUnit::kTokens ? tokens[e] * by_token
                                                            : static_cast<double>(assignments[e]);
    load.assignments[e] += assignments[e];
    load.round_assignments[e] = assignments[e];
    load.tokens[e] += tokens[e];
    load.round_tokens[e] = tokens[e];
    load.average_tokens[e] =
        (1.0 - options.average_beta) * load.average_tokens[e] + options.average_beta * tokens[e];
    load.deficit[e] = std::clamp(load.deficit[e] + (target - actual), -options.deficit_limit,
                                 options.deficit_limit);
  }
}

double CoefficientOfVariation(std::span<const double> values) { return PopulationCv(values); }

double CoefficientOfVariation(std::span<const std::int64_t> values) { return PopulationCv(values); }

double IntegerFloorCv(std::int64_t total, int experts) {
  if (total <= 0 || experts <= 0) return 0.0;
  // `larger` experts get one more than the others: variance larger (E - larger) / E^2, mean
  // total / E.
  const double larger = static_cast<double>(total % experts);
  return std::sqrt(larger * (static_cast<double>(experts) - larger)) / static_cast<double>(total);
}

}  // namespace fedmoe
