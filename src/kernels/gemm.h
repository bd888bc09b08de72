// One matrix product, behind which what computes it is exchanged: C = op(A) op(B) + beta C,
// row-major. On a CPU with AVX2 and FMA but without AVX-512 it is our own kernel, which at a MoE
// layer's sizes is faster than the libraries; elsewhere a library. A libtorch from elsewhere may
// carry its own oneDNN, so CMake's FEDMOE_GEMM chooses the library: onednn (dnnl_sgemm), cblas
// (cblas_sgemm of whatever BLAS is linked) or plain (loops).
#pragma once

#include <cstdint>

namespace fedmoe {

enum class Op { kNone, kTranspose };

// op(A): [m, k], op(B): [k, n], C: [m, n]; `lda`, `ldb` and `ldc` are the distances between the
// stored rows, in elements. beta 0 writes C whole and reads nothing of it, beta 1 adds to it.
// Inside RunOnThreads (expert_ops_parallel.h) it runs on the calling thread alone; the same call
// gives the same bits on every thread of a machine.
void Gemm(Op op_a, Op op_b, std::int64_t m, std::int64_t n, std::int64_t k, const float* a,
          std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c,
          std::int64_t ldc);

// The library's product, whatever the CPU.
void GemmFromLibrary(Op op_a, Op op_b, std::int64_t m, std::int64_t n, std::int64_t k,
                     const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta,
                     float* c, std::int64_t ldc);

// Plain loops, for tests.
void Gemm(Op op_a, Op op_b, std::int64_t m, std::int64_t n, std::int64_t k, const double* a,
          std::int64_t lda, const double* b, std::int64_t ldb, double beta, double* c,
          std::int64_t ldc);

// "onednn", "cblas" or "plain".
const char* GemmLibrary();

// Whether Gemm is our own kernel on this CPU.
bool GemmIsOurs();

}  // namespace fedmoe
