#include "kernels/weighted_sum_encoded.h"

#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "common/counter_rng.h"
#include "kernels/weighted_sum.h"

namespace fedmoe {
namespace {

constexpr std::uint64_t kSeed = 20260211;
constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

std::vector<std::uint32_t> Bits(std::span<const float> values) {
  std::vector<std::uint32_t> bits;
  for (const float value : values) bits.push_back(std::bit_cast<std::uint32_t>(value));
  return bits;
}

// Parts from the last to the first, each on a thread of its own.
ParallelFor BackwardThreads() {
  return [](int parts, const std::function<void(int)>& body) {
    std::vector<std::jthread> threads;
    for (int part = parts - 1; part >= 0; --part) threads.emplace_back([&, part] { body(part); });
  };
}

// Clients with values and weights of their own.
struct Clients {
  std::vector<std::vector<std::byte>> payloads;
  std::vector<EncodedValues> sources;
  std::vector<double> weights;
};

Clients RandomClients(CounterRng& rng, std::size_t size, const std::vector<Encoding>& encodings) {
  Clients clients;
  for (const Encoding encoding : encodings) {
    std::vector<float> values(size);
    for (float& value : values) value = static_cast<float>(rng.NextNormal());
    std::vector<std::byte> payload(EncodedBytes(encoding, size, size / 10));
    EXPECT_TRUE(EncodeValues(encoding, values, 0, rng.NextU64(), payload).ok());
    clients.payloads.push_back(std::move(payload));
    clients.sources.push_back({encoding, 0, size, clients.payloads.back()});
    clients.weights.push_back(rng.NextUniform());
  }
  return clients;
}

std::vector<Encoding> RandomEncodings(CounterRng& rng, std::size_t count) {
  std::vector<Encoding> encodings;
  for (std::size_t i = 0; i < count; ++i) {
    encodings.push_back(static_cast<Encoding>(rng.NextBelow(kEncodings)));
  }
  return encodings;
}

std::vector<float> Reference(const Clients& clients, std::uint64_t first, std::size_t count) {
  std::vector<float> out(count, kPoison);
  WeightedSumEncodedReference(clients.sources, clients.weights, first, out);
  return out;
}

TEST(WeightedSumEncoded, AddsClientByClient) {
  const std::vector<float> a{1.0F, 2.0F};
  std::vector<std::byte> top(8);
  ASSERT_TRUE(EncodeValues(Encoding::kTopK, std::vector<float>{0.0F, -8.0F}, 0, 0, top).ok());
  const std::vector<EncodedValues> sources{{Encoding::kFloat32, 0, 2, std::as_bytes(std::span(a))},
                                           {Encoding::kTopK, 0, 2, top}};
  std::vector<float> out(2, kPoison);
  ASSERT_TRUE(WeightedSumEncoded(sources, std::vector<double>{0.5, 0.25}, 0, out).ok());
  EXPECT_EQ(out, (std::vector<float>{0.5F, -1.0F}));
}

TEST(WeightedSumEncoded, IsNearTheSumOfTheDecodedValues) {
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  CounterRng rng(kSeed);
  const Clients clients = RandomClients(rng, 1000, RandomEncodings(rng, 12));
  std::vector<float> out(1000, kPoison);
  ASSERT_TRUE(WeightedSumEncoded(clients.sources, clients.weights, 0, out).ok());
  std::vector<float> decoded(1000);
  std::vector<double> sums(1000, 0.0);
  for (std::size_t s = 0; s < 12; ++s) {
    ASSERT_TRUE(DecodeValues(clients.sources[s], 0, decoded).ok());
    for (std::size_t i = 0; i < 1000; ++i) {
      sums[i] += clients.weights[s] * static_cast<double>(decoded[i]);
    }
  }
  for (std::size_t i = 0; i < 1000; ++i) EXPECT_NEAR(out[i], sums[i], 2e-6);
}

TEST(WeightedSumEncoded, EqualsTheReferenceBitForBitForEveryEncodingSizeAndPlace) {
  SCOPED_TRACE("seed " + std::to_string(kSeed + 1));
  CounterRng rng(kSeed + 1);
  for (std::uint32_t kind = 0; kind <= kEncodings; ++kind) {
    for (const std::size_t count : {1, 3, 8, 9, 17}) {
      for (const std::size_t size : {1, 63, 64, 65, 511, 512, 513, 1500}) {
        // The last kind: a mixture.
        const Clients clients =
            RandomClients(rng, size,
                          kind < kEncodings ? std::vector(count, static_cast<Encoding>(kind))
                                            : RandomEncodings(rng, count));
        const std::size_t first = rng.NextBelow(size);
        for (const auto& [begin, length] :
             {std::pair{std::size_t{0}, size}, std::pair{first, rng.NextBelow(size - first) + 1}}) {
          std::vector<float> out(length, kPoison);
          ASSERT_TRUE(WeightedSumEncoded(clients.sources, clients.weights, begin, out).ok());
          ASSERT_EQ(Bits(out), Bits(Reference(clients, begin, length)))
              << "kind " << kind << ", " << count << " clients, elements " << begin << " + "
              << length << " of " << size;
        }
      }
    }
  }
}

TEST(WeightedSumEncoded, HasTheBitsOfTheFloatKernel) {
  SCOPED_TRACE("seed " + std::to_string(kSeed + 2));
  CounterRng rng(kSeed + 2);
  const Clients clients = RandomClients(rng, 1234, std::vector(11, Encoding::kFloat32));
  std::vector<const float*> rows;
  for (const auto& payload : clients.payloads) {
    rows.push_back(reinterpret_cast<const float*>(payload.data()));
  }
  std::vector<float> floats(1234, kPoison);
  std::vector<float> out(1234, kPoison);
  WeightedSum(rows, clients.weights, floats);
  ASSERT_TRUE(WeightedSumEncoded(clients.sources, clients.weights, 0, out).ok());
  EXPECT_EQ(Bits(out), Bits(floats));
}

TEST(WeightedSumEncoded, ThreadsWindowsAndGroupsDoNotChangeABit) {
  SCOPED_TRACE("seed " + std::to_string(kSeed + 3));
  CounterRng rng(kSeed + 3);
  constexpr std::size_t kSize = 700'000;  // three parts
  const Clients clients = RandomClients(
      rng, kSize,
      {Encoding::kInt8, Encoding::kInt8, Encoding::kFloat32, Encoding::kTopK, Encoding::kInt4,
       Encoding::kFloat16, Encoding::kBfloat16, Encoding::kInt8, Encoding::kInt8, Encoding::kTopK});
  std::vector<float> whole(kSize, kPoison);
  ASSERT_TRUE(WeightedSumEncoded(clients.sources, clients.weights, 0, whole).ok());
  std::vector<float> threaded(kSize, kPoison);
  ASSERT_TRUE(
      WeightedSumEncoded(clients.sources, clients.weights, 0, threaded, BackwardThreads()).ok());
  EXPECT_EQ(Bits(threaded), Bits(whole));

  std::vector<double> sums(kSize, 0.0);
  for (std::size_t first = 0; first < kSize; first += 123'456) {
    const std::size_t count = std::min<std::size_t>(123'456, kSize - first);
    for (std::size_t s = 0; s < clients.sources.size(); s += 3) {
      const std::size_t group = std::min<std::size_t>(3, clients.sources.size() - s);
      ASSERT_TRUE(AccumulateEncoded(std::span(clients.sources).subspan(s, group),
                                    std::span(clients.weights).subspan(s, group), first,
                                    std::span(sums).subspan(first, count), BackwardThreads())
                      .ok());
    }
  }
  std::vector<float> grouped(kSize, kPoison);
  RoundSums(sums, grouped);
  EXPECT_EQ(Bits(grouped), Bits(whole));
}

TEST(WeightedSumEncoded, ALargeOutputHasTheSameBits) {
  // Over 32 MiB: written past the caches, from an address that is and one that is not aligned.
  constexpr std::size_t kSize = (std::size_t{8} << 20) + 100;
  for (const Encoding encoding : {Encoding::kFloat32, Encoding::kInt8}) {
    CounterRng rng(kSeed + 4);
    std::vector<float> values(kSize);
    for (std::size_t i = 0; i < kSize; ++i) values[i] = static_cast<float>(i % 1013) - 500.0F;
    std::vector<std::byte> payload(EncodedBytes(encoding, kSize));
    ASSERT_TRUE(EncodeValues(encoding, values, 0, 1, payload).ok());
    const std::vector<EncodedValues> sources(2, {encoding, 0, kSize, payload});
    const std::vector<double> weights{0.25, 0.5};
    std::vector<float> small(1000, kPoison);
    for (const std::size_t shift : {0, 1}) {
      std::vector<float> out(kSize + 1, kPoison);
      ASSERT_TRUE(
          WeightedSumEncoded(sources, weights, 0, std::span(out).subspan(shift, kSize)).ok());
      for (const std::size_t first : {std::size_t{0}, kSize / 2, kSize - 1000}) {
        ASSERT_TRUE(WeightedSumEncoded(sources, weights, first, small).ok());
        ASSERT_EQ(Bits(std::span(out).subspan(first + shift, 1000)), Bits(small));
      }
      EXPECT_TRUE(std::isnan(shift == 0 ? out.back() : out.front())) << "written out of bounds";
    }
  }
}

TEST(WeightedSumEncoded, ReadsAWindowOfABlock) {
  SCOPED_TRACE("seed " + std::to_string(kSeed + 5));
  CounterRng rng(kSeed + 5);
  const Clients clients = RandomClients(rng, 1024, {Encoding::kInt8, Encoding::kInt4});
  std::vector<EncodedValues> windows;
  for (const EncodedValues& source : clients.sources) {
    const std::size_t unit = UnitBytes(source.encoding);
    windows.push_back({source.encoding, 128, 640, source.payload.subspan(2 * unit, 10 * unit)});
  }
  std::vector<float> out(600, kPoison);
  ASSERT_TRUE(WeightedSumEncoded(windows, clients.weights, 130, out).ok());
  EXPECT_EQ(Bits(out), Bits(Reference(clients, 130, 600)));
}

TEST(WeightedSumEncoded, DoesNotReadASourceWithoutWeight) {
  const std::vector<float> bad{kPoison};
  const std::vector<float> good{2.0F};
  const std::vector<EncodedValues> sources{
      {Encoding::kFloat32, 0, 1, std::as_bytes(std::span(bad))},
      {Encoding::kFloat32, 0, 1, std::as_bytes(std::span(good))}};
  std::vector<float> out(1, kPoison);
  ASSERT_TRUE(WeightedSumEncoded(sources, std::vector<double>{0.0, 1.0}, 0, out).ok());
  EXPECT_EQ(out[0], 2.0F);
  out[0] = kPoison;
  ASSERT_TRUE(WeightedSumEncoded({}, {}, 0, out).ok());
  EXPECT_EQ(out[0], 0.0F) << "no source: zeros";
}

TEST(WeightedSumEncoded, RefusesSourcesThatDoNotFit) {
  const std::vector<std::byte> payload(68);
  std::vector<float> out(10, 3.0F);
  const std::vector<double> one{1.0};
  const auto message = [&](const EncodedValues& source, std::uint64_t first) {
    return WeightedSumEncoded(std::span(&source, 1), one, first, out).message();
  };
  EXPECT_EQ(message({Encoding::kInt8, 0, 63, payload}, 0),
            "source 0: payload of 68 bytes, 63 int8 elements have 67");
  EXPECT_EQ(message({Encoding::kInt8, 64, 64, payload}, 60),
            "source 0: elements 60 to 70 are not within 64 to 128");
  EXPECT_EQ(message({Encoding::kInt8, 64, 64, payload}, 119),
            "source 0: elements 119 to 129 are not within 64 to 128");
  EXPECT_EQ(WeightedSumEncoded({}, one, 0, out).message(), "0 sources have 1 weights");
  EXPECT_EQ(out, std::vector<float>(10, 3.0F)) << "the output is as it was";
}

}  // namespace
}  // namespace fedmoe
