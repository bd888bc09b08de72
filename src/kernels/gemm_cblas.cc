#include <cblas.h>

#include "kernels/gemm.h"

namespace fedmoe {

void GemmFromLibrary(Op op_a, Op op_b, std::int64_t m, std::int64_t n, std::int64_t k,
                     const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta,
                     float* c, std::int64_t ldc) {
  cblas_sgemm(CblasRowMajor, op_a == Op::kNone ? CblasNoTrans : CblasTrans,
              op_b == Op::kNone ? CblasNoTrans : CblasTrans, static_cast<int>(m),
              static_cast<int>(n), static_cast<int>(k), 1.0F, a, static_cast<int>(lda), b,
              static_cast<int>(ldb), beta, c, static_cast<int>(ldc));
}

const char* GemmLibrary() { return "cblas"; }

}  // namespace fedmoe
