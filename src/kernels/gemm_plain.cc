#include "kernels/gemm_plain.h"

namespace fedmoe {

void GemmFromLibrary(Op op_a, Op op_b, std::int64_t m, std::int64_t n, std::int64_t k,
                     const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta,
                     float* c, std::int64_t ldc) {
  GemmPlain(op_a, op_b, m, n, k, a, lda, b, ldb, beta, c, ldc);
}

const char* GemmLibrary() { return "plain"; }

}  // namespace fedmoe
