// Counter-based random numbers (Philox4x32-10, Salmon et al., SC 2011): a stream is a pure function
// of its key, so that any draw of a run can be repeated alone, on any machine, in any order.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <utility>
#include <vector>

namespace fedmoe {

// One Philox4x32-10 block: 128 random bits from a 128-bit counter and a 64-bit key.
std::array<std::uint32_t, 4> Philox4x32(std::array<std::uint32_t, 4> counter,
                                        std::array<std::uint32_t, 2> key);

// Mixes values into a 64-bit key (SplitMix64 finaliser); the order of the words counts.
std::uint64_t MixKey(std::initializer_list<std::uint64_t> words);
// MixKey, word by word, for keys that begin alike: MixKey({a, b}) is
// KeyMixer(2).Add(a).Add(b).key().
class KeyMixer {
 public:
  // The count goes in first, so that (a) and (a, 0) differ.
  explicit KeyMixer(std::uint64_t words) : key_(Finalise(words + kGoldenGamma)) {}
  KeyMixer& Add(std::uint64_t word) {
    key_ = Finalise((key_ ^ word) + kGoldenGamma);
    return *this;
  }
  std::uint64_t key() const { return key_; }

  // The output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection on 64 bits.
  static std::uint64_t Finalise(std::uint64_t value) {
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB;
    return value ^ (value >> 31);
  }

 private:
  static constexpr std::uint64_t kGoldenGamma = 0x9E3779B97F4A7C15;
  std::uint64_t key_;
};
// A 64-bit word from text (FNV-1a, then mixed), for naming purposes and clients in keys.
std::uint64_t KeyOf(std::string_view text);

// A stream of draws. Copyable; not thread-safe.
class CounterRng {
 public:
  explicit CounterRng(std::uint64_t key) : key_(key) {}
  // The stream for (seed, client, round, purpose): how all client and coordinator randomness is
  // keyed.
  static CounterRng For(std::uint64_t seed, std::string_view client, std::int64_t round,
                        std::string_view purpose);

  std::uint32_t NextU32();
  std::uint64_t NextU64();
  double NextUniform();                          // [0, 1), 53 bits
  double NextNormal();                           // N(0, 1), Box-Muller
  std::uint64_t NextBelow(std::uint64_t bound);  // [0, bound) without bias; bound > 0
  double NextGamma(double shape);                // Gamma(shape, 1), shape > 0 (Marsaglia and Tsang)

  // Fisher-Yates, so that the order depends on nothing but the stream.
  template <typename T>
  void Shuffle(std::vector<T>& items) {
    for (std::size_t i = items.size(); i > 1; --i) {
      std::swap(items[i - 1], items[static_cast<std::size_t>(NextBelow(i))]);
    }
  }

 private:
  std::uint64_t key_;
  std::uint64_t block_ = 0;
  std::array<std::uint32_t, 4> buffer_{};
  int used_ = 4;
  bool has_spare_normal_ = false;
  double spare_normal_ = 0.0;
};

}  // namespace fedmoe
