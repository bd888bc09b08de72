#include "kernels/expert_ops.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "tests/kernels/moe_ffn_case.h"

namespace fedmoe {
namespace {

constexpr std::uint64_t kSeed = 5;
constexpr RowOrder kOrders[] = {RowOrder::kSorted, RowOrder::kSlot, RowOrder::kToken};

// A routing and, for every order of rows, arrays of two widths.
template <typename T>
struct Batch {
  static constexpr std::int64_t kA = 19;
  static constexpr std::int64_t kB = 45;
  MoeFfnCase<T> layer;
  std::vector<T> a, b;
  std::vector<const T*> weights, biases;

  explicit Batch(Load load)
      : layer({.tokens = 301, .width = kA, .hidden = kB, .experts = 5, .load = load}, kSeed) {
    CounterRng rng(kSeed + 1);
    const auto draw = [&](std::int64_t count) {
      std::vector<T> values(static_cast<std::size_t>(count));
      for (T& value : values) value = static_cast<T>(static_cast<float>(rng.NextNormal()));
      return values;
    };
    a = draw(layer.sizes.tokens * layer.sizes.slots * kA);
    b = draw(layer.sizes.tokens * layer.sizes.slots * kB);
    for (std::size_t e = 0; e < layer.up.size(); ++e) {
      weights.push_back(layer.up[e].data());
      biases.push_back(e == 2 ? nullptr : layer.up_bias[e].data());
    }
  }
  std::size_t Rows() const { return layer.routing.place.size(); }
};

template <typename T>
std::vector<T*> Pointers(std::vector<std::vector<T>>& arrays) {
  std::vector<T*> pointers;
  for (std::vector<T>& array : arrays) pointers.push_back(array.data());
  pointers[3] = nullptr;
  return pointers;
}

class ExpertOps : public testing::TestWithParam<Load> {};

TEST_P(ExpertOps, EsmmMultipliesEveryRowByItsExpertsMatrix) {
  const Batch<float> with(GetParam());
  const Batch<double> truth(GetParam());
  constexpr float kUntouched = -7.0F;
  for (const RowOrder in : kOrders) {
    for (const RowOrder out : {RowOrder::kSorted, RowOrder::kSlot}) {
      for (const WeightForm form : {WeightForm::kOutIn, WeightForm::kInOut}) {
        // up is [kB, kA]: forward it maps kA to kB, backward kB to kA.
        const bool forward = form == WeightForm::kOutIn;
        const EsmmShape shape{.in_width = forward ? Batch<float>::kA : Batch<float>::kB,
                              .out_width = forward ? Batch<float>::kB : Batch<float>::kA,
                              .form = form,
                              .in_order = in,
                              .out_order = out};
        const std::size_t values = with.Rows() * static_cast<std::size_t>(shape.out_width);
        std::vector<float> y(values, kUntouched);
        std::vector<float> again(values, kUntouched);
        std::vector<double> expected(values, kUntouched);
        const std::vector<const float*> biases =
            forward ? with.biases : std::vector<const float*>{};
        const std::vector<const double*> true_biases =
            forward ? truth.biases : std::vector<const double*>{};
        Esmm<float>(shape, with.layer.routing, with.weights, biases, forward ? with.a : with.b, 1,
                    y);
        Esmm<float>(shape, with.layer.routing, with.weights, biases, forward ? with.a : with.b, 3,
                    again);
        EsmmReference<double>(shape, truth.layer.routing, truth.weights, true_biases,
                              forward ? truth.a : truth.b, expected);
        EXPECT_LE(RelativeError(y, expected), 1e-6);
        EXPECT_EQ(y, again);
      }
    }
  }
}

TEST_P(ExpertOps, EssAddsUpTheRowsOfEachExpert) {
  const Batch<float> with(GetParam());
  const Batch<double> truth(GetParam());
  for (const RowOrder order : kOrders) {
    std::vector<std::vector<float>> sums(5, std::vector<float>(Batch<float>::kB, 2.0F));
    std::vector<std::vector<double>> expected(5, std::vector<double>(Batch<float>::kB, 2.0));
    Ess<float>(Batch<float>::kB, order, with.layer.routing, with.b, 2, Pointers(sums));
    EssReference<double>(Batch<float>::kB, order, truth.layer.routing, truth.b, Pointers(expected));
    for (std::size_t e = 0; e < 5; ++e) EXPECT_LE(RelativeError(sums[e], expected[e]), 1e-5);
  }
}

TEST_P(ExpertOps, EstmmAddsUpTheOuterProductsOfEachExpert) {
  const Batch<float> with(GetParam());
  const Batch<double> truth(GetParam());
  constexpr std::size_t kArea = Batch<float>::kA * Batch<float>::kB;
  for (const RowOrder a_order : kOrders) {
    for (const RowOrder b_order : kOrders) {
      const EstmmShape shape{.a_width = Batch<float>::kA,
                             .b_width = Batch<float>::kB,
                             .a_order = a_order,
                             .b_order = b_order};
      std::vector<std::vector<float>> products(5, std::vector<float>(kArea, 2.0F));
      std::vector<std::vector<float>> again = products;
      std::vector<std::vector<double>> expected(5, std::vector<double>(kArea, 2.0));
      Estmm<float>(shape, with.layer.routing, with.a, with.b, 1, Pointers(products));
      Estmm<float>(shape, with.layer.routing, with.a, with.b, 3, Pointers(again));
      EstmmReference<double>(shape, truth.layer.routing, truth.a, truth.b, Pointers(expected));
      EXPECT_EQ(products, again);
      for (std::size_t e = 0; e < 5; ++e) EXPECT_LE(RelativeError(products[e], expected[e]), 1e-5);
      EXPECT_EQ(products[3], std::vector<float>(kArea, 2.0F));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Loads, ExpertOps,
                         testing::Values(Load::kUniform, Load::kOneExpert, Load::kHoles));

}  // namespace
}  // namespace fedmoe
