// The work of one task, from the shards to an update in the spool, checked as a coordinator checks
// it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "client/update_encoding.h"
#include "common/result.h"
#include "federation/messages.h"
#include "federation/model_spec.h"
#include "simulation/population.h"
#include "simulation/trainer_cache.h"
#include "storage/spool.h"

namespace fedmoe {

struct TaskOutcome {
  Status status;  // why there is no result, as a client would give it back
  // Training.
  UpdateHeader header;
  Verdict verdict;                         // of the update's bytes
  std::unique_ptr<IncomingUpdate> update;  // not kept yet
  std::vector<std::byte> state;            // of the client, tentative
  // Evaluation.
  EvaluationResult evaluation;
};

// The shards of a task, which they keep alive; immutable.
using TaskShards = std::map<int, std::shared_ptr<const MappedRegion>>;

// Between the thread that gives a task out and the one that does it. Thread-safe.
class PendingTask {
 public:
  void Cancel() { cancelled_ = true; }
  bool cancelled() const { return cancelled_; }
  void Finish(TaskOutcome outcome);
  // Blocks until it is finished; once.
  TaskOutcome Wait();

 private:
  std::atomic<bool> cancelled_{false};
  std::mutex mutex_;
  std::condition_variable finished_;
  std::optional<TaskOutcome> outcome_;
};

// Thread-safe: any number of tasks at once, each on its caller's thread.
class TaskRunner {
 public:
  // All outlive it. Once `ending` is true, tasks end with CANCELLED.
  TaskRunner(const Population& population, const ModelSpec& spec, TrainerCacheOptions trainers,
             Spool& spool, const std::atomic<bool>& ending)
      : population_(population),
        spec_(spec),
        spool_(spool),
        ending_(ending),
        trainers_(population, spec, std::move(trainers)) {}

  TaskOutcome Run(const TaskAssignment& task, std::size_t client, const TaskShards& shards,
                  std::span<const std::byte> state, const PendingTask& pending);

  // Wall time spent within trainers so far, all threads together.
  double training_s() const { return static_cast<double>(training_ns_) / 1e9; }
  double evaluation_s() const { return static_cast<double>(evaluation_ns_) / 1e9; }

 private:
  Status RunWith(LocalTrainer& trainer, const TaskAssignment& task, const VirtualClient& client,
                 const TaskShards& shards, std::span<const std::byte> state,
                 const PendingTask& pending, TaskOutcome& outcome);
  Status Hand(const TaskAssignment& task, const VirtualClient& client, PreparedUpdate update,
              TaskOutcome& outcome);

  const Population& population_;
  const ModelSpec& spec_;
  Spool& spool_;
  const std::atomic<bool>& ending_;
  TrainerCache trainers_;
  std::atomic<std::int64_t> training_ns_{0};
  std::atomic<std::int64_t> evaluation_ns_{0};
};

}  // namespace fedmoe
