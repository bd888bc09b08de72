#include <vector>

#include "kernels/expert_ops_math.h"
#include "kernels/moe_ffn.h"

namespace fedmoe {
namespace {

template <typename T>
ActivationGradient<T> DifferentiateAny(ExpertActivation activation, T up, T gate) {
  switch (activation) {
    case ExpertActivation::kRelu:
      return Differentiate<ExpertActivation::kRelu>(up, gate);
    case ExpertActivation::kGelu:
      return Differentiate<ExpertActivation::kGelu>(up, gate);
    case ExpertActivation::kSilu:
      return Differentiate<ExpertActivation::kSilu>(up, gate);
    case ExpertActivation::kSwiGlu:
      return Differentiate<ExpertActivation::kSwiGlu>(up, gate);
  }
  return {};
}

// W v + b; `matrix` null gives zeros.
template <typename T>
std::vector<T> Apply(const T* matrix, const T* bias, std::int64_t height, std::int64_t width,
                     const T* v) {
  std::vector<T> out(static_cast<std::size_t>(height), T{0});
  if (matrix == nullptr) return out;
  for (std::int64_t i = 0; i < height; ++i) {
    T sum = bias == nullptr ? T{0} : bias[i];
    for (std::int64_t j = 0; j < width; ++j) sum += matrix[i * width + j] * v[j];
    out[static_cast<std::size_t>(i)] = sum;
  }
  return out;
}

// out += W^T v.
template <typename T>
void AddTransposed(const T* matrix, std::int64_t height, std::int64_t width,
                   const std::vector<T>& v, T* out) {
  for (std::int64_t i = 0; i < height; ++i) {
    for (std::int64_t j = 0; j < width; ++j) {
      out[j] += matrix[i * width + j] * v[static_cast<std::size_t>(i)];
    }
  }
}

// gradient += u v^T, bias += u; either may be null.
template <typename T>
void AddOuter(const std::vector<T>& u, const T* v, std::int64_t width, T* gradient, T* bias) {
  for (std::size_t i = 0; i < u.size(); ++i) {
    if (bias != nullptr) bias[i] += u[i];
    if (gradient == nullptr) continue;
    for (std::int64_t j = 0; j < width; ++j) {
      gradient[static_cast<std::int64_t>(i) * width + j] += u[i] * v[j];
    }
  }
}

// One row of one expert before its activation.
template <typename T>
struct Preactivation {
  std::vector<T> up;
  std::vector<T> gate;
};

template <typename T>
Preactivation<T> Before(const MoeFfnShape& shape, const ExpertWeights<T>& expert, const T* x) {
  const bool gated = shape.activation == ExpertActivation::kSwiGlu;
  return {Apply(expert.up, expert.up_bias, shape.hidden, shape.width, x),
          Apply<T>(gated ? expert.gate : nullptr, nullptr, shape.hidden, shape.width, x)};
}

// Calls body(slot, expert) for every routed slot, expert by expert.
template <typename Body>
void ForEachSlot(const ExpertRouting& routing, const Body& body) {
  for (std::size_t expert = 0; expert + 1 < routing.offsets.size(); ++expert) {
    for (std::int64_t row = routing.offsets[expert]; row < routing.offsets[expert + 1]; ++row) {
      body(routing.slot_row[static_cast<std::size_t>(row)], expert);
    }
  }
}

}  // namespace

template <typename T>
void MoeFfnForwardReference(const MoeFfnShape& shape, const ExpertRouting& routing,
                            std::span<const ExpertWeights<T>> experts, std::span<const T> x,
                            std::span<const T> weights, std::span<T> y) {
  for (T& value : y) value = T{0};
  ForEachSlot(routing, [&](std::int64_t slot, std::size_t e) {
    const std::int64_t token = slot / routing.slots;
    const Preactivation<T> before = Before(shape, experts[e], x.data() + token * shape.width);
    std::vector<T> hidden(before.up.size());
    for (std::size_t i = 0; i < hidden.size(); ++i) {
      hidden[i] = DifferentiateAny(shape.activation, before.up[i], before.gate[i]).hidden;
    }
    const std::vector<T> out =
        Apply(experts[e].down, experts[e].down_bias, shape.width, shape.hidden, hidden.data());
    for (std::int64_t j = 0; j < shape.width; ++j) {
      y[static_cast<std::size_t>(token * shape.width + j)] +=
          weights[static_cast<std::size_t>(slot)] * out[static_cast<std::size_t>(j)];
    }
  });
}

template <typename T>
void MoeFfnBackwardReference(const MoeFfnShape& shape, const ExpertRouting& routing,
                             std::span<const ExpertWeights<T>> experts, std::span<const T> x,
                             std::span<const T> weights, std::span<const T> dy, std::span<T> dx,
                             std::span<T> d_weights,
                             std::span<const ExpertGradients<T>> gradients) {
  for (T& value : dx) value = T{0};
  for (T& value : d_weights) value = T{0};
  ForEachSlot(routing, [&](std::int64_t slot, std::size_t e) {
    const std::int64_t token = slot / routing.slots;
    const T weight = weights[static_cast<std::size_t>(slot)];
    const ExpertGradients<T> to = gradients.empty() ? ExpertGradients<T>{} : gradients[e];
    const T* const input = x.data() + token * shape.width;
    const Preactivation<T> before = Before(shape, experts[e], input);
    const std::vector<T> d_output(dy.begin() + token * shape.width,
                                  dy.begin() + (token + 1) * shape.width);
    T d_weight{0};
    for (std::size_t j = 0; j < d_output.size() && experts[e].down_bias != nullptr; ++j) {
      d_weight += d_output[j] * experts[e].down_bias[j];
    }
    std::vector<T> d_hidden(before.up.size(), T{0});
    AddTransposed(experts[e].down, shape.width, shape.hidden, d_output, d_hidden.data());
    std::vector<T> hidden(d_hidden.size()), d_up(d_hidden.size()), d_gate(d_hidden.size());
    for (std::size_t i = 0; i < hidden.size(); ++i) {
      const ActivationGradient<T> at =
          DifferentiateAny(shape.activation, before.up[i], before.gate[i]);
      d_weight += d_hidden[i] * at.hidden;
      hidden[i] = at.hidden;
      d_up[i] = weight * d_hidden[i] * at.by_up;
      d_gate[i] = weight * d_hidden[i] * at.by_gate;
    }
    if (!d_weights.empty()) d_weights[static_cast<std::size_t>(slot)] = d_weight;
    std::vector<T> d_ffn = d_output;
    for (T& value : d_ffn) value *= weight;
    AddOuter(d_ffn, hidden.data(), shape.hidden, to.down, to.down_bias);
    AddOuter(d_up, input, shape.width, to.up, to.up_bias);
    const bool gated = shape.activation == ExpertActivation::kSwiGlu;
    if (gated) AddOuter<T>(d_gate, input, shape.width, to.gate, nullptr);
    if (dx.empty()) return;
    AddTransposed(experts[e].up, shape.hidden, shape.width, d_up, &dx[token * shape.width]);
    if (gated) {
      AddTransposed(experts[e].gate, shape.hidden, shape.width, d_gate, &dx[token * shape.width]);
    }
  });
}

#define FEDMOE_INSTANTIATE(T)                                                                     \
  template void MoeFfnForwardReference<T>(const MoeFfnShape&, const ExpertRouting&,               \
                                          std::span<const ExpertWeights<T>>, std::span<const T>,  \
                                          std::span<const T>, std::span<T>);                      \
  template void MoeFfnBackwardReference<T>(const MoeFfnShape&, const ExpertRouting&,              \
                                           std::span<const ExpertWeights<T>>, std::span<const T>, \
                                           std::span<const T>, std::span<const T>, std::span<T>,  \
                                           std::span<T>, std::span<const ExpertGradients<T>>);
FEDMOE_INSTANTIATE(float)
FEDMOE_INSTANTIATE(double)

}  // namespace fedmoe
