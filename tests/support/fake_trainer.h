// A trainer without a model: its answer is a pure function of the task, the values received and the
// client's committed state, so that a wrong base, a wrong state or a mixed-up task shows in the
// model digest.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "client/trainer.h"

namespace fedmoe {

// What the trainers of a fleet returned, by client and round (a round that is tried again gives the
// same answer). Thread-safe.
class AnswerLedger {
 public:
  struct Answer {
    TaskAssignment task;
    TrainResult result;
  };
  void Record(const TaskAssignment& task, const TrainResult& result);
  std::map<std::pair<RoundNumber, ClientId>, Answer> answers() const;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<RoundNumber, ClientId>, Answer> answers_;
};

class FakeTrainer final : public Trainer {
 public:
  explicit FakeTrainer(std::int64_t examples, AnswerLedger* ledger = nullptr)
      : examples_(examples), ledger_(ledger) {}

  Status Prepare(const ModelSpec& spec, std::uint64_t seed) override;
  Result<TrainResult> Train(const TaskAssignment& task, const ShardValues& shards,
                            std::span<const std::byte> state, const TrainContext& context) override;
  Result<EvaluationResult> Evaluate(const TaskAssignment& task, const ShardValues& shards,
                                    std::span<const std::byte> state,
                                    const TrainContext& context) override;
  std::int64_t examples() const override { return examples_; }

  // The honest answer, for raw clients of tests.
  static TrainResult Answer(const ModelSpec& spec, const TaskAssignment& task,
                            const ShardValues& shards, std::span<const std::byte> state,
                            std::int64_t examples);

  // Called with every answer before it leaves; may spoil it, or wait.
  std::function<void(const TaskAssignment&, TrainResult&)> before_answer = [](const TaskAssignment&,
                                                                              TrainResult&) {};

 private:
  const std::int64_t examples_;
  AnswerLedger* ledger_;
  ModelSpec spec_;
};

}  // namespace fedmoe
