// The experts of one MoE layer, forward and backward: every token through its chosen experts' FFNs,
// weighted by the gate and summed. Dropless, no padding, no copy of a weight.
//
//   two-matrix  h = act(W_up x + b_up)                          FFN(x) = W_down h + b_down
//   gated       h = SiLU(W_gate x) * (W_up x + b_up)            FFN(x) = W_down h + b_down (SwiGLU,
//                                                               Shazeer, 2020, arXiv 2002.05202)
//   y_t = sum over slots j of weight[t, j] FFN_{expert[t, j]}(x_t)
//
// All matrices are row-major and dense. float is what runs; double is for tests.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/expert_routing.h"
#include "kernels/uninitialized_buffer.h"

namespace fedmoe {

enum class ExpertActivation {
  kRelu,
  kGelu,    // exact: x Phi(x)
  kSilu,    // x sigmoid(x)
  kSwiGlu,  // gated
};

struct MoeFfnShape {
  std::int64_t width = 0;   // d, of a token
  std::int64_t hidden = 0;  // f, of an expert
  ExpertActivation activation = ExpertActivation::kRelu;
};

// One expert's parameters, where they stand. Biases may be null: then they are zero.
template <typename T>
struct ExpertWeights {
  const T* gate = nullptr;       // [hidden, width]; kSwiGlu only
  const T* up = nullptr;         // [hidden, width]
  const T* up_bias = nullptr;    // [hidden]
  const T* down = nullptr;       // [width, hidden]
  const T* down_bias = nullptr;  // [width]
};

// One expert's gradients, of the same shapes. Backward adds to them; those of an expert without
// tokens are not touched; a null one is not computed.
template <typename T>
struct ExpertGradients {
  T* gate = nullptr;
  T* up = nullptr;
  T* up_bias = nullptr;
  T* down = nullptr;
  T* down_bias = nullptr;
};

// What Forward leaves for Backward: values before the activation, a row for each routed slot in the
// routing's sorted order.
template <typename T>
struct MoeFfnSaved {
  UninitializedBuffer<T> up;    // [rows, hidden], with its bias
  UninitializedBuffer<T> gate;  // [rows, hidden]; kSwiGlu only
};

// y [tokens, width] is written whole. x: [tokens, width]; weights: [tokens, slots]; experts by the
// routing's expert index. `saved` null: nothing is kept (evaluation). One parallel region of
// `threads` threads (at least 1); the result has the same bits for any number of them. Scratch
// memory stays with the calling thread, see expert_ops_scratch.h.
template <typename T>
void MoeFfnForward(const MoeFfnShape& shape, const ExpertRouting& routing,
                   std::span<const ExpertWeights<T>> experts, std::span<const T> x,
                   std::span<const T> weights, int threads, std::span<T> y, MoeFfnSaved<T>* saved);

// From dy [tokens, width]: dx [tokens, width] and d_weights [tokens, slots], written whole (either
// may be empty: not computed), and the experts' gradients, added (empty: none). One parallel
// region, same bits for any number of threads.
template <typename T>
void MoeFfnBackward(const MoeFfnShape& shape, const ExpertRouting& routing,
                    std::span<const ExpertWeights<T>> experts, std::span<const T> x,
                    std::span<const T> weights, std::span<const T> dy, const MoeFfnSaved<T>& saved,
                    int threads, std::span<T> dx, std::span<T> d_weights,
                    std::span<const ExpertGradients<T>> gradients);

// The plain loops that the fast versions are tested against; same contract, one thread.
template <typename T>
void MoeFfnForwardReference(const MoeFfnShape& shape, const ExpertRouting& routing,
                            std::span<const ExpertWeights<T>> experts, std::span<const T> x,
                            std::span<const T> weights, std::span<T> y);
template <typename T>
void MoeFfnBackwardReference(const MoeFfnShape& shape, const ExpertRouting& routing,
                             std::span<const ExpertWeights<T>> experts, std::span<const T> x,
                             std::span<const T> weights, std::span<const T> dy, std::span<T> dx,
                             std::span<T> d_weights, std::span<const ExpertGradients<T>> gradients);

}  // namespace fedmoe
