// Our own float product for AVX2 and FMA, after Goto and van de Geijn (2008, Anatomy of
// High-Performance Matrix Multiplication), cut for small products: A is packed only where its rows
// do not lie along k.
#pragma once

#include "kernels/gemm.h"

namespace fedmoe {

// Whether the CPU can run GemmAvx2.
bool HasAvx2();

// As Gemm, on the calling thread. Keeps up to 512 KiB a thread for packed panels. Only where
// HasAvx2; k is at least 1.
void GemmAvx2(Op op_a, Op op_b, std::int64_t m, std::int64_t n, std::int64_t k, const float* a,
              std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c,
              std::int64_t ldc);

}  // namespace fedmoe
