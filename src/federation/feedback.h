// What a client tells about its training, beside the update itself. Claims of a client: bounded
// before use.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/result.h"
#include "federation/model_spec.h"

namespace fedmoe {

struct TrainingFeedback {
  std::int64_t examples = 0;  // trained on, each counted once
  std::int64_t steps = 0;
  double train_loss = 0.0;      // mean task loss over the task, nats
  double train_accuracy = 0.0;  // 0 to 1
  // By expert, `experts` entries each. Zero tokens: the expert was not trained. Zero-computation
  // experts have no entry.
  std::vector<double> tokens;       // routed to it, over the whole task
  std::vector<double> expert_loss;  // loss_e: mean over examples with e in their top-k, weighted by
                                    // gate probability
  std::vector<double> expert_accuracy;  // acc_e: likewise
  std::vector<double> affinity;   // mean gate probability before masking on the local data, among
                                  // the experts of its layer: sums to 1 in each; empty for none
  double train_s = 0.0;           // thread time is not known to the coordinator; wall seconds
  double down_bytes_per_s = 0.0;  // moving averages of the client's real transfers; 0 not known
  double up_bytes_per_s = 0.0;
};

// INVALID_ARGUMENT naming the field: sizes other than `experts`, non-finite or negative numbers,
// losses above 1e6, examples or steps above 1e12, train_s above 1e9, bandwidths other than 0 or 1
// to 1e15, affinity outside [0,1] or a layer's sum outside [0.99, 1.01], accuracy outside [0,1],
// tokens for an expert not in `held`, more than a million tokens of one expert per example.
Status ValidateFeedback(const TrainingFeedback& feedback, const ModelSpec& spec,
                        const std::vector<ExpertIndex>& held);

}  // namespace fedmoe
