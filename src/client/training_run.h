// The steps of one training task, and what they tell about the experts.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "client/example_source.h"
#include "client/model_optimizer.h"
#include "client/tally.h"
#include "client/trainer.h"
#include "moe/moe_model.h"

namespace fedmoe {

// CANCELLED naming the task if the context says so.
Status CheckCancelled(const TrainContext& context, const TaskAssignment& task);
void ReportProgress(const TrainContext& context, double fraction);

// Trains a model that holds the received values. Refers to its arguments, which must outlive it.
class TrainingRun {
 public:
  TrainingRun(const TaskAssignment& task, const ExampleSource& source, MoeModel& model);

  // All epochs, or their first max_batches, once. CANCELLED, or INTERNAL where the training
  // diverges.
  Status Run(const TrainContext& context);

  // After Run: trains the experts' own gates (ModelOptions::post_hoc_batches) on at most one pass
  // over the examples, everything else frozen, the held experts in turn. No-op without. Errors as
  // Run.
  Status TrainPostHocGates(const TrainContext& context);

  // After Run. Affinity and transfer rates are left empty.
  TrainingFeedback Feedback() const;
  // Frees the gradients and the optimiser's state, so that what is sent needs no more memory than
  // training did. The end of the training.
  void Release();
  // After Run: trunk blocks, and those of experts with tokens, less what `shards` received.
  // `values`: the model's, on the host.
  std::vector<BlockDelta> Deltas(const ShardValues& shards, std::span<const float> values) const;

 private:
  std::vector<std::int64_t> Shuffled(int epoch) const;
  PassOptions OptionsOf(int epoch) const;
  // The key of this client's draws in this round for `purpose`.
  std::uint64_t KeyFor(const std::string& purpose) const;
  Status Step(const Batch& batch);
  bool HoldsExpertOf(std::size_t layer) const;
  torch::Tensor TrunkLoss(const Batch& batch) const;
  torch::Tensor RouterLosses(const MoeOutput& output) const;

  const TaskAssignment& task_;
  const ExampleSource& source_;
  MoeModel& model_;
  OutcomeLedger ledger_;
  std::unique_ptr<ModelOptimizer> optimizer_;
  bool uses_held_mass_;
  bool uses_trunk_loss_;
  std::int64_t steps_ = 0;
};

}  // namespace fedmoe
