#include "kernels/codec_draws.h"

#include "common/counter_rng.h"
#include "kernels/function_versions.h"

namespace fedmoe {
namespace {

// common/counter_rng has the same for one counter, and the source of the constants.
constexpr std::uint64_t kMultiplier0 = 0xD2511F53;
constexpr std::uint64_t kMultiplier1 = 0xCD9E8D57;
constexpr std::uint32_t kWeyl0 = 0x9E3779B9;
constexpr std::uint32_t kWeyl1 = 0xBB67AE85;
constexpr int kRounds = 10;
constexpr std::size_t kLanes = 16;

std::uint32_t Low(std::uint64_t value) { return static_cast<std::uint32_t>(value); }
std::uint32_t High(std::uint64_t value) { return static_cast<std::uint32_t>(value >> 32); }

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
  for (int round = 0; round < kRounds; ++round) {
    for (std::size_t l = 0; l < kLanes; ++l) {
      const std::uint64_t product0 = kMultiplier0 * c0[l];
      const std::uint64_t product1 = kMultiplier1 * c2[l];
      c0[l] = static_cast<std::uint32_t>(product1 >> 32) ^ c1[l] ^ key0;
      c1[l] = static_cast<std::uint32_t>(product1);
      c2[l] = static_cast<std::uint32_t>(product0 >> 32) ^ c3[l] ^ key1;
      c3[l] = static_cast<std::uint32_t>(product0);
    }
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
}

}  // namespace

void UnitDraws(std::uint64_t key, std::uint64_t unit, std::array<std::uint32_t, 64>& draws) {
  PhiloxLanes(kLanes * unit, Low(key), High(key), draws.data());
}

std::uint32_t DrawReference(std::uint64_t key, std::uint64_t element) {
  const std::uint64_t counter = element / 64 * kLanes + element % kLanes;
  return Philox4x32({Low(counter), High(counter), 0, 0},
                    {Low(key), High(key)})[element % 64 / kLanes];
}

}  // namespace fedmoe
