#include "kernels/weighted_sum_scaled.h"

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#define FEDMOE_AVX2 __attribute__((target("avx2,fma")))
#endif

#include "kernels/cpu_features.h"
#include "kernels/function_versions.h"
#include "kernels/weighted_sum_group.h"

namespace fedmoe {
namespace {

constexpr std::size_t kElements = 64;
constexpr std::size_t kHalf = kElements / 2;
constexpr std::size_t kInt8Bytes = sizeof(float) + kElements;
constexpr std::size_t kInt4Bytes = sizeof(float) + kHalf;

// Where the sums of a unit go: added to float64, or from zero to float32, past the caches or not.
enum class Output { kAdd, kStore, kStream };

template <Output kOutput, typename Element>
void UnitsPlain(const std::byte* const* sources, const double* weights, std::size_t source_count,
                std::size_t units, Element* out) {
  for (std::size_t i = 0; i < units * kElements; ++i) {
    double sum = kOutput == Output::kAdd ? static_cast<double>(out[i]) : 0.0;
    for (std::size_t s = 0; s < source_count; ++s) {
      const std::byte* const unit = sources[s] + i / kElements * kInt8Bytes;
      float scale;
      std::memcpy(&scale, unit, sizeof(scale));
      const auto step = static_cast<std::int8_t>(unit[sizeof(scale) + i % kElements]);
      sum = std::fma(weights[s] * static_cast<double>(scale), static_cast<double>(step), sum);
    }
    out[i] = static_cast<Element>(sum);
  }
}

#if defined(__x86_64__)

// How far ahead of its use a source is fetched, in bytes.
constexpr std::size_t kAhead = 512;
constexpr std::size_t kLanes = 4;
constexpr std::size_t kRegisters = 4;
constexpr std::size_t kStep = kRegisters * kLanes;

template <Output kOutput, typename Element>
FEDMOE_AVX2 inline void StoreLanes(__m256d lanes, Element* out) {
  if constexpr (kOutput == Output::kAdd) {
    _mm256_storeu_pd(out, lanes);
  } else if constexpr (kOutput == Output::kStream) {
    _mm_stream_ps(out, _mm256_cvtpd_ps(lanes));
  } else {
    _mm_storeu_ps(out, _mm256_cvtpd_ps(lanes));
  }
}

template <Output kOutput, typename Element>
FEDMOE_AVX2 inline void UnitAvx2(const std::byte* const* sources, const double* scaled,
                                 std::size_t source_count, std::size_t at, Element* out) {
  for (std::size_t i = 0; i < kElements; i += kStep) {
    __m256d lanes[kRegisters] = {};
    if constexpr (kOutput == Output::kAdd) {
#pragma GCC unroll 4
      for (std::size_t r = 0; r < kRegisters; ++r) lanes[r] = _mm256_loadu_pd(out + i + r * kLanes);
    }
    for (std::size_t s = 0; s < source_count; ++s) {
      const std::byte* const steps = sources[s] + at + sizeof(float) + i;
      const __m256d weight = _mm256_broadcast_sd(scaled + s);
#pragma GCC unroll 4
      for (std::size_t r = 0; r < kRegisters; ++r) {
        std::int32_t four;
        std::memcpy(&four, steps + r * kLanes, sizeof(four));
        const __m128i widened = _mm_cvtepi8_epi32(_mm_cvtsi32_si128(four));
        lanes[r] = _mm256_fmadd_pd(weight, _mm256_cvtepi32_pd(widened), lanes[r]);
      }
    }
#pragma GCC unroll 4
    for (std::size_t r = 0; r < kRegisters; ++r) {
      StoreLanes<kOutput>(lanes[r], out + i + r * kLanes);
    }
  }
}

template <Output kOutput, typename Element>
FEDMOE_AVX2 void UnitsAvx2(const std::byte* const* sources, const double* weights,
                           std::size_t source_count, std::size_t units, Element* out) {
  double scaled[kSumGroup];
  for (std::size_t unit = 0; unit < units; ++unit) {
    const std::size_t at = unit * kInt8Bytes;
    for (std::size_t s = 0; s < source_count; ++s) {
      float scale;
      std::memcpy(&scale, sources[s] + at, sizeof(scale));
      scaled[s] = weights[s] * static_cast<double>(scale);
      _mm_prefetch(sources[s] + at + kAhead, _MM_HINT_T0);
    }
    UnitAvx2<kOutput>(sources, scaled, source_count, at, out + unit * kElements);
  }
}

void OrderStreams() { _mm_sfence(); }

#else

template <Output kOutput, typename Element>
void UnitsAvx2(const std::byte* const* sources, const double* weights, std::size_t source_count,
               std::size_t units, Element* out) {
  UnitsPlain<kOutput>(sources, weights, source_count, units, out);
}
void OrderStreams() {}

#endif

template <Output kOutput, typename Element>
void Units(const std::byte* const* sources, const double* weights, std::size_t source_count,
           std::size_t units, Element* out) {
  if (HasAvx2AndFma()) {
    UnitsAvx2<kOutput>(sources, weights, source_count, units, out);
  } else {
    UnitsPlain<kOutput>(sources, weights, source_count, units, out);
  }
}

}  // namespace

void AddScaledGroup(const std::byte* const* sources, const double* weights,
                    std::size_t source_count, std::size_t units, double* sums) {
  Units<Output::kAdd>(sources, weights, source_count, units, sums);
}

void SumScaledGroup(const std::byte* const* sources, const double* weights,
                    std::size_t source_count, std::size_t units, bool stream, float* out) {
  if (!stream || reinterpret_cast<std::uintptr_t>(out) % 16 != 0) {
    return Units<Output::kStore>(sources, weights, source_count, units, out);
  }
  Units<Output::kStream>(sources, weights, source_count, units, out);
  OrderStreams();
}

FEDMOE_FUNCTION_VERSIONS void WidenInt4(const std::byte* int4, std::size_t units, std::byte* int8) {
  for (std::size_t unit = 0; unit < units; ++unit) {
    std::memcpy(int8, int4, sizeof(float));
    std::uint8_t packed[kHalf];
    std::memcpy(packed, int4 + sizeof(float), kHalf);
    std::int8_t steps[kElements];
    for (std::size_t j = 0; j < kHalf; ++j) {
      // (x ^ 8) - 8 extends the sign of four bits.
      steps[j] = static_cast<std::int8_t>(((packed[j] & 0xF) ^ 8) - 8);
      steps[j + kHalf] = static_cast<std::int8_t>(((packed[j] >> 4) ^ 8) - 8);
    }
    std::memcpy(int8 + sizeof(float), steps, kElements);
    int4 += kInt4Bytes;
    int8 += kInt8Bytes;
  }
}

}  // namespace fedmoe
