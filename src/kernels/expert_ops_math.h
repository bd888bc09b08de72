// exp, sigmoid and the normal distribution as branchless code that a compiler vectorises. The same
// templates in double use the standard library.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <numbers>

#include "kernels/moe_ffn.h"

#define FEDMOE_ALWAYS_INLINE inline __attribute__((always_inline))

namespace fedmoe {

// e^x for x <= 0, and 0 below -87. Cody and Waite's reduction to |r| <= ln(2) / 2, then a
// polynomial of degree 6.
FEDMOE_ALWAYS_INLINE float ExpOfNegative(float x) {
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: the sum's low bits are the rounded integer
  const float clamped = x < -87.0F ? -87.0F : x;
  const float shifted = clamped * std::numbers::log2e_v<float> + kRound;
  const float whole = shifted - kRound;
  const float r = (clamped - whole * 0.693359375F) + whole * 2.12194440e-4F;
  float p = 1.0F / 720.0F;
  p = p * r + 1.0F / 120.0F;
  p = p * r + 1.0F / 24.0F;
  p = p * r + 1.0F / 6.0F;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  const float power = std::bit_cast<float>((std::bit_cast<std::uint32_t>(shifted) + 127U) << 23U);
  return x < -87.0F ? 0.0F : p * power;
}
FEDMOE_ALWAYS_INLINE double ExpOfNegative(double x) { return std::exp(x); }

template <typename T>
FEDMOE_ALWAYS_INLINE T Sigmoid(T x) {
  const T e = ExpOfNegative(x < T{0} ? x : -x);
  return (x < T{0} ? e : T{1}) / (T{1} + e);
}

// The standard normal distribution's integral up to x, and its density.
template <typename T>
struct Normal {
  T integral;
  T density;
};

FEDMOE_ALWAYS_INLINE Normal<float> NormalAt(float x) {
  const float magnitude = x < 0.0F ? -x : x;
  const float e = ExpOfNegative(-0.5F * x * x);
  const float t = 1.0F / (1.0F + 0.3275911F * std::numbers::sqrt2_v<float> * 0.5F * magnitude);
  float p = 1.061405429F;
  p = p * t - 1.453152027F;
  p = p * t + 1.421413741F;
  p = p * t - 0.284496736F;
  p = p * t + 0.254829592F;
  const float tail = 0.5F * (p * t) * e;
  return {x < 0.0F ? tail : 1.0F - tail, e * 0.398942280F};
}
FEDMOE_ALWAYS_INLINE Normal<double> NormalAt(double x) {
  return {0.5 * std::erfc(-x / std::numbers::sqrt2),
          std::exp(-0.5 * x * x) * 0.5 * std::numbers::sqrt2 * std::numbers::inv_sqrtpi};
}

// h of one value, and its derivatives times h's gradient.
template <ExpertActivation activation, typename T>
FEDMOE_ALWAYS_INLINE T Activate(T up, T gate) {
  if constexpr (activation == ExpertActivation::kRelu) return up < T{0} ? T{0} : up;
  if constexpr (activation == ExpertActivation::kGelu) return up * NormalAt(up).integral;
  if constexpr (activation == ExpertActivation::kSilu) return up * Sigmoid(up);
  if constexpr (activation == ExpertActivation::kSwiGlu) return gate * Sigmoid(gate) * up;
}

template <typename T>
struct ActivationGradient {
  T hidden;
  T by_up;
  T by_gate;
};

template <ExpertActivation activation, typename T>
FEDMOE_ALWAYS_INLINE ActivationGradient<T> Differentiate(T up, T gate) {
  if constexpr (activation == ExpertActivation::kRelu) {
    return {up < T{0} ? T{0} : up, up > T{0} ? T{1} : T{0}, T{0}};
  } else if constexpr (activation == ExpertActivation::kGelu) {
    const Normal<T> normal = NormalAt(up);
    return {up * normal.integral, normal.integral + up * normal.density, T{0}};
  } else {
    const T x = activation == ExpertActivation::kSilu ? up : gate;
    const T sigmoid = Sigmoid(x);
    const T silu = x * sigmoid;
    const T slope = sigmoid + silu * (T{1} - sigmoid);
    if constexpr (activation == ExpertActivation::kSilu) return {silu, slope, T{0}};
    return {silu * up, silu, slope * up};
  }
}

}  // namespace fedmoe
