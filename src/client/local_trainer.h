// The trainer that does the work with libtorch. This header includes no libtorch.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "client/trainer.h"
#include "data/dataset.h"
#include "moe/compute.h"

namespace fedmoe {

// Threads of libtorch's operators, for the whole process; at least 1. Call once, before any other
// use of libtorch: results are reproducible for one thread count.
void SetTorchThreads(int threads);

// Trains and evaluates every preset. The model's parameters, gradients and optimiser state (with
// FedProx, also the values received) live only while a task runs, of the trunk and the experts
// held; the examples are kept as one float32 tensor where that takes at most 256 MiB, else batches
// are made ahead of need. Of text, every position is a prediction: losses and accuracies are per
// character.
//
// Every draw is CounterRng's, keyed (task.seed, task.client, task.round, "shuffle.<epoch>"): with
// the kernels the same task, shards and state give the same update, byte for byte, for one thread
// count. With tensor operators a training that diverges is noticed some batches later, and named by
// the same step.
//
// Client state is the local gate: the float32 values of the model's BlockOwner::kClient blocks in
// block order; without any yet they are InitializeBlock(seed of Prepare).
//
// Errors beside the contract's: INVALID_ARGUMENT for a task, shard or state that does not fit the
// model, or a client without training data; INTERNAL "training diverged: ..." and for anything that
// libtorch throws.
class LocalTrainer final : public Trainer {
 public:
  // Of a trainer: Train on data.train, Evaluate on data.holdout (may be empty).
  explicit LocalTrainer(LocalData data, ComputeOptions compute = {});
  // Of an evaluator: Evaluate on `test`; Train is FAILED_PRECONDITION.
  explicit LocalTrainer(Dataset test, ComputeOptions compute = {});
  ~LocalTrainer() override;

  Status Prepare(const ModelSpec& spec, std::uint64_t seed) override;
  Result<TrainResult> Train(const TaskAssignment& task, const ShardValues& shards,
                            std::span<const std::byte> state, const TrainContext& context) override;
  Result<EvaluationResult> Evaluate(const TaskAssignment& task, const ShardValues& shards,
                                    std::span<const std::byte> state,
                                    const TrainContext& context) override;
  std::int64_t examples() const override;

 private:
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace fedmoe
