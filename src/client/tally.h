// What the predictions of a pass tell about the model and its experts, gathered on the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "client/example_source.h"
#include "common/result.h"
#include "moe/moe_model.h"

namespace fedmoe {

// The floats of a contiguous float32 tensor on the CPU.
std::span<float> FloatsOf(const torch::Tensor& tensor);

// Copies on the host, by one copy for all: integers below 2^24, booleans and float32 keep their
// values. All on one device.
std::vector<torch::Tensor> ToHost(const std::vector<torch::Tensor>& tensors);

// Cross-entropy of each prediction, nats: [n].
torch::Tensor TaskLosses(const MoeOutput& output, const Batch& batch);

// INTERNAL "training diverged: ...".
Status Diverged(const char* what, std::int64_t step, double learning_rate);

// What is counted of a batch; without autograd history.
struct BatchOutcome {
  torch::Tensor losses;  // [n] float32, the task loss of each prediction
  torch::Tensor right;   // [n] bool
  struct Choice {
    torch::Tensor selected;  // [t, k] int64, as in GateOutput; undefined where nothing was chosen
    torch::Tensor weights;   // [t, k]
  };
  std::vector<Choice> layers;
  // Of a training step, each one value; undefined otherwise.
  torch::Tensor loss;
  torch::Tensor gradient_norm;
};
BatchOutcome OutcomeOf(const MoeOutput& output, const torch::Tensor& losses,
                       const torch::Tensor& labels);

// Sums over predictions, in their order, in double.
struct Tally {
  explicit Tally(const ModelSpec& spec);
  // On the CPU. A token's loss is that of the prediction it belongs to.
  void Add(const BatchOutcome& batch);

  double predictions = 0.0;
  double loss = 0.0;
  double correct = 0.0;
  // By expert, over the tokens that chose it: their number, and sums weighted by the gate.
  std::vector<double> tokens;
  std::vector<double> weight;
  std::vector<double> weighted_loss;
  std::vector<double> weighted_correct;

 private:
  void AddLayer(const BatchOutcome::Choice& choice, std::size_t first_expert,
                const BatchOutcome& batch);

  std::size_t experts_per_layer_;
};

// Tallies batches and notices a training that diverges. On the path of tensor operators the
// outcomes of several batches wait on the device for one copy to the host, which is waited for;
// what is tallied, and in which order, is the same.
class OutcomeLedger {
 public:
  OutcomeLedger(const ModelSpec& spec, ComputePath path, double learning_rate)
      : path_(path), learning_rate_(learning_rate), tally_(spec) {}

  // Diverged() where the loss or the norm of the gradient of this batch, or of one that waited, is
  // not finite. Batches are numbered from 1.
  Status Add(BatchOutcome batch);
  // Tallies what waits; after the last batch. As Add.
  Status Flush();
  // After Flush.
  const Tally& tally() const { return tally_; }

 private:
  Status Take(const BatchOutcome& batch);

  ComputePath path_;
  double learning_rate_;
  Tally tally_;
  std::vector<BatchOutcome> waiting_;
  std::int64_t batches_ = 0;  // tallied
};

}  // namespace fedmoe
