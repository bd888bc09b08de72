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

// What every task of one forward call sees.
template <typename T>
struct Forward {
  const MoeFfnShape& shape;
  const ExpertRouting& routing;
  std::span<const ExpertWeights<T>> experts;
  const T* x;
  T* saved_up;    // [rows, hidden]; null: nothing is kept
  T* saved_gate;  // [rows, hidden]; gated only
  T* outputs;     // [rows, width], of every sorted row

  bool gated() const { return shape.activation == ExpertActivation::kSwiGlu; }
};

// A thread's own memory, each for one block.
template <typename T>
struct ForwardScratch {
  T* input;   // [block, width]
  T* up;      // [block, hidden], if nothing is kept
  T* gate;    // [block, hidden], if nothing is kept
  T* hidden;  // [block, hidden]
};

// One block of an expert's rows through its FFN.
template <typename T>
void ForwardBlock(const Forward<T>& call, const RowBlock& block, const ForwardScratch<T>& own) {
  const std::int64_t width = call.shape.width;
  const std::int64_t hidden = call.shape.hidden;
  const ExpertWeights<T>& expert = call.experts[static_cast<std::size_t>(block.expert)];
  T* const up = call.saved_up == nullptr ? own.up : call.saved_up + block.begin * hidden;
  T* const gate = call.saved_up == nullptr ? own.gate
                  : call.gated()           ? call.saved_gate + block.begin * hidden
                                           : nullptr;
  GatherRows(RowOrder::kToken, call.routing, block.begin, block.rows, width, call.x, own.input);
  Gemm(Op::kNone, Op::kTranspose, block.rows, hidden, width, own.input, width, expert.up, width,
       T{0}, up, hidden);
  if (call.gated()) {
    Gemm(Op::kNone, Op::kTranspose, block.rows, hidden, width, own.input, width, expert.gate, width,
         T{0}, gate, hidden);
  }
  for (std::int64_t i = 0; i < block.rows; ++i) {
    ActivateRow(call.shape.activation, expert.up_bias, hidden, up + i * hidden,
                call.gated() ? gate + i * hidden : nullptr, own.hidden + i * hidden);
  }
  T* const out = call.outputs + block.begin * width;
  Gemm(Op::kNone, Op::kTranspose, block.rows, width, hidden, own.hidden, hidden, expert.down,
       hidden, T{0}, out, width);
  if (expert.down_bias == nullptr) return;
  for (std::int64_t i = 0; i < block.rows; ++i) AddRow(expert.down_bias, width, out + i * width);
}

}  // namespace

template <typename T>
void MoeFfnForward(const MoeFfnShape& shape, const ExpertRouting& routing,
                   std::span<const ExpertWeights<T>> experts, std::span<const T> x,
                   std::span<const T> weights, int threads, std::span<T> y, MoeFfnSaved<T>* saved) {
  const std::vector<RowBlock> blocks = RowBlocks(routing);
  const bool gated = shape.activation == ExpertActivation::kSwiGlu;
  const int team = std::max(threads, 1);
  if (saved != nullptr) {
    const auto values = static_cast<std::size_t>(routing.rows() * shape.hidden);
    saved->up.Resize(values);
    saved->gate.Resize(gated ? values : 0);
  }
  const std::int64_t block_hidden = LargestBlock(blocks) * shape.hidden;
  const std::int64_t block_width = LargestBlock(blocks) * shape.width;
  ExpertScratch<T> scratch;
  const std::size_t outputs = scratch.Add(routing.rows() * shape.width);
  const std::size_t input = scratch.Add(team * block_width);
  const std::size_t hidden = scratch.Add(team * block_hidden);
  const std::size_t up = scratch.Add(saved == nullptr ? team * block_hidden : 0);
  const std::size_t gate = scratch.Add(saved == nullptr && gated ? team * block_hidden : 0);
  scratch.Allocate();
  const Forward<T> call{.shape = shape,
                        .routing = routing,
                        .experts = experts,
                        .x = x.data(),
                        .saved_up = saved == nullptr ? nullptr : saved->up.data(),
                        .saved_gate = saved == nullptr ? nullptr : saved->gate.data(),
                        .outputs = scratch.At(outputs)};
  TaskQueue block_queue(static_cast<std::int64_t>(blocks.size()));
  TaskQueue token_queue(TokenChunks(routing));
  RunOnThreads(team, [&](int thread) {
    const ForwardScratch<T> own{.input = scratch.At(input) + thread * block_width,
                                .up = scratch.At(up) + thread * block_hidden,
                                .gate = scratch.At(gate) + thread * block_hidden,
                                .hidden = scratch.At(hidden) + thread * block_hidden};
    block_queue.Run([&](std::int64_t task) {
      ForwardBlock(call, blocks[static_cast<std::size_t>(task)], own);
    });
    ThreadBarrier();
    token_queue.Run([&](std::int64_t chunk) {
      CombineChunk(routing, chunk, shape.width, scratch.At(outputs), weights.data(), y.data());
    });
  });
}

#define FEDMOE_INSTANTIATE(T)                                                           \
  template void MoeFfnForward<T>(const MoeFfnShape&, const ExpertRouting&,              \
                                 std::span<const ExpertWeights<T>>, std::span<const T>, \
                                 std::span<const T>, int, std::span<T>, MoeFfnSaved<T>*);
FEDMOE_INSTANTIATE(float)
FEDMOE_INSTANTIATE(double)

}  // namespace fedmoe
