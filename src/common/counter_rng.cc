#include "common/counter_rng.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "common/philox.h"

namespace fedmoe {

std::array<std::uint32_t, 4> Philox4x32(std::array<std::uint32_t, 4> counter,
                                        std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const std::uint64_t product0 = kPhiloxMultiplier0 * counter[0];
    const std::uint64_t product1 = kPhiloxMultiplier1 * counter[2];
    counter = {HighWord(product1) ^ counter[1] ^ key[0], LowWord(product1),
               HighWord(product0) ^ counter[3] ^ key[1], LowWord(product0)};
    key[0] += kPhiloxWeyl0;
    key[1] += kPhiloxWeyl1;
  }
  return counter;
}

std::uint64_t MixKey(std::initializer_list<std::uint64_t> words) {
  KeyMixer mixer(words.size());
  for (const std::uint64_t word : words) mixer.Add(word);
  return mixer.key();
}

std::uint64_t KeyOf(std::string_view text) {
  std::uint64_t hash = 0xCBF29CE484222325;
  for (const char c : text) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  }
  return KeyMixer::Finalise(hash);
}

CounterRng CounterRng::For(std::uint64_t seed, std::string_view client, std::int64_t round,
                           std::string_view purpose) {
  return CounterRng(
      MixKey({seed, KeyOf(client), static_cast<std::uint64_t>(round), KeyOf(purpose)}));
}

std::uint32_t CounterRng::NextU32() {
  if (used_ == 4) {
    buffer_ =
        Philox4x32({LowWord(block_), HighWord(block_), 0, 0}, {LowWord(key_), HighWord(key_)});
    ++block_;
    used_ = 0;
  }
  return buffer_[static_cast<std::size_t>(used_++)];
}

std::uint64_t CounterRng::NextU64() {
  const std::uint64_t low = NextU32();
  const std::uint64_t high = NextU32();
  return low | (high << 32);
}

double CounterRng::NextUniform() { return static_cast<double>(NextU64() >> 11) * 0x1.0p-53; }

double CounterRng::NextNormal() {
  if (has_spare_normal_) {
    has_spare_normal_ = false;
    return spare_normal_;
  }
  // 1 - u is in (0, 1], so that the logarithm is finite.
  const double radius = std::sqrt(-2.0 * std::log(1.0 - NextUniform()));
  const double angle = 2.0 * std::numbers::pi * NextUniform();
  spare_normal_ = radius * std::sin(angle);
  has_spare_normal_ = true;
  return radius * std::cos(angle);
}

std::uint64_t CounterRng::NextBelow(std::uint64_t bound) {
  // 2^64 mod bound: draws under it would make the small remainders more frequent.
  const std::uint64_t threshold = (0 - bound) % bound;
  std::uint64_t draw = NextU64();
  while (draw < threshold) draw = NextU64();
  return draw % bound;
}

double CounterRng::NextGamma(double shape) {
  if (shape < 1.0) {
    // Gamma(a) = Gamma(a + 1) U^(1/a). Kept above zero, so that shares of a sum of tiny draws stay
    // defined.
    const double scale = std::pow(1.0 - NextUniform(), 1.0 / shape);
    return std::max(NextGamma(shape + 1.0) * scale, std::numeric_limits<double>::min());
  }
  // Marsaglia and Tsang, ACM TOMS 26(3), 2000.
  const double d = shape - 1.0 / 3.0;
  const double c = 1.0 / std::sqrt(9.0 * d);
  while (true) {
    const double x = NextNormal();
    const double root = 1.0 + c * x;
    const double uniform = 1.0 - NextUniform();
    if (root <= 0.0) continue;
    const double v = root * root * root;
    if (std::log(uniform) < 0.5 * x * x + d - d * v + d * std::log(v)) return d * v;
  }
}

}  // namespace fedmoe
