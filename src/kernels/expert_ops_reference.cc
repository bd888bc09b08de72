#include "kernels/expert_ops.h"
#include "kernels/expert_ops_gather.h"

namespace fedmoe {
namespace {

// Calls body(expert, row) for every sorted row.
template <typename Body>
void ForEachRow(const ExpertRouting& routing, const Body& body) {
  for (std::int64_t expert = 0; expert < routing.experts(); ++expert) {
    for (std::int64_t i = 0; i < routing.RowsOf(expert); ++i) {
      body(static_cast<std::size_t>(expert), routing.offsets[static_cast<std::size_t>(expert)] + i);
    }
  }
}

}  // namespace

template <typename T>
void EsmmReference(const EsmmShape& shape, const ExpertRouting& routing,
                   std::span<const T* const> weights, std::span<const T* const> biases,
                   std::span<const T> x, std::span<T> y) {
  ForEachRow(routing, [&](std::size_t expert, std::int64_t row) {
    const T* const in = x.data() + RowIn(shape.in_order, routing, row) * shape.in_width;
    T* const out = y.data() + RowIn(shape.out_order, routing, row) * shape.out_width;
    const T* const bias = biases.empty() ? nullptr : biases[expert];
    for (std::int64_t o = 0; o < shape.out_width; ++o) {
      T sum = bias == nullptr ? T{0} : bias[o];
      for (std::int64_t i = 0; i < shape.in_width; ++i) {
        sum +=
            in[i] * (shape.form == WeightForm::kOutIn ? weights[expert][o * shape.in_width + i]
                                                      : weights[expert][i * shape.out_width + o]);
      }
      out[o] = sum;
    }
  });
}

template <typename T>
void EssReference(std::int64_t width, RowOrder order, const ExpertRouting& routing,
                  std::span<const T> x, std::span<T* const> sums) {
  ForEachRow(routing, [&](std::size_t expert, std::int64_t row) {
    if (sums[expert] == nullptr) return;
    const T* const in = x.data() + RowIn(order, routing, row) * width;
    for (std::int64_t i = 0; i < width; ++i) sums[expert][i] += in[i];
  });
}

template <typename T>
void EstmmReference(const EstmmShape& shape, const ExpertRouting& routing, std::span<const T> a,
                    std::span<const T> b, std::span<T* const> products) {
  ForEachRow(routing, [&](std::size_t expert, std::int64_t row) {
    if (products[expert] == nullptr) return;
    const T* const a_row = a.data() + RowIn(shape.a_order, routing, row) * shape.a_width;
    const T* const b_row = b.data() + RowIn(shape.b_order, routing, row) * shape.b_width;
    for (std::int64_t i = 0; i < shape.a_width; ++i) {
      for (std::int64_t j = 0; j < shape.b_width; ++j) {
        products[expert][i * shape.b_width + j] += a_row[i] * b_row[j];
      }
    }
  });
}

#define FEDMOE_INSTANTIATE(T)                                                                     \
  template void EsmmReference<T>(const EsmmShape&, const ExpertRouting&,                          \
                                 std::span<const T* const>, std::span<const T* const>,            \
                                 std::span<const T>, std::span<T>);                               \
  template void EssReference<T>(std::int64_t, RowOrder, const ExpertRouting&, std::span<const T>, \
                                std::span<T* const>);                                             \
  template void EstmmReference<T>(const EstmmShape&, const ExpertRouting&, std::span<const T>,    \
                                  std::span<const T>, std::span<T* const>);
FEDMOE_INSTANTIATE(float)
FEDMOE_INSTANTIATE(double)

}  // namespace fedmoe
