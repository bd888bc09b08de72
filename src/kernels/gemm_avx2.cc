#include "kernels/gemm_avx2.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "kernels/uninitialized_buffer.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define FEDMOE_AVX2 __attribute__((target("avx2,fma")))

namespace fedmoe {
namespace {

// A tile of C in registers: 12 of the 16 hold it, 2 a row of B, 1 an element of A.
constexpr std::int64_t kTileRows = 6;
constexpr std::int64_t kTileColumns = 16;
// A panel of B, kDepth x 16, is half of the first-level cache; kDepth x kColumns half of the
// second.
constexpr std::int64_t kDepth = 256;
constexpr std::int64_t kColumns = 256;
constexpr std::int64_t kRows = 32 * kTileRows;

// How far ahead of their use the rows of B are fetched.
constexpr std::int64_t kRowsAhead = 4;

// What one step of the outer loops works on: C [.., columns] += A [.., depth] B [depth, columns].
struct Step {
  std::int64_t depth;
  const float* panels;  // B, packed: [columns / 16][depth][16], zeros beyond the last column
  std::int64_t columns;
  float beta;
  float* c;
  std::int64_t ldc;
};

// Eight rows of eight values, transposed: out[i * 16 + j] = in[j * stride + i].
FEDMOE_AVX2 inline void TransposeBlock(const float* in, std::int64_t stride, float* out) {
  __m256 r[8];
  __m256 s[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    _mm_prefetch(in + (i + kTileColumns) * stride, _MM_HINT_T0);  // the next panel's
    r[i] = _mm256_loadu_ps(in + i * stride);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 4; ++i) {
    s[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    s[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 2; ++i) {
    r[4 * i] = _mm256_shuffle_ps(s[4 * i], s[4 * i + 2], 0x44);
    r[4 * i + 1] = _mm256_shuffle_ps(s[4 * i], s[4 * i + 2], 0xEE);
    r[4 * i + 2] = _mm256_shuffle_ps(s[4 * i + 1], s[4 * i + 3], 0x44);
    r[4 * i + 3] = _mm256_shuffle_ps(s[4 * i + 1], s[4 * i + 3], 0xEE);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 4; ++i) {
    _mm256_store_ps(out + i * kTileColumns, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
    _mm256_store_ps(out + (i + 4) * kTileColumns, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  }
}

// The columns of B that do not fill a panel, with zeros beside them.
void PackEdge(Op op, const float* b, std::int64_t ldb, std::int64_t depth, std::int64_t width,
              float* panel) {
  for (std::int64_t p = 0; p < depth; ++p) {
    for (std::int64_t j = 0; j < kTileColumns; ++j) {
      const std::int64_t at = op == Op::kNone ? p * ldb + j : j * ldb + p;
      panel[p * kTileColumns + j] = j < width ? b[at] : 0.0F;
    }
  }
}

// B [depth, columns] in panels of 16 columns, along its rows: they come from far away.
FEDMOE_AVX2 void PackRows(const float* b, std::int64_t ldb, std::int64_t depth,
                          std::int64_t columns, float* panels) {
  const std::int64_t whole = columns / kTileColumns * kTileColumns;
  for (std::int64_t p = 0; p < depth; ++p) {
    const float* const row = b + p * ldb;
    float* out = panels + p * kTileColumns;
    for (std::int64_t j = 0; j < whole; j += kTileColumns, out += depth * kTileColumns) {
      _mm_prefetch(row + kRowsAhead * ldb + j, _MM_HINT_T0);
      _mm256_store_ps(out, _mm256_loadu_ps(row + j));
      _mm256_store_ps(out + 8, _mm256_loadu_ps(row + j + 8));
    }
  }
  if (whole < columns) {
    PackEdge(Op::kNone, b + whole, ldb, depth, columns - whole, panels + depth * whole);
  }
}

// The same from B^T, stored as [columns, ldb].
FEDMOE_AVX2 void PackColumns(const float* b, std::int64_t ldb, std::int64_t depth,
                             std::int64_t columns, float* panels) {
  std::int64_t j = 0;
  for (; j + kTileColumns <= columns; j += kTileColumns, panels += depth * kTileColumns) {
    std::int64_t p = 0;
    for (; p + 8 <= depth; p += 8) {
      TransposeBlock(b + j * ldb + p, ldb, panels + p * kTileColumns);
      TransposeBlock(b + (j + 8) * ldb + p, ldb, panels + p * kTileColumns + 8);
    }
    PackEdge(Op::kTranspose, b + j * ldb + p, ldb, depth - p, kTileColumns,
             panels + p * kTileColumns);
  }
  if (j < columns) PackEdge(Op::kTranspose, b + j * ldb, ldb, depth, columns - j, panels);
}

// One strip of A^T, stored as [depth, lda]: `rows` of its columns, 6 values apart.
FEDMOE_AVX2 void PackStrip(const float* a, std::int64_t lda, std::int64_t depth, std::int64_t rows,
                           float* strip) {
  if (rows == kTileRows) {
    for (std::int64_t p = 0; p < depth; ++p) {
      std::memcpy(strip + p * kTileRows, a + p * lda, kTileRows * sizeof(float));
    }
  } else {
    for (std::int64_t p = 0; p < depth; ++p) {
      for (std::int64_t i = 0; i < rows; ++i) strip[p * kTileRows + i] = a[p * lda + i];
    }
  }
}

// The first row of a strip, when `rows` rows are cut into strips of 6, and so that none has fewer
// than 4 where there are 12 or more: short tiles leave the units idle.
std::int64_t StripBegin(std::int64_t rows, std::int64_t strip) {
  const std::int64_t strips = (rows + kTileRows - 1) / kTileRows;
  const std::int64_t missing = strips * kTileRows - rows;  // 0 to 5, taken from the last strips
  const std::int64_t short_strips = std::min(missing, strips);
  const std::int64_t first_short = strips - short_strips;
  if (strip <= first_short) return strip * kTileRows;
  return first_short * kTileRows +
         (rows - first_short * kTileRows) * (strip - first_short) / short_strips;
}

// A tile of C, `count` rows and 16 columns: the sum over depth, then C = sum + beta C.
template <int count, bool packed>
FEDMOE_AVX2 void Tile(std::int64_t depth, const float* a, std::int64_t lda, const float* panel,
                      float beta, float* c, std::int64_t ldc) {
  __m256 sums[count][2];
#pragma GCC unroll 6
  for (int i = 0; i < count; ++i) {
    _mm_prefetch(c + i * ldc + (packed ? 2 : 1) * kTileColumns - 1, _MM_HINT_T0);
    sums[i][0] = sums[i][1] = _mm256_setzero_ps();
  }
  for (std::int64_t p = 0; p < depth; ++p) {
    const __m256 left = _mm256_load_ps(panel + p * kTileColumns);
    const __m256 right = _mm256_load_ps(panel + p * kTileColumns + 8);
#pragma GCC unroll 6
    for (int i = 0; i < count; ++i) {
      const __m256 factor = _mm256_broadcast_ss(packed ? a + p * kTileRows + i : a + i * lda + p);
      sums[i][0] = _mm256_fmadd_ps(factor, left, sums[i][0]);
      sums[i][1] = _mm256_fmadd_ps(factor, right, sums[i][1]);
    }
  }
  const __m256 scale = _mm256_set1_ps(beta);
#pragma GCC unroll 6
  for (int i = 0; i < count; ++i) {
    float* const row = c + i * ldc;
    if (beta != 0.0F) {
      sums[i][0] = _mm256_fmadd_ps(scale, _mm256_loadu_ps(row), sums[i][0]);
      sums[i][1] = _mm256_fmadd_ps(scale, _mm256_loadu_ps(row + 8), sums[i][1]);
    }
    _mm256_storeu_ps(row, sums[i][0]);
    _mm256_storeu_ps(row + 8, sums[i][1]);
  }
}

using TileFunction = void (*)(std::int64_t, const float*, std::int64_t, const float*, float, float*,
                              std::int64_t);
constexpr std::array<TileFunction, 6> kNaturalTiles{Tile<1, false>, Tile<2, false>, Tile<3, false>,
                                                    Tile<4, false>, Tile<5, false>, Tile<6, false>};
constexpr std::array<TileFunction, 6> kPackedTiles{Tile<1, true>, Tile<2, true>, Tile<3, true>,
                                                   Tile<4, true>, Tile<5, true>, Tile<6, true>};

// A tile with fewer than 16 columns, by way of one that has them.
void EdgeTile(TileFunction tile, const Step& step, const float* a, std::int64_t lda,
              const float* panel, std::int64_t rows, std::int64_t width, float* c) {
  alignas(32) std::array<float, kTileRows * kTileColumns> whole{};
  tile(step.depth, a, lda, panel, 0.0F, whole.data(), kTileColumns);
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < width; ++j) {
      const float sum = whole[static_cast<std::size_t>(i * kTileColumns + j)];
      float& to = c[i * step.ldc + j];
      to = step.beta == 0.0F ? sum : sum + step.beta * to;
    }
  }
}

// The tile of strip s and panel column j.
void OneTile(const Step& step, const float* a, std::int64_t lda, const float* strips,
             std::int64_t rows, std::int64_t s, std::int64_t j, float* c) {
  const std::int64_t begin = StripBegin(rows, s);
  const std::int64_t height = StripBegin(rows, s + 1) - begin;
  const auto index = static_cast<std::size_t>(height - 1);
  const TileFunction tile = strips == nullptr ? kNaturalTiles[index] : kPackedTiles[index];
  const float* const from =
      strips == nullptr ? a + begin * lda : strips + s * kTileRows * step.depth;
  const float* const panel = step.panels + j * step.depth;
  float* const to = c + begin * step.ldc + j;
  const std::int64_t width = std::min(kTileColumns, step.columns - j);
  if (width == kTileColumns) {
    tile(step.depth, from, lda, panel, step.beta, to, step.ldc);
  } else {
    EdgeTile(tile, step, from, lda, panel, height, width, to);
  }
}

// All tiles of `rows` rows; `strips` are the packed rows of A, or null: then a is their first.
void Tiles(const Step& step, const float* a, std::int64_t lda, const float* strips,
           std::int64_t rows, float* c) {
  const std::int64_t count = (rows + kTileRows - 1) / kTileRows;
  if (strips != nullptr) {
    // Weight gradients: C comes from far away, so it is walked along its rows.
    for (std::int64_t s = 0; s < count; ++s) {
      for (std::int64_t j = 0; j < step.columns; j += kTileColumns) {
        OneTile(step, a, lda, strips, rows, s, j, c);
      }
    }
    return;
  }
  for (std::int64_t j = 0; j < step.columns; j += kTileColumns) {
    for (std::int64_t s = 0; s < count; ++s) OneTile(step, a, lda, strips, rows, s, j, c);
  }
}

// A thread's packed panels of B and strips of A.
struct Packed {
  UninitializedBuffer<float> panels;
  UninitializedBuffer<float> strips;
  Packed() {
    panels.Resize(kDepth * kColumns);
    strips.Resize(kDepth * kRows);
  }
};

}  // namespace

bool HasAvx2() { return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0; }

void GemmAvx2(Op op_a, Op op_b, std::int64_t m, std::int64_t n, std::int64_t k, const float* a,
              std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c,
              std::int64_t ldc) {
  thread_local Packed packed;
  float* const strips = op_a == Op::kTranspose ? packed.strips.data() : nullptr;
  for (std::int64_t j = 0; j < n; j += kColumns) {
    for (std::int64_t p = 0; p < k; p += kDepth) {
      const Step step{.depth = std::min(kDepth, k - p),
                      .panels = packed.panels.data(),
                      .columns = std::min(kColumns, n - j),
                      .beta = p == 0 ? beta : 1.0F,
                      .c = c + j,
                      .ldc = ldc};
      if (op_b == Op::kNone) {
        PackRows(b + p * ldb + j, ldb, step.depth, step.columns, packed.panels.data());
      } else {
        PackColumns(b + j * ldb + p, ldb, step.depth, step.columns, packed.panels.data());
      }
      if (strips == nullptr) {
        Tiles(step, a + p, lda, nullptr, m, step.c);
        continue;
      }
      for (std::int64_t i = 0; i < m; i += kRows) {
        const std::int64_t rows = std::min(kRows, m - i);
        for (std::int64_t s = 0; s * kTileRows < rows; ++s) {
          const std::int64_t begin = StripBegin(rows, s);
          PackStrip(a + p * lda + i + begin, lda, step.depth, StripBegin(rows, s + 1) - begin,
                    strips + s * kTileRows * step.depth);
        }
        Tiles(step, nullptr, lda, strips, rows, step.c + i * ldc);
      }
    }
  }
}

}  // namespace fedmoe

#else

namespace fedmoe {

bool HasAvx2() { return false; }
void GemmAvx2(Op, Op, std::int64_t, std::int64_t, std::int64_t, const float*, std::int64_t,
              const float*, std::int64_t, float, float*, std::int64_t) {}

}  // namespace fedmoe

#endif
