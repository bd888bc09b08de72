#include "kernels/expert_ops_rows.h"

#include <array>

#include "kernels/expert_ops_math.h"
#include "kernels/function_versions.h"

namespace fedmoe {
namespace {

constexpr std::int64_t kLanes = 16;

template <typename T>
FEDMOE_ALWAYS_INLINE T SumOfLanes(std::array<T, kLanes>& lanes) {
  for (std::size_t width = kLanes / 2; width > 0; width /= 2) {
    for (std::size_t i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

template <typename T>
FEDMOE_ALWAYS_INLINE T Dot(const T* a, const T* b, std::int64_t count) {
  std::array<T, kLanes> lanes{};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[static_cast<std::size_t>(lane)] += a[i + lane] * b[i + lane];
    }
  }
  for (; i < count; ++i) lanes[static_cast<std::size_t>(i % kLanes)] += a[i] * b[i];
  return SumOfLanes(lanes);
}

template <ExpertActivation activation, typename T>
FEDMOE_ALWAYS_INLINE void ActivateAll(const T* bias, std::int64_t count, T* up, const T* gate,
                                      T* hidden) {
  constexpr bool kGated = activation == ExpertActivation::kSwiGlu;
  if (bias != nullptr) {
    for (std::int64_t i = 0; i < count; ++i) up[i] += bias[i];
  }
  for (std::int64_t i = 0; i < count; ++i) {
    hidden[i] = Activate<activation>(up[i], kGated ? gate[i] : T{0});
  }
}

template <ExpertActivation activation, typename T>
FEDMOE_ALWAYS_INLINE void BackwardOf(const T* up, const T* gate, T weight, std::int64_t i, T* d_up,
                                     T* d_gate, T* hidden, T* sum) {
  constexpr bool kGated = activation == ExpertActivation::kSwiGlu;
  const ActivationGradient<T> at = Differentiate<activation>(up[i], kGated ? gate[i] : T{0});
  *sum += d_up[i] * at.hidden;
  const T weighted = weight * d_up[i];
  d_up[i] = weighted * at.by_up;
  if constexpr (kGated) d_gate[i] = weighted * at.by_gate;
  hidden[i] = weight * at.hidden;
}

template <ExpertActivation activation, typename T>
FEDMOE_ALWAYS_INLINE T BackwardAll(const T* __restrict up, const T* __restrict gate, T weight,
                                   std::int64_t count, T* __restrict d_up, T* __restrict d_gate,
                                   T* __restrict hidden) {
  std::array<T, kLanes> lanes{};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      BackwardOf<activation>(up, gate, weight, i + lane, d_up, d_gate, hidden,
                             &lanes[static_cast<std::size_t>(lane)]);
    }
  }
  for (; i < count; ++i) {
    BackwardOf<activation>(up, gate, weight, i, d_up, d_gate, hidden,
                           &lanes[static_cast<std::size_t>(i % kLanes)]);
  }
  return SumOfLanes(lanes);
}

// One function an activation, because each is compiled once for every instruction set.
#define FEDMOE_ACTIVATION(NAME)                                                                   \
  FEDMOE_FUNCTION_VERSIONS void NAME##Forward(const float* bias, std::int64_t count, float* up,   \
                                              const float* gate, float* hidden) {                 \
    ActivateAll<ExpertActivation::k##NAME>(bias, count, up, gate, hidden);                        \
  }                                                                                               \
  FEDMOE_FUNCTION_VERSIONS float NAME##Backward(const float* up, const float* gate, float weight, \
                                                std::int64_t count, float* d_up, float* d_gate,   \
                                                float* hidden) {                                  \
    return BackwardAll<ExpertActivation::k##NAME>(up, gate, weight, count, d_up, d_gate, hidden); \
  }                                                                                               \
  void NAME##Forward(const double* bias, std::int64_t count, double* up, const double* gate,      \
                     double* hidden) {                                                            \
    ActivateAll<ExpertActivation::k##NAME>(bias, count, up, gate, hidden);                        \
  }                                                                                               \
  double NAME##Backward(const double* up, const double* gate, double weight, std::int64_t count,  \
                        double* d_up, double* d_gate, double* hidden) {                           \
    return BackwardAll<ExpertActivation::k##NAME>(up, gate, weight, count, d_up, d_gate, hidden); \
  }

FEDMOE_ACTIVATION(Relu)
FEDMOE_ACTIVATION(Gelu)
FEDMOE_ACTIVATION(Silu)
FEDMOE_ACTIVATION(SwiGlu)
#undef FEDMOE_ACTIVATION

template <typename T>
void ActivateAny(ExpertActivation activation, const T* bias, std::int64_t count, T* up,
                 const T* gate, T* hidden) {
  switch (activation) {
    case ExpertActivation::kRelu:
      return ReluForward(bias, count, up, gate, hidden);
    case ExpertActivation::kGelu:
      return GeluForward(bias, count, up, gate, hidden);
    case ExpertActivation::kSilu:
      return SiluForward(bias, count, up, gate, hidden);
    case ExpertActivation::kSwiGlu:
      return SwiGluForward(bias, count, up, gate, hidden);
  }
}

template <typename T>
T BackwardAny(ExpertActivation activation, const T* up, const T* gate, T weight, std::int64_t count,
              T* d_up, T* d_gate, T* hidden) {
  switch (activation) {
    case ExpertActivation::kRelu:
      return ReluBackward(up, gate, weight, count, d_up, d_gate, hidden);
    case ExpertActivation::kGelu:
      return GeluBackward(up, gate, weight, count, d_up, d_gate, hidden);
    case ExpertActivation::kSilu:
      return SiluBackward(up, gate, weight, count, d_up, d_gate, hidden);
    case ExpertActivation::kSwiGlu:
      return SwiGluBackward(up, gate, weight, count, d_up, d_gate, hidden);
  }
  return T{0};
}

}  // namespace

FEDMOE_FUNCTION_VERSIONS void ScaleRow(const float* in, float factor, std::int64_t count,
                                       float* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = in[i] * factor;
}
void ScaleRow(const double* in, double factor, std::int64_t count, double* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = in[i] * factor;
}

FEDMOE_FUNCTION_VERSIONS void AddScaledRow(const float* in, float factor, std::int64_t count,
                                           float* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] += in[i] * factor;
}
void AddScaledRow(const double* in, double factor, std::int64_t count, double* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] += in[i] * factor;
}

FEDMOE_FUNCTION_VERSIONS void AddRow(const float* in, std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] += in[i];
}
void AddRow(const double* in, std::int64_t count, double* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] += in[i];
}

FEDMOE_FUNCTION_VERSIONS float DotRow(const float* a, const float* b, std::int64_t count) {
  return Dot(a, b, count);
}
double DotRow(const double* a, const double* b, std::int64_t count) { return Dot(a, b, count); }

void ActivateRow(ExpertActivation activation, const float* bias, std::int64_t count, float* up,
                 const float* gate, float* hidden) {
  ActivateAny(activation, bias, count, up, gate, hidden);
}
void ActivateRow(ExpertActivation activation, const double* bias, std::int64_t count, double* up,
                 const double* gate, double* hidden) {
  ActivateAny(activation, bias, count, up, gate, hidden);
}

float ActivateRowBackward(ExpertActivation activation, const float* up, const float* gate,
                          float weight, std::int64_t count, float* d_up, float* d_gate,
                          float* hidden) {
  return BackwardAny(activation, up, gate, weight, count, d_up, d_gate, hidden);
}
double ActivateRowBackward(ExpertActivation activation, const double* up, const double* gate,
                           double weight, std::int64_t count, double* d_up, double* d_gate,
                           double* hidden) {
  return BackwardAny(activation, up, gate, weight, count, d_up, d_gate, hidden);
}

}  // namespace fedmoe
