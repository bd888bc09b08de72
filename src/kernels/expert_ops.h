// The expert-specific operators of HEXA-MoE (Luo et al., 2024, arXiv 2411.01288): matrix products
// in which every row is multiplied by the matrix of its expert. They gather on input and scatter
// on output, so that no row is padded and no matrix copied. Each is one parallel region of
// `threads` threads with the same bits for any number of them; float runs, double is for tests.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/expert_routing.h"

namespace fedmoe {

// Which row of an array belongs to the sorted row r of a routing.
enum class RowOrder {
  kSorted,  // row r of [rows]
  kSlot,    // row slot_row[r] of [tokens * slots]
  kToken,   // row slot_row[r] / slots of [tokens]; input only, as several rows share one
};

enum class WeightForm {
  kOutIn,  // [out_width, in_width]: y = W x, an FFN forward
  kInOut,  // [in_width, out_width]: y = W^T x, the same W backward
};

struct EsmmShape {
  std::int64_t in_width = 0;
  std::int64_t out_width = 0;
  WeightForm form = WeightForm::kOutIn;
  RowOrder in_order = RowOrder::kToken;
  RowOrder out_order = RowOrder::kSorted;  // not kToken
};

// esmm, expert-specific matrix multiply: y_r = W_e x_r + b_e for every sorted row r of expert e.
// weights[e] and biases[e] ([out_width]) by the routing's expert; biases may be empty, and single
// ones null. Rows of y without a sorted row (kSlot, slots routed to no expert) are not touched.
template <typename T>
void Esmm(const EsmmShape& shape, const ExpertRouting& routing, std::span<const T* const> weights,
          std::span<const T* const> biases, std::span<const T> x, int threads, std::span<T> y);
template <typename T>
void EsmmReference(const EsmmShape& shape, const ExpertRouting& routing,
                   std::span<const T* const> weights, std::span<const T* const> biases,
                   std::span<const T> x, std::span<T> y);

// ess, expert-specific sum: sums[e] ([width]) += the sum of expert e's rows of x. A null sums[e]
// is not computed.
template <typename T>
void Ess(std::int64_t width, RowOrder order, const ExpertRouting& routing, std::span<const T> x,
         int threads, std::span<T* const> sums);
template <typename T>
void EssReference(std::int64_t width, RowOrder order, const ExpertRouting& routing,
                  std::span<const T> x, std::span<T* const> sums);

struct EstmmShape {
  std::int64_t a_width = 0;
  std::int64_t b_width = 0;
  RowOrder a_order = RowOrder::kSorted;
  RowOrder b_order = RowOrder::kToken;
};

// estmm, expert-specific transposed multiply: products[e] ([a_width, b_width]) += the sum over
// expert e's rows of a_r b_r^T. A null products[e] is not computed. The task is a band of output
// rows, so that one expert with many rows is spread over the threads.
template <typename T>
void Estmm(const EstmmShape& shape, const ExpertRouting& routing, std::span<const T> a,
           std::span<const T> b, int threads, std::span<T* const> products);
template <typename T>
void EstmmReference(const EstmmShape& shape, const ExpertRouting& routing, std::span<const T> a,
                    std::span<const T> b, std::span<T* const> products);

}  // namespace fedmoe
