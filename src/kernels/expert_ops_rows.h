// What the expert operators do to rows beside matrix products. Every version that the CPU may
// choose gives the same bits: sums over a row run in 16 lanes of a fixed order.
#pragma once

#include <cstdint>

#include "kernels/moe_ffn.h"

namespace fedmoe {

// out[i] = in[i] * factor, out[i] += in[i] * factor, out[i] += in[i]; `count` values each.
void ScaleRow(const float* in, float factor, std::int64_t count, float* out);
void ScaleRow(const double* in, double factor, std::int64_t count, double* out);
void AddScaledRow(const float* in, float factor, std::int64_t count, float* out);
void AddScaledRow(const double* in, double factor, std::int64_t count, double* out);
void AddRow(const float* in, std::int64_t count, float* out);
void AddRow(const double* in, std::int64_t count, double* out);

// Sum of a[i] * b[i].
float DotRow(const float* a, const float* b, std::int64_t count);
double DotRow(const double* a, const double* b, std::int64_t count);

// Adds the bias (may be null) to a row before the activation, in place, and writes the hidden row:
// h = act(up), or SiLU(gate) * up. In float, exp has a relative error under 2e-7 and Phi an
// absolute error under 3e-7 (Abramowitz and Stegun, 1964, 7.1.26).
void ActivateRow(ExpertActivation activation, const float* bias, std::int64_t count, float* up,
                 const float* gate, float* hidden);
void ActivateRow(ExpertActivation activation, const double* bias, std::int64_t count, double* up,
                 const double* gate, double* hidden);

// One row backward. In: up and gate before the activation, and in `d_up` the gradient dh of h
// before the gate's weight. Out: d_up and d_gate (gated only) with the weight, hidden = weight * h.
// Returns the sum of dh * h.
float ActivateRowBackward(ExpertActivation activation, const float* up, const float* gate,
                          float weight, std::int64_t count, float* d_up, float* d_gate,
                          float* hidden);
double ActivateRowBackward(ExpertActivation activation, const double* up, const double* gate,
                           double weight, std::int64_t count, double* d_up, double* d_gate,
                           double* hidden);

}  // namespace fedmoe
