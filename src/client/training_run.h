// The steps of one training task, and what they tell about the experts.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "client/example_source.h"
#include "client/optimizer_state.h"
#include "client/trainer.h"
#include "moe/moe_model.h"

namespace fedmoe {

// The floats of a contiguous float32 tensor.
std::span<float> FloatsOf(const torch::Tensor& tensor);

// Cross-entropy of each prediction, nats: [n].
torch::Tensor TaskLosses(const MoeOutput& output, const Batch& batch);

// CANCELLED naming the task if the context says so.
Status CheckCancelled(const TrainContext& context, const TaskAssignment& task);
void ReportProgress(const TrainContext& context, double fraction);

// Sums over predictions, in their order, in double.
struct Tally {
  explicit Tally(const ModelSpec& spec);
  // `losses`: [n] float32, the task loss of each prediction. A token's loss is that of the
  // prediction it belongs to.
  void Add(const MoeOutput& output, const torch::Tensor& losses, const torch::Tensor& labels);

  double predictions = 0.0;
  double loss = 0.0;
  double correct = 0.0;
  // By expert, over the tokens that chose it: their number, and sums weighted by the gate.
  std::vector<double> tokens;
  std::vector<double> weight;
  std::vector<double> weighted_loss;
  std::vector<double> weighted_correct;

 private:
  void AddLayer(const GateOutput& gate, std::size_t first_expert, const float* losses,
                const std::vector<bool>& right);

  std::size_t experts_per_layer_;
};

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
  // After Run: trunk blocks, and those of experts with tokens, less what `shards` received. Frees
  // the gradients and the optimiser's state first, so that what is sent needs no more memory than
  // training did.
  std::vector<BlockDelta> TakeDeltas(const ShardValues& shards);

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
  Tally tally_;
  std::span<float> values_;
  std::span<float> gradients_;
  std::vector<float> received_;  // FedProx alone
  OptimizerState optimizer_;
  bool uses_held_mass_;
  bool uses_trunk_loss_;
  std::int64_t steps_ = 0;
};

}  // namespace fedmoe
