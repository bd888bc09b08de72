#include "kernels/weighted_sum_group.h"

#include <cmath>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels/cpu_features.h"

namespace fedmoe {
namespace {

// Why float64, when the sum of a few float32 would be as accurate as the deltas are: the sum is the
// same for any grouping of any number of clients and does not drift with it, and it is almost free.
// A pass reads 32 bytes from memory for each sum of eight clients; the sums themselves stay in
// registers. Why fused: the product is not rounded, and on this kernel's pipes an addition competes
// with the conversion from float32, which takes two operations already. With both, arithmetic takes
// half of the time in which the bytes arrive.

// Elements a step: a cache line of each source.
constexpr std::size_t kStep = 16;

double AddOne(const float* const* sources, const double* weights, std::size_t source_count,
              std::size_t at, double sum) {
  for (std::size_t s = 0; s < source_count; ++s) {
    sum = std::fma(weights[s], static_cast<double>(sources[s][at]), sum);
  }
  return sum;
}

#if defined(__x86_64__)

#define FEDMOE_AVX2 __attribute__((target("avx2,fma")))

// How far ahead of its use a source is fetched, in elements. The hardware's prefetcher follows
// eight streams, but with too few lines in flight to reach what memory can deliver.
constexpr std::size_t kAhead = 64;
constexpr std::size_t kLanes = 4;
constexpr std::size_t kRegisters = kStep / kLanes;

struct StepSums {
  __m256d lanes[kRegisters];
};

FEDMOE_AVX2 inline void AddStep(const float* const* sources, const double* weights,
                                std::size_t source_count, std::size_t at, StepSums& sums) {
  for (std::size_t s = 0; s < source_count; ++s) {
    const float* const source = sources[s] + at;
    const __m256d weight = _mm256_broadcast_sd(weights + s);
    _mm_prefetch(source + kAhead, _MM_HINT_T0);
#pragma GCC unroll 4
    for (std::size_t r = 0; r < kRegisters; ++r) {
      const __m256d values = _mm256_cvtps_pd(_mm_loadu_ps(source + r * kLanes));
      sums.lanes[r] = _mm256_fmadd_pd(weight, values, sums.lanes[r]);
    }
  }
}

FEDMOE_AVX2 std::size_t AddSteps(const float* const* sources, const double* weights,
                                 std::size_t source_count, std::size_t count, double* sums) {
  std::size_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    StepSums step;
#pragma GCC unroll 4
    for (std::size_t r = 0; r < kRegisters; ++r) {
      step.lanes[r] = _mm256_loadu_pd(sums + i + r * kLanes);
    }
    AddStep(sources, weights, source_count, i, step);
#pragma GCC unroll 4
    for (std::size_t r = 0; r < kRegisters; ++r) {
      _mm256_storeu_pd(sums + i + r * kLanes, step.lanes[r]);
    }
  }
  return i;
}

// `out` is aligned to 16 bytes where it is streamed to.
template <bool kStream>
FEDMOE_AVX2 std::size_t SumSteps(const float* const* sources, const double* weights,
                                 std::size_t source_count, std::size_t count, float* out) {
  std::size_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    StepSums step = {};
    AddStep(sources, weights, source_count, i, step);
#pragma GCC unroll 4
    for (std::size_t r = 0; r < kRegisters; ++r) {
      const __m128 rounded = _mm256_cvtpd_ps(step.lanes[r]);
      if (kStream) {
        _mm_stream_ps(out + i + r * kLanes, rounded);
      } else {
        _mm_storeu_ps(out + i + r * kLanes, rounded);
      }
    }
  }
  if (kStream) _mm_sfence();
  return i;
}

#else

std::size_t AddSteps(const float* const*, const double*, std::size_t, std::size_t, double*) {
  return 0;
}
template <bool kStream>
std::size_t SumSteps(const float* const*, const double*, std::size_t, std::size_t, float*) {
  return 0;
}

#endif

bool IsAligned(const float* address) { return reinterpret_cast<std::uintptr_t>(address) % 16 == 0; }

}  // namespace

void AddGroup(const float* const* sources, const double* weights, std::size_t source_count,
              std::size_t count, double* sums) {
  std::size_t i = 0;
  if (HasAvx2AndFma()) i = AddSteps(sources, weights, source_count, count, sums);
  for (; i < count; ++i) {
    sums[i] = AddOne(sources, weights, source_count, i, sums[i]);
  }
}

void SumGroup(const float* const* sources, const double* weights, std::size_t source_count,
              std::size_t count, bool stream, float* out) {
  std::size_t i = 0;
  if (HasAvx2AndFma()) {
    i = stream && IsAligned(out) ? SumSteps<true>(sources, weights, source_count, count, out)
                                 : SumSteps<false>(sources, weights, source_count, count, out);
  }
  for (; i < count; ++i) {
    out[i] = static_cast<float>(AddOne(sources, weights, source_count, i, 0.0));
  }
}

}  // namespace fedmoe
