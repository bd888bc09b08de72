#include "kernels/codec_draws.h"

#include "common/counter_rng.h"
#include "common/philox.h"
#include "kernels/function_versions.h"

namespace fedmoe {
namespace {

constexpr std::size_t kLanes = 16;

// words[w * kLanes + l] = word w of the block with counter `first` + l.
FEDMOE_FUNCTION_VERSIONS void PhiloxLanes(std::uint64_t first, std::uint32_t key0,
                                          std::uint32_t key1, std::uint32_t* words) {
  std::uint32_t* const c0 = words;
  std::uint32_t* const c1 = words + kLanes;
  std::uint32_t* const c2 = words + 2 * kLanes;
  std::uint32_t* const c3 = words + 3 * kLanes;
  for (std::size_t l = 0; l < kLanes; ++l) {
    c0[l] = static_cast<std::uint32_t>(first + l);
    c1[l] = static_cast<std::uint32_t>((first + l) >> 32);
    c2[l] = 0;
    c3[l] = 0;
  }
  for (int round = 0; round < kPhiloxRounds; ++round) {
    for (std::size_t l = 0; l < kLanes; ++l) {
      const std::uint64_t product0 = kPhiloxMultiplier0 * c0[l];
      const std::uint64_t product1 = kPhiloxMultiplier1 * c2[l];
      c0[l] = static_cast<std::uint32_t>(product1 >> 32) ^ c1[l] ^ key0;
      c1[l] = static_cast<std::uint32_t>(product1);
      c2[l] = static_cast<std::uint32_t>(product0 >> 32) ^ c3[l] ^ key1;
      c3[l] = static_cast<std::uint32_t>(product0);
    }
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
}

}  // namespace

void UnitDraws(std::uint64_t key, std::uint64_t unit, std::array<std::uint32_t, 64>& draws) {
  PhiloxLanes(kLanes * unit, LowWord(key), HighWord(key), draws.data());
}

std::uint32_t DrawReference(std::uint64_t key, std::uint64_t element) {
  const std::uint64_t counter = element / 64 * kLanes + element % kLanes;
  return Philox4x32({LowWord(counter), HighWord(counter), 0, 0},
                    {LowWord(key), HighWord(key)})[element % 64 / kLanes];
}

}  // namespace fedmoe
