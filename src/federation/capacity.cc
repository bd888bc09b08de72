#include "federation/capacity.h"

#include <algorithm>

#include "federation/claims.h"

namespace fedmoe {
namespace {

constexpr double kBytesPerValue = 4.0;
// A backward pass costs twice the forward pass.
constexpr double kForwardAndBackward = 3.0;
// Longer predictions read as this one.
constexpr double kMaxPredictedSeconds = 3.15e13;

// Values of the largest expert: experts of unequal size are planned for as if all were the largest.
double ExpertElements(const ModelSpec& spec) {
  std::int64_t largest = 0;
  for (ExpertIndex expert = 0; expert < spec.experts; ++expert) {
    largest = std::max(largest, spec.ShardElements(ShardOfExpert(expert)));
  }
  return static_cast<double>(largest);
}

double TransferredBytes(const ModelSpec& spec, int experts) {
  return kBytesPerValue * (static_cast<double>(spec.ShardElements(kTrunkShard)) +
                           static_cast<double>(experts) * ExpertElements(spec));
}

// Blocks that never travel, such as a local gate, but must be held and trained.
double ClientElements(const ModelSpec& spec) {
  double elements = 0.0;
  for (const ParameterBlock& block : spec.blocks) {
    if (block.owner == BlockOwner::kClient) elements += static_cast<double>(block.ElementCount());
  }
  return elements;
}

double OptimizerSlots(const TrainingOptions& training) {
  if (training.optimizer == LocalOptimizer::kAdamW) return 2.0;
  return training.momentum != 0.0 ? 1.0 : 0.0;
}

// A loss without experts takes a pass through the trunk of its own.
double TrunkPasses(const TrainingOptions& training) {
  return training.trunk_lambda > 0.0 ? 2.0 : 1.0;
}

// Experts that run for one example, each token's counted.
double ExpertRuns(const ModelSpec& spec, int experts) {
  return static_cast<double>(ActiveExperts(spec, experts)) *
         static_cast<double>(spec.tokens_per_example);
}

// Amount over rate; a rate that is not known costs nothing.
double Seconds(double amount, double rate) { return rate > 0.0 ? amount / rate : 0.0; }

}  // namespace

Status ValidateProfile(const CapacityProfile& profile) {
  FEDMOE_RETURN_IF_ERROR(CheckRate("profile.compute_flops_per_s", profile.compute_flops_per_s,
                                   kMaxClaimedFlopsPerSecond));
  FEDMOE_RETURN_IF_ERROR(
      CheckRate("profile.down_bytes_per_s", profile.down_bytes_per_s, kMaxClaimedBytesPerSecond));
  FEDMOE_RETURN_IF_ERROR(
      CheckRate("profile.up_bytes_per_s", profile.up_bytes_per_s, kMaxClaimedBytesPerSecond));
  FEDMOE_RETURN_IF_ERROR(CheckCount("profile.examples", profile.examples));
  if (profile.max_experts < 0) {
    return InvalidArgument("profile.max_experts is " + std::to_string(profile.max_experts) +
                           ", must be 0 (no cap) or more");
  }
  if (profile.device.size() > kMaxDeviceBytes) {
    return InvalidArgument("profile.device has " + std::to_string(profile.device.size()) +
                           " bytes, must be at most " + std::to_string(kMaxDeviceBytes));
  }
  return Status::Ok();
}

const char* CapacityReasonName(CapacityReason reason) {
  switch (reason) {
    case CapacityReason::kAllExperts:
      return "all_experts";
    case CapacityReason::kDeclared:
      return "declared";
    case CapacityReason::kMemory:
      return "memory";
    case CapacityReason::kDeadline:
      return "deadline";
    case CapacityReason::kTrunkMemory:
      return "trunk_memory";
    case CapacityReason::kTrunkDeadline:
      return "trunk_deadline";
  }
  return "unknown";
}

int ActiveExperts(const ModelSpec& spec, int experts) {
  if (spec.layers < 1) return 0;
  const int least = experts / spec.layers;
  const int larger = experts % spec.layers;  // layers in which it holds one more
  return larger * std::min(least + 1, spec.top_k) +
         (spec.layers - larger) * std::min(least, spec.top_k);
}

double TrainedExamples(double examples, const TrainingOptions& training) {
  const double all = examples * training.epochs;
  if (training.max_batches == 0) return all;
  return std::min(all, static_cast<double>(training.max_batches) * training.batch_size);
}

std::vector<double> PredictTokens(const std::vector<TokenClient>& cohort, const ModelSpec& spec,
                                  const TrainingOptions& training) {
  double total = 0.0;
  double known = 0.0;
  for (const TokenClient& client : cohort) {
    total += static_cast<double>(client.examples);
    known += client.examples > 0 ? 1.0 : 0.0;
  }
  const double mean = known > 0.0 ? total / known : 1.0;
  std::vector<double> tokens;
  for (const TokenClient& client : cohort) {
    const double examples = client.examples > 0 ? static_cast<double>(client.examples) : mean;
    const int held = std::max(1, client.experts);
    tokens.push_back(TrainedExamples(examples, training) * std::max(1, ActiveExperts(spec, held)) /
                     held);
  }
  return tokens;
}

double PredictMemoryBytes(const ModelSpec& spec, const TrainingOptions& training, int experts) {
  const double parameter_bytes =
      TransferredBytes(spec, experts) + kBytesPerValue * ClientElements(spec);
  // Each activation is kept for the backward pass and has a gradient.
  const double activations = (TrunkPasses(training) * spec.trunk_activations +
                              ExpertRuns(spec, experts) * spec.expert_activations) *
                             training.batch_size * 2.0;
  return parameter_bytes * (3.0 + OptimizerSlots(training)) + kBytesPerValue * activations;
}

double PredictRoundSeconds(const CapacityProfile& profile, const ModelSpec& spec,
                           const TrainingOptions& training, int experts) {
  const double bytes = TransferredBytes(spec, experts);
  const double flops =
      kForwardAndBackward * TrainedExamples(static_cast<double>(profile.examples), training) *
      (TrunkPasses(training) * spec.trunk_flops + ExpertRuns(spec, experts) * spec.expert_flops);
  const double down_bytes = bytes * DownloadBytesPerElement(training.download) / kBytesPerValue;
  const double seconds = Seconds(down_bytes, profile.down_bytes_per_s) +
                         Seconds(flops, profile.compute_flops_per_s) +
                         Seconds(bytes * UploadBytesPerElement(training.upload) / kBytesPerValue,
                                 profile.up_bytes_per_s);
  return seconds < kMaxPredictedSeconds ? seconds : kMaxPredictedSeconds;
}

CapacityDecision DeriveCapacity(const CapacityProfile& profile, const ModelSpec& spec,
                                const TrainingOptions& training, Milliseconds deadline_ms) {
  const auto fits_memory = [&](int experts) {
    return profile.memory_bytes == 0 ||
           PredictMemoryBytes(spec, training, experts) <= static_cast<double>(profile.memory_bytes);
  };
  const auto fits_deadline = [&](int experts) {
    return deadline_ms == 0 || PredictRoundSeconds(profile, spec, training, experts) <=
                                   static_cast<double>(deadline_ms) / 1000.0;
  };

  CapacityDecision decision;
  if (!fits_memory(0)) {
    decision.fits_trunk = false;
    decision.reason = CapacityReason::kTrunkMemory;
  } else if (!fits_deadline(0)) {
    decision.fits_trunk = false;
    decision.reason = CapacityReason::kTrunkDeadline;
  } else {
    // Both predictions rise with the number of experts, so the first that fails is the limit.
    while (decision.experts < spec.experts) {
      const int next = decision.experts + 1;
      if (profile.max_experts > 0 && next > profile.max_experts) {
        decision.reason = CapacityReason::kDeclared;
        break;
      }
      if (!fits_memory(next)) {
        decision.reason = CapacityReason::kMemory;
        break;
      }
      if (!fits_deadline(next)) {
        decision.reason = CapacityReason::kDeadline;
        break;
      }
      decision.experts = next;
    }
  }
  decision.memory_bytes = PredictMemoryBytes(spec, training, decision.experts);
  decision.round_s = PredictRoundSeconds(profile, spec, training, decision.experts);
  return decision;
}

}  // namespace fedmoe
