#include "kernels/gemm.h"

#include <cstring>

#include "kernels/gemm_avx2.h"

namespace fedmoe {

bool GemmIsOurs() {
  static const bool ours = [] {
    if (!HasAvx2()) return false;
#if defined(__x86_64__)
    // The libraries' kernels for AVX-512 are twice as wide.
    return __builtin_cpu_supports("avx512f") == 0 || std::strcmp(GemmLibrary(), "plain") == 0;
#else
    return true;
#endif
  }();
  return ours;
}

void Gemm(Op op_a, Op op_b, std::int64_t m, std::int64_t n, std::int64_t k, const float* a,
          std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c,
          std::int64_t ldc) {
  if (GemmIsOurs() && k > 0) {
    GemmAvx2(op_a, op_b, m, n, k, a, lda, b, ldb, beta, c, ldc);
  } else {
    GemmFromLibrary(op_a, op_b, m, n, k, a, lda, b, ldb, beta, c, ldc);
  }
}

}  // namespace fedmoe
