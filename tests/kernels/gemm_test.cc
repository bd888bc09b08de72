#include "kernels/gemm.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include <gtest/gtest.h>

#include "common/counter_rng.h"

namespace fedmoe {
namespace {

constexpr std::uint64_t kSeed = 3;

using FloatProduct = void (*)(Op, Op, std::int64_t, std::int64_t, std::int64_t, const float*,
                              std::int64_t, const float*, std::int64_t, float, float*,
                              std::int64_t);

// Two matrices with room beside their rows, in float and in double.
struct Product {
  std::int64_t m, n, k;
  Op op_a, op_b;
  std::int64_t lda() const { return (op_a == Op::kNone ? k : m) + 3; }
  std::int64_t ldb() const { return (op_b == Op::kNone ? n : k) + 5; }
  std::int64_t ldc() const { return n + 2; }

  template <typename T>
  std::vector<T> Run(T beta, T start, bool library = false) const {
    CounterRng rng(kSeed);
    std::vector<T> a(static_cast<std::size_t>(lda() * (op_a == Op::kNone ? m : k)));
    std::vector<T> b(static_cast<std::size_t>(ldb() * (op_b == Op::kNone ? k : n)));
    for (T& value : a) value = static_cast<T>(static_cast<float>(rng.NextNormal()));
    for (T& value : b) value = static_cast<T>(static_cast<float>(rng.NextNormal()));
    std::vector<T> c(static_cast<std::size_t>(ldc() * m), start);
    if constexpr (std::is_same_v<T, float>) {
      (library ? GemmFromLibrary : static_cast<FloatProduct>(Gemm))(
          op_a, op_b, m, n, k, a.data(), lda(), b.data(), ldb(), beta, c.data(), ldc());
    } else {
      Gemm(op_a, op_b, m, n, k, a.data(), lda(), b.data(), ldb(), beta, c.data(), ldc());
    }
    return c;
  }
};

TEST(Gemm, AgreesWithLoopsForEveryForm) {
  for (const Op op_a : {Op::kNone, Op::kTranspose}) {
    for (const Op op_b : {Op::kNone, Op::kTranspose}) {
      for (const auto& [m, n, k] : std::vector<std::tuple<int, int, int>>{
               {1, 1, 1}, {3, 17, 5}, {33, 48, 100}, {128, 65, 31}, {7, 600, 64}, {200, 20, 600}}) {
        const Product product{.m = m, .n = n, .k = k, .op_a = op_a, .op_b = op_b};
        SCOPED_TRACE(std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k) +
                     ", seed " + std::to_string(kSeed));
        for (const float beta : {0.0F, 1.0F, -0.5F}) {
          const std::vector<double> expected = product.Run(static_cast<double>(beta), 2.0);
          for (const bool library : {false, true}) {
            const std::vector<float> sums = product.Run(beta, 2.0F, library);
            for (std::size_t i = 0; i < sums.size(); ++i) {
              ASSERT_NEAR(sums[i], expected[i], 1e-4) << i << ", library " << library;
            }
          }
        }
      }
    }
  }
}

TEST(Gemm, ReadsNothingOfItsOutputWithBetaZeroAndWritesNothingBesideIt) {
  const Product product{.m = 20, .n = 30, .k = 40, .op_a = Op::kNone, .op_b = Op::kTranspose};
  const std::vector<float> c = product.Run(0.0F, std::numeric_limits<float>::quiet_NaN());
  for (std::size_t i = 0; i < c.size(); ++i) {
    const bool beside = static_cast<std::int64_t>(i) % product.ldc() >= product.n;
    EXPECT_EQ(std::isnan(c[i]), beside) << i;
  }
}

// Strips of A and panels of B of every height and width.
TEST(Gemm, AgreesWithLoopsForEveryRemainder) {
  for (std::int64_t m = 1; m <= 20; ++m) {
    for (std::int64_t n = 1; n <= 34; ++n) {
      for (const Op op : {Op::kNone, Op::kTranspose}) {
        const Product product{.m = m, .n = n, .k = 9, .op_a = op, .op_b = op};
        const std::vector<float> sums = product.Run(1.0F, 2.0F);
        const std::vector<double> expected = product.Run(1.0, 2.0);
        for (std::size_t i = 0; i < sums.size(); ++i) {
          ASSERT_NEAR(sums[i], expected[i], 1e-5) << m << " x " << n << ", value " << i;
        }
      }
    }
  }
}

TEST(Gemm, NamesItsLibrary) {
  const std::string name = GemmLibrary();
  EXPECT_TRUE(name == "onednn" || name == "cblas" || name == "plain") << name;
}

}  // namespace
}  // namespace fedmoe
