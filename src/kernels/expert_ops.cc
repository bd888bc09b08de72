#include "kernels/expert_ops.h"

#include <vector>

#include "kernels/expert_ops_blocks.h"
#include "kernels/expert_ops_gather.h"
#include "kernels/expert_ops_parallel.h"
#include "kernels/expert_ops_rows.h"
#include "kernels/expert_ops_scratch.h"
#include "kernels/gemm.h"

namespace fedmoe {
namespace {

template <typename T>
const T* BiasOf(std::span<const T* const> biases, std::int64_t expert) {
  return biases.empty() ? nullptr : biases[static_cast<std::size_t>(expert)];
}

// All of x in sorted order, or x itself if it is: gathered by the whole team.
template <typename T>
const T* Sorted(RowOrder order, const ExpertRouting& routing, const std::vector<RowBlock>& blocks,
                std::int64_t width, const T* x, TaskQueue& queue, T* out) {
  if (order == RowOrder::kSorted) return x;
  queue.Run([&](std::int64_t i) {
    const RowBlock& block = blocks[static_cast<std::size_t>(i)];
    GatherRows(order, routing, block.begin, block.rows, width, x, out + block.begin * width);
  });
  return out;
}

}  // namespace

template <typename T>
void Esmm(const EsmmShape& shape, const ExpertRouting& routing, std::span<const T* const> weights,
          std::span<const T* const> biases, std::span<const T> x, int threads, std::span<T> y) {
  const std::vector<RowBlock> blocks = RowBlocks(routing);
  const std::int64_t rows = LargestBlock(blocks);
  ExpertScratch<T> scratch;
  const std::size_t in_slice = scratch.Add(rows * shape.in_width * threads);
  const std::size_t out_slice = scratch.Add(rows * shape.out_width * threads);
  scratch.Allocate();
  TaskQueue queue(static_cast<std::int64_t>(blocks.size()));
  RunOnThreads(threads, [&](int thread) {
    T* const input = scratch.At(in_slice) + thread * rows * shape.in_width;
    T* const output = scratch.At(out_slice) + thread * rows * shape.out_width;
    queue.Run([&](std::int64_t task) {
      const RowBlock& block = blocks[static_cast<std::size_t>(task)];
      const T* in = x.data() + block.begin * shape.in_width;
      if (shape.in_order != RowOrder::kSorted) {
        GatherRows(shape.in_order, routing, block.begin, block.rows, shape.in_width, x.data(),
                   input);
        in = input;
      }
      const bool direct = shape.out_order == RowOrder::kSorted;
      T* const out = direct ? y.data() + block.begin * shape.out_width : output;
      const bool out_in = shape.form == WeightForm::kOutIn;
      Gemm(Op::kNone, out_in ? Op::kTranspose : Op::kNone, block.rows, shape.out_width,
           shape.in_width, in, shape.in_width, weights[static_cast<std::size_t>(block.expert)],
           out_in ? shape.in_width : shape.out_width, T{0}, out, shape.out_width);
      const T* const bias = BiasOf(biases, block.expert);
      for (std::int64_t i = 0; i < block.rows; ++i) {
        T* const row = out + i * shape.out_width;
        if (bias != nullptr) AddRow(bias, shape.out_width, row);
        if (!direct) {
          std::copy_n(
              row, shape.out_width,
              y.data() + RowIn(shape.out_order, routing, block.begin + i) * shape.out_width);
        }
      }
    });
  });
}

template <typename T>
void Ess(std::int64_t width, RowOrder order, const ExpertRouting& routing, std::span<const T> x,
         int threads, std::span<T* const> sums) {
  const std::vector<GradientTile> tiles = GradientTiles(routing, {width});
  TaskQueue queue(static_cast<std::int64_t>(tiles.size()));
  RunOnThreads(threads, [&](int) {
    queue.Run([&](std::int64_t task) {
      const GradientTile& tile = tiles[static_cast<std::size_t>(task)];
      T* const sum = sums[static_cast<std::size_t>(tile.expert)];
      if (sum == nullptr) return;
      const std::int64_t first = routing.offsets[static_cast<std::size_t>(tile.expert)];
      for (std::int64_t i = 0; i < routing.RowsOf(tile.expert); ++i) {
        AddRow(x.data() + RowIn(order, routing, first + i) * width + tile.begin, tile.rows,
               sum + tile.begin);
      }
    });
  });
}

template <typename T>
void Estmm(const EstmmShape& shape, const ExpertRouting& routing, std::span<const T> a,
           std::span<const T> b, int threads, std::span<T* const> products) {
  const std::vector<RowBlock> blocks = RowBlocks(routing);
  const std::vector<GradientTile> tiles = GradientTiles(routing, {shape.a_width});
  ExpertScratch<T> scratch;
  const bool a_sorted = shape.a_order == RowOrder::kSorted;
  const bool b_sorted = shape.b_order == RowOrder::kSorted;
  const std::size_t a_slice = scratch.Add(a_sorted ? 0 : routing.rows() * shape.a_width);
  const std::size_t b_slice = scratch.Add(b_sorted ? 0 : routing.rows() * shape.b_width);
  scratch.Allocate();
  TaskQueue a_queue(static_cast<std::int64_t>(blocks.size()));
  TaskQueue b_queue(static_cast<std::int64_t>(blocks.size()));
  TaskQueue queue(static_cast<std::int64_t>(tiles.size()));
  RunOnThreads(threads, [&](int) {
    const T* const a_rows = Sorted(shape.a_order, routing, blocks, shape.a_width, a.data(), a_queue,
                                   scratch.At(a_slice));
    const T* const b_rows = Sorted(shape.b_order, routing, blocks, shape.b_width, b.data(), b_queue,
                                   scratch.At(b_slice));
    ThreadBarrier();
    queue.Run([&](std::int64_t task) {
      const GradientTile& tile = tiles[static_cast<std::size_t>(task)];
      T* const product = products[static_cast<std::size_t>(tile.expert)];
      if (product == nullptr) return;
      const std::int64_t first = routing.offsets[static_cast<std::size_t>(tile.expert)];
      Gemm(Op::kTranspose, Op::kNone, tile.rows, shape.b_width, routing.RowsOf(tile.expert),
           a_rows + first * shape.a_width + tile.begin, shape.a_width,
           b_rows + first * shape.b_width, shape.b_width, T{1},
           product + tile.begin * shape.b_width, shape.b_width);
    });
  });
}

#define FEDMOE_INSTANTIATE(T)                                                                 \
  template void Esmm<T>(const EsmmShape&, const ExpertRouting&, std::span<const T* const>,    \
                        std::span<const T* const>, std::span<const T>, int, std::span<T>);    \
  template void Ess<T>(std::int64_t, RowOrder, const ExpertRouting&, std::span<const T>, int, \
                       std::span<T* const>);                                                  \
  template void Estmm<T>(const EstmmShape&, const ExpertRouting&, std::span<const T>,         \
                         std::span<const T>, int, std::span<T* const>);
FEDMOE_INSTANTIATE(float)
FEDMOE_INSTANTIATE(double)

}  // namespace fedmoe
