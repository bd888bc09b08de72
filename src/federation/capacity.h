// What a client can hold and finish in time, and how many experts follow from it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "common/result.h"
#include "federation/model_spec.h"
#include "federation/training_options.h"

namespace fedmoe {

// Reported by the client when it registers, and refreshed with each update. Zero means: not known,
// so no limit.
struct CapacityProfile {
  std::uint64_t memory_bytes =
      0;  // budget for parameters, gradients, optimiser slots and activations
  double compute_flops_per_s = 0.0;  // of an expert-FFN forward and backward pass
  double down_bytes_per_s = 0.0;     // moving average of real transfers
  double up_bytes_per_s = 0.0;
  std::int64_t examples = 0;
  int max_experts = 0;  // declared cap; 0 for none
  std::string device;   // free text for reports: "cpu, 2 threads"
};

// The longest device text of a profile, bytes.
constexpr std::size_t kMaxDeviceBytes = 256;

// A profile is a client's claim: bounded before use. INVALID_ARGUMENT naming the field: a compute
// rate other than 0 or 1 to 1e18, a bandwidth other than 0 or 1 to 1e15, examples outside 0 to
// 1e12, max_experts below 0, a device text of more than kMaxDeviceBytes. Any memory budget is good.
Status ValidateProfile(const CapacityProfile& profile);

enum class CapacityReason {
  kAllExperts,     // everything fits
  kDeclared,       // profile.max_experts
  kMemory,         // one more expert would not fit in memory
  kDeadline,       // one more expert would miss the round's deadline
  kTrunkMemory,    // not even the trunk fits
  kTrunkDeadline,  // not even the trunk finishes in time
};
const char* CapacityReasonName(CapacityReason reason);  // "all_experts", ...

struct CapacityDecision {
  int experts = 0;  // k_c
  bool fits_trunk = true;
  CapacityReason reason = CapacityReason::kAllExperts;
  double memory_bytes = 0.0;  // predicted use with `experts`
  double round_s =
      0.0;  // predicted download + train + upload with `experts`; parts that are not known count 0
};

// The largest k <= experts for which MemoryBytes(k) <= memory_bytes and RoundSeconds(k) <=
// deadline_ms / 1000. deadline_ms 0 means none.
CapacityDecision DeriveCapacity(const CapacityProfile& profile, const ModelSpec& spec,
                                const TrainingOptions& training, Milliseconds deadline_ms);

// Experts that run for one token when a client holds `experts`, as evenly over the layers as they
// go: the least of top_k and what it holds in each layer, summed over the layers. Rises with
// `experts`.
int ActiveExperts(const ModelSpec& spec, int experts);
// Examples that a client with `examples` trains on in a task, those of every epoch counted:
// at most max_batches * batch_size.
double TrainedExamples(double examples, const TrainingOptions& training);
// A client as PredictTokens takes it; `examples` 0: it does not say.
struct TokenClient {
  std::int64_t examples = 0;
  int experts = 0;  // k_c
};
// How many tokens each of a client's experts will get, by client, if the gate spreads them evenly.
// A client that does not say how many examples it has counts as the mean of those that do.
std::vector<double> PredictTokens(const std::vector<TokenClient>& cohort, const ModelSpec& spec,
                                  const TrainingOptions& training);
// Parameters x (1 value + 1 gradient + 1 received copy + optimiser slots: SGD 1 with momentum,
// AdamW 2) plus activations of a batch: those of the trunk (twice with a loss
// without experts), and of the active experts for each token.
double PredictMemoryBytes(const ModelSpec& spec, const TrainingOptions& training, int experts);
// Transfers of trunk and k experts over the profile's bandwidth, down as float32 and up as
// training.upload says (without compression, which cannot be predicted), and 3 x forward operations
// (of the trunk, and of the active experts for each token) over its compute rate. Always finite: at
// most a million years.
double PredictRoundSeconds(const CapacityProfile& profile, const ModelSpec& spec,
                           const TrainingOptions& training, int experts);

}  // namespace fedmoe
