// One matrix product, behind which the library that computes it is exchanged: C = op(A) op(B) +
// beta C, row-major. A libtorch from elsewhere may carry its own oneDNN, so CMake's FEDMOE_GEMM
// chooses: onednn (dnnl_sgemm), cblas (cblas_sgemm of whatever BLAS is linked) or plain (loops).
#pragma once

#include <cstdint>

namespace fedmoe {

enum class Op { kNone, kTranspose };

// op(A): [m, k], op(B): [k, n], C: [m, n]; `lda`, `ldb` and `ldc` are the distances between the
// stored rows, in elements. beta 0 writes C whole and reads nothing of it, beta 1 adds to it.
// Runs on the calling thread alone inside a parallel region or after `UseOneGemmThread`; the same
// call gives the same bits on every thread.
void Gemm(Op op_a, Op op_b, std::int64_t m, std::int64_t n, std::int64_t k, const float* a,
          std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c,
          std::int64_t ldc);

// Plain loops, for tests.
void Gemm(Op op_a, Op op_b, std::int64_t m, std::int64_t n, std::int64_t k, const double* a,
          std::int64_t lda, const double* b, std::int64_t ldb, double beta, double* c,
          std::int64_t ldc);

// "onednn", "cblas" or "plain".
const char* GemmLibrary();

}  // namespace fedmoe
