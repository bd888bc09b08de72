// The product as loops, for double and for a machine without a library.
#pragma once

#include <cstdint>

#include "kernels/gemm.h"

namespace fedmoe {

// As Gemm. Sums over k in order, in the element's own precision.
template <typename T>
void GemmPlain(Op op_a, Op op_b, std::int64_t m, std::int64_t n, std::int64_t k, const T* a,
               std::int64_t lda, const T* b, std::int64_t ldb, T beta, T* c, std::int64_t ldc) {
  for (std::int64_t i = 0; i < m; ++i) {
    T* const row = c + i * ldc;
    for (std::int64_t j = 0; j < n; ++j) row[j] = beta == T{0} ? T{0} : beta * row[j];
    for (std::int64_t p = 0; p < k; ++p) {
      const T factor = op_a == Op::kNone ? a[i * lda + p] : a[p * lda + i];
      const T* const start = op_b == Op::kNone ? b + p * ldb : b + p;
      const std::int64_t stride = op_b == Op::kNone ? 1 : ldb;
      for (std::int64_t j = 0; j < n; ++j) row[j] += factor * start[j * stride];
    }
  }
}

}  // namespace fedmoe
