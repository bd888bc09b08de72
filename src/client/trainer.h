// The work itself, behind one interface, so that the client's loop also runs in tests without
// libtorch.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/result.h"
#include "federation/feedback.h"
#include "federation/messages.h"
#include "federation/model_spec.h"
#include "federation/task.h"

namespace fedmoe {

// A shard's bytes as received, float32, by shard index; valid for the call.
using ShardValues = std::function<std::span<const float>(int shard)>;

struct TrainContext {
  std::function<void(double fraction)> progress;  // 0 to 1
  std::function<bool()> cancelled;  // asked between batches; training then returns CANCELLED
};

struct BlockDelta {
  int parameter = 0;
  std::vector<float> delta;  // new - received
};

struct TrainResult {
  TrainingFeedback feedback;
  std::vector<BlockDelta> blocks;  // by parameter; no block of an expert without tokens
  std::vector<std::byte> state;    // tentative client state (a local gate), to be promoted if the
                                   // round commits; may be empty
};

// Not thread-safe: one task at a time.
class Trainer {
 public:
  virtual ~Trainer() = default;
  // Once, after registering: the model to train. INVALID_ARGUMENT if the local data does not fit
  // it, naming both.
  virtual Status Prepare(const ModelSpec& spec, std::uint64_t seed) = 0;
  // `state` is the committed client state, empty for none yet. The same task, shards and state give
  // the same bytes.
  virtual Result<TrainResult> Train(const TaskAssignment& task, const ShardValues& shards,
                                    std::span<const std::byte> state,
                                    const TrainContext& context) = 0;
  virtual Result<EvaluationResult> Evaluate(const TaskAssignment& task, const ShardValues& shards,
                                            std::span<const std::byte> state,
                                            const TrainContext& context) = 0;
  virtual std::int64_t examples() const = 0;  // of local training data
};

}  // namespace fedmoe
