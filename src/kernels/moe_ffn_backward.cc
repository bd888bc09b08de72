#include <algorithm>

#include "kernels/expert_ops_blocks.h"
#include "kernels/expert_ops_gather.h"
#include "kernels/expert_ops_parallel.h"
#include "kernels/expert_ops_rows.h"
#include "kernels/expert_ops_scratch.h"
#include "kernels/gemm.h"
#include "kernels/moe_ffn.h"
#include "kernels/moe_ffn_combine.h"

namespace fedmoe {
namespace {

// What every task of one backward call sees. The arrays of rows stand in sorted order; those with
// a gradient of dh in them carry the gate's weight.
template <typename T>
struct Backward {
  const MoeFfnShape& shape;
  const ExpertRouting& routing;
  std::span<const ExpertWeights<T>> experts;
  std::span<const ExpertGradients<T>> gradients;
  const T* x;
  const T* weights;
  const T* dy;
  const MoeFfnSaved<T>& saved;
  T* dx;         // null: not computed
  T* d_weights;  // null: not computed
  T* inputs;     // [rows, width]: x
  T* d_outputs;  // [rows, width]: dy, without the weight
  T* hidden;     // [rows, hidden]: weight * h
  T* d_up;       // [rows, hidden]
  T* d_gate;     // [rows, hidden]; gated only
  T* d_inputs;   // [rows, width]; if dx is computed

  bool gated() const { return shape.activation == ExpertActivation::kSwiGlu; }
};

// One row from dh (in d_up) to d_up, d_gate and weight * h; writes the gate weight's gradient.
template <typename T>
void BackwardRow(const Backward<T>& call, const ExpertWeights<T>& expert, std::int64_t row) {
  const std::int64_t hidden = call.shape.hidden;
  const std::int64_t at = row * hidden;
  const std::int64_t slot = call.routing.slot_row[static_cast<std::size_t>(row)];
  // <dy, FFN(x)> = <W_down^T dy, h> + <dy, b_down>: the expert's output is not needed.
  T d_weight = ActivateRowBackward(call.shape.activation, call.saved.up.data() + at,
                                   call.gated() ? call.saved.gate.data() + at : nullptr,
                                   call.weights[slot], hidden, call.d_up + at,
                                   call.gated() ? call.d_gate + at : nullptr, call.hidden + at);
  if (call.d_weights == nullptr) return;
  if (expert.down_bias != nullptr) {
    d_weight += DotRow(call.d_outputs + row * call.shape.width, expert.down_bias, call.shape.width);
  }
  call.d_weights[slot] = d_weight;
}

// One block of an expert's rows back to its input.
template <typename T>
void BackwardBlock(const Backward<T>& call, const RowBlock& block) {
  const std::int64_t width = call.shape.width;
  const std::int64_t hidden = call.shape.hidden;
  const ExpertWeights<T>& expert = call.experts[static_cast<std::size_t>(block.expert)];
  T* const d_output = call.d_outputs + block.begin * width;
  T* const d_up = call.d_up + block.begin * hidden;
  GatherRows(RowOrder::kToken, call.routing, block.begin, block.rows, width, call.dy, d_output);
  if (!call.gradients.empty()) {
    GatherRows(RowOrder::kToken, call.routing, block.begin, block.rows, width, call.x,
               call.inputs + block.begin * width);
  }
  Gemm(Op::kNone, Op::kNone, block.rows, hidden, width, d_output, width, expert.down, hidden, T{0},
       d_up, hidden);
  for (std::int64_t i = 0; i < block.rows; ++i) BackwardRow(call, expert, block.begin + i);
  if (call.dx == nullptr) return;
  T* const d_input = call.d_inputs + block.begin * width;
  Gemm(Op::kNone, Op::kNone, block.rows, width, hidden, d_up, hidden, expert.up, width, T{0},
       d_input, width);
  if (!call.gated()) return;
  Gemm(Op::kNone, Op::kNone, block.rows, width, hidden, call.d_gate + block.begin * hidden, hidden,
       expert.gate, width, T{1}, d_input, width);
}

// The matrices whose gradients are tiled.
enum GradientMatrix { kDown, kUp, kGate };

// gradient[tile] += left[:, tile]^T right over the expert's rows.
template <typename T>
void AddProduct(const ExpertRouting& routing, const GradientTile& tile, const T* left,
                std::int64_t left_width, const T* right, std::int64_t right_width, T* gradient) {
  if (gradient == nullptr) return;
  const std::int64_t first = routing.offsets[static_cast<std::size_t>(tile.expert)];
  Gemm(Op::kTranspose, Op::kNone, tile.rows, right_width, routing.RowsOf(tile.expert),
       left + first * left_width + tile.begin, left_width, right + first * right_width, right_width,
       T{1}, gradient + tile.begin * right_width, right_width);
}

template <typename T>
void AddGradientTile(const Backward<T>& call, const GradientTile& tile) {
  const std::int64_t width = call.shape.width;
  const std::int64_t hidden = call.shape.hidden;
  const ExpertGradients<T>& to = call.gradients[static_cast<std::size_t>(tile.expert)];
  const std::int64_t first = call.routing.offsets[static_cast<std::size_t>(tile.expert)];
  const std::int64_t end = first + call.routing.RowsOf(tile.expert);
  if (tile.matrix == kGate) {
    AddProduct(call.routing, tile, call.d_gate, hidden, call.inputs, width, to.gate);
  } else if (tile.matrix == kUp) {
    AddProduct(call.routing, tile, call.d_up, hidden, call.inputs, width, to.up);
    if (to.up_bias == nullptr) return;
    for (std::int64_t row = first; row < end; ++row) {
      AddRow(call.d_up + row * hidden + tile.begin, tile.rows, to.up_bias + tile.begin);
    }
  } else {
    AddProduct(call.routing, tile, call.d_outputs, width, call.hidden, hidden, to.down);
    if (to.down_bias == nullptr) return;
    for (std::int64_t row = first; row < end; ++row) {
      const T weight = call.weights[call.routing.slot_row[static_cast<std::size_t>(row)]];
      AddScaledRow(call.d_outputs + row * width + tile.begin, weight, tile.rows,
                   to.down_bias + tile.begin);
    }
  }
}

// The slots that no expert serves have no gradient.
template <typename T>
void ZeroUnrouted(const ExpertRouting& routing, T* d_weights) {
  for (std::size_t slot = 0; slot < routing.place.size(); ++slot) {
    if (routing.place[slot] < 0) d_weights[slot] = T{0};
  }
}

// The one parallel region: the blocks, then the tiles of the gradients and the sums over slots.
template <typename T>
void RunBackward(const Backward<T>& call, int threads) {
  const std::vector<RowBlock> blocks = RowBlocks(call.routing);
  std::vector<std::int64_t> heights{call.shape.width, call.shape.hidden};
  if (call.gated()) heights.push_back(call.shape.hidden);
  std::vector<GradientTile> tiles;
  if (!call.gradients.empty()) tiles = GradientTiles(call.routing, heights);
  TaskQueue block_queue(static_cast<std::int64_t>(blocks.size()));
  TaskQueue tile_queue(static_cast<std::int64_t>(tiles.size()));
  TaskQueue token_queue(call.dx == nullptr ? 0 : TokenChunks(call.routing));
  RunOnThreads(threads, [&](int) {
    block_queue.Run(
        [&](std::int64_t task) { BackwardBlock(call, blocks[static_cast<std::size_t>(task)]); });
    ThreadBarrier();
    tile_queue.Run(
        [&](std::int64_t task) { AddGradientTile(call, tiles[static_cast<std::size_t>(task)]); });
    token_queue.Run([&](std::int64_t chunk) {
      CombineChunk<T>(call.routing, chunk, call.shape.width, call.d_inputs, nullptr, call.dx);
    });
  });
}

}  // namespace

template <typename T>
void MoeFfnBackward(const MoeFfnShape& shape, const ExpertRouting& routing,
                    std::span<const ExpertWeights<T>> experts, std::span<const T> x,
                    std::span<const T> weights, std::span<const T> dy, const MoeFfnSaved<T>& saved,
                    int threads, std::span<T> dx, std::span<T> d_weights,
                    std::span<const ExpertGradients<T>> gradients) {
  const bool gated = shape.activation == ExpertActivation::kSwiGlu;
  const std::int64_t rows = routing.rows();
  ExpertScratch<T> scratch;
  const std::size_t inputs = scratch.Add(gradients.empty() ? 0 : rows * shape.width);
  const std::size_t d_outputs = scratch.Add(rows * shape.width);
  const std::size_t hidden = scratch.Add(rows * shape.hidden);
  const std::size_t d_up = scratch.Add(rows * shape.hidden);
  const std::size_t d_gate = scratch.Add(gated ? rows * shape.hidden : 0);
  const std::size_t d_inputs = scratch.Add(dx.empty() ? 0 : rows * shape.width);
  scratch.Allocate();
  if (!d_weights.empty()) ZeroUnrouted(routing, d_weights.data());
  RunBackward(Backward<T>{.shape = shape,
                          .routing = routing,
                          .experts = experts,
                          .gradients = gradients,
                          .x = x.data(),
                          .weights = weights.data(),
                          .dy = dy.data(),
                          .saved = saved,
                          .dx = dx.empty() ? nullptr : dx.data(),
                          .d_weights = d_weights.empty() ? nullptr : d_weights.data(),
                          .inputs = scratch.At(inputs),
                          .d_outputs = scratch.At(d_outputs),
                          .hidden = scratch.At(hidden),
                          .d_up = scratch.At(d_up),
                          .d_gate = scratch.At(d_gate),
                          .d_inputs = scratch.At(d_inputs)},
              std::max(threads, 1));
}

#define FEDMOE_INSTANTIATE(T)                                                                 \
  template void MoeFfnBackward<T>(                                                            \
      const MoeFfnShape&, const ExpertRouting&, std::span<const ExpertWeights<T>>,            \
      std::span<const T>, std::span<const T>, std::span<const T>, const MoeFfnSaved<T>&, int, \
      std::span<T>, std::span<T>, std::span<const ExpertGradients<T>>);
FEDMOE_INSTANTIATE(float)
FEDMOE_INSTANTIATE(double)

}  // namespace fedmoe
