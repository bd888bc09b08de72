// A MoE layer with random parameters, batch and routing, for the tests of the expert kernels.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <ostream>
#include <span>
#include <vector>

#include "common/counter_rng.h"
#include "kernels/moe_ffn.h"

namespace fedmoe {

inline constexpr ExpertActivation kAllActivations[] = {
    ExpertActivation::kRelu, ExpertActivation::kGelu, ExpertActivation::kSilu,
    ExpertActivation::kSwiGlu};

enum class Load { kUniform, kOneExpert, kHoles };

struct MoeFfnSizes {
  std::int64_t tokens = 5;
  std::int64_t width = 3;
  std::int64_t hidden = 4;
  int experts = 4;
  std::int64_t slots = 2;
  ExpertActivation activation = ExpertActivation::kRelu;
  bool biases = true;
  Load load = Load::kUniform;  // kHoles: every third slot goes to no expert, expert 1 gets nothing
  double scale = 1.0;          // of the inputs
};

inline void PrintTo(const MoeFfnSizes& sizes, std::ostream* out) {
  *out << sizes.tokens << " tokens, width " << sizes.width << ", hidden " << sizes.hidden << ", "
       << sizes.slots << " of " << sizes.experts << " experts, activation "
       << static_cast<int>(sizes.activation) << ", load " << static_cast<int>(sizes.load);
}

// Everything that goes in, in T; the same values for every T, but for rounding.
template <typename T>
struct MoeFfnCase {
  MoeFfnSizes sizes;
  MoeFfnShape shape;
  ExpertRouting routing;
  std::vector<std::vector<T>> gate, up, up_bias, down, down_bias;  // an entry for each expert
  std::vector<ExpertWeights<T>> experts;
  std::vector<T> x, weights, dy;

  MoeFfnCase(const MoeFfnSizes& with, std::uint64_t seed) : sizes(with) {
    shape = {.width = with.width, .hidden = with.hidden, .activation = with.activation};
    CounterRng rng(seed);
    const auto draw = [&](std::int64_t count, double deviation) {
      std::vector<T> values(static_cast<std::size_t>(count));
      // Rounded to float first, so that float and double start from the same values.
      for (T& value : values) {
        value = static_cast<T>(static_cast<float>(rng.NextNormal() * deviation));
      }
      return values;
    };
    const std::int64_t area = with.width * with.hidden;
    for (int e = 0; e < with.experts; ++e) {
      gate.push_back(draw(area, 1.0 / std::sqrt(with.width)));
      up.push_back(draw(area, 1.0 / std::sqrt(with.width)));
      up_bias.push_back(draw(with.hidden, 0.5));
      down.push_back(draw(area, 1.0 / std::sqrt(with.hidden)));
      down_bias.push_back(draw(with.width, 0.5));
    }
    x = draw(with.tokens * with.width, with.scale);
    dy = draw(with.tokens * with.width, with.scale);
    weights = draw(with.tokens * with.slots, 1.0);
    Route(rng);
    Point();
  }

  // The experts as the kernels take them, after a change of the vectors.
  void Point() {
    experts.clear();
    const bool gated = shape.activation == ExpertActivation::kSwiGlu;
    for (std::size_t e = 0; e < up.size(); ++e) {
      experts.push_back({.gate = gated ? gate[e].data() : nullptr,
                         .up = up[e].data(),
                         .up_bias = sizes.biases ? up_bias[e].data() : nullptr,
                         .down = down[e].data(),
                         .down_bias = sizes.biases ? down_bias[e].data() : nullptr});
    }
  }

 private:
  void Route(CounterRng& rng) {
    std::vector<std::int64_t> chosen;
    for (std::int64_t t = 0; t < sizes.tokens; ++t) {
      const auto first = static_cast<std::int64_t>(rng.NextUniform() * sizes.experts);
      for (std::int64_t j = 0; j < sizes.slots; ++j) {
        std::int64_t expert = (first + j) % sizes.experts;
        if (sizes.load == Load::kOneExpert) expert = sizes.experts - 1;
        if (sizes.load == Load::kHoles && (expert == 1 || (t + j) % 3 == 0)) expert = -1;
        chosen.push_back(expert);
      }
    }
    routing = RouteTokens(chosen, sizes.slots, sizes.experts);
  }
};

// Everything that comes out.
template <typename T>
struct MoeFfnResult {
  std::vector<T> y, dx, d_weights;
  std::vector<std::vector<T>> gate, up, up_bias, down, down_bias;
  std::vector<ExpertGradients<T>> gradients;

  // Outputs that must be written start as NaN, those that are added to at `start`.
  MoeFfnResult(const MoeFfnCase<T>& with, T start) {
    constexpr T kPoison = std::numeric_limits<T>::quiet_NaN();
    y.assign(with.x.size(), kPoison);
    dx.assign(with.x.size(), kPoison);
    d_weights.assign(with.weights.size(), kPoison);
    const std::size_t area = static_cast<std::size_t>(with.shape.width * with.shape.hidden);
    const std::vector<T> matrix(area, start);
    const std::size_t experts = with.experts.size();
    const bool gated = with.shape.activation == ExpertActivation::kSwiGlu;
    gate.assign(experts, gated ? matrix : std::vector<T>{});
    up.assign(experts, matrix);
    down.assign(experts, matrix);
    up_bias.assign(experts, std::vector<T>(static_cast<std::size_t>(with.shape.hidden), start));
    down_bias.assign(experts, std::vector<T>(static_cast<std::size_t>(with.shape.width), start));
    for (std::size_t e = 0; e < experts; ++e) {
      gradients.push_back({.gate = gated ? gate[e].data() : nullptr,
                           .up = up[e].data(),
                           .up_bias = with.sizes.biases ? up_bias[e].data() : nullptr,
                           .down = down[e].data(),
                           .down_bias = with.sizes.biases ? down_bias[e].data() : nullptr});
    }
  }
  MoeFfnResult(const MoeFfnResult&) = delete;  // the gradients point into this one
  MoeFfnResult& operator=(const MoeFfnResult&) = delete;
  MoeFfnResult(MoeFfnResult&&) = default;

  // Every array with its name.
  std::vector<std::pair<const char*, const std::vector<T>*>> Arrays() const {
    std::vector<std::pair<const char*, const std::vector<T>*>> arrays{
        {"y", &y}, {"dx", &dx}, {"d_weights", &d_weights}};
    for (std::size_t e = 0; e < up.size(); ++e) {
      arrays.insert(arrays.end(), {{"gate", &gate[e]},
                                   {"up", &up[e]},
                                   {"up_bias", &up_bias[e]},
                                   {"down", &down[e]},
                                   {"down_bias", &down_bias[e]}});
    }
    return arrays;
  }
};

template <typename T>
MoeFfnResult<T> RunFast(const MoeFfnCase<T>& with, int threads, T start = T{0}) {
  MoeFfnResult<T> out(with, start);
  MoeFfnSaved<T> saved;
  MoeFfnForward<T>(with.shape, with.routing, with.experts, with.x, with.weights, threads, out.y,
                   &saved);
  MoeFfnBackward<T>(with.shape, with.routing, with.experts, with.x, with.weights, with.dy, saved,
                    threads, out.dx, out.d_weights, out.gradients);
  return out;
}

template <typename T>
MoeFfnResult<T> RunReference(const MoeFfnCase<T>& with, T start = T{0}) {
  MoeFfnResult<T> out(with, start);
  MoeFfnForwardReference<T>(with.shape, with.routing, with.experts, with.x, with.weights, out.y);
  MoeFfnBackwardReference<T>(with.shape, with.routing, with.experts, with.x, with.weights, with.dy,
                             out.dx, out.d_weights, out.gradients);
  return out;
}

// |a - b| / |b| in the Euclidean norm; |a| if b is zero.
template <typename A, typename B>
double RelativeError(const std::vector<A>& a, const std::vector<B>& b) {
  double difference = 0.0;
  double norm = 0.0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double gap = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    difference += gap * gap;
    norm += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return norm == 0.0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

}  // namespace fedmoe
