#include "simulation/task_runner.h"

#include <chrono>
#include <utility>

#include "storage/update_format.h"

namespace fedmoe {
namespace {

// Adds the time from its making to its end.
class Stopwatch {
 public:
  explicit Stopwatch(std::atomic<std::int64_t>& sum_ns) : sum_ns_(sum_ns) {}
  ~Stopwatch() {
    const auto passed = std::chrono::steady_clock::now() - begin_;
    sum_ns_ += std::chrono::duration_cast<std::chrono::nanoseconds>(passed).count();
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  std::atomic<std::int64_t>& sum_ns_;
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

ShardValues ValuesOf(const TaskShards& shards) {
  return [&shards](int shard) -> std::span<const float> {
    const auto found = shards.find(shard);
    if (found == shards.end()) return {};
    const std::span<const std::byte> bytes = found->second->bytes();
    return {reinterpret_cast<const float*>(bytes.data()), bytes.size() / sizeof(float)};
  };
}

}  // namespace

void PendingTask::Finish(TaskOutcome outcome) {
  const std::lock_guard lock(mutex_);
  outcome_ = std::move(outcome);
  finished_.notify_all();
}

TaskOutcome PendingTask::Wait() {
  std::unique_lock lock(mutex_);
  finished_.wait(lock, [this] { return outcome_.has_value(); });
  return std::move(*outcome_);
}

TaskOutcome TaskRunner::Run(const TaskAssignment& task, std::size_t client,
                            const TaskShards& shards, std::span<const std::byte> state,
                            const PendingTask& pending) {
  TaskOutcome outcome;
  if (pending.cancelled() || ending_) {
    outcome.status = Cancelled("the task was cancelled");
    return outcome;
  }
  Result<TrainerCache::Held> held = trainers_.Take(client);
  if (!held.ok()) {
    outcome.status = held.status();
    return outcome;
  }
  outcome.status =
      RunWith(*held->trainer, task, population_.clients[client], shards, state, pending, outcome);
  trainers_.Give(client, std::move(*held));
  return outcome;
}

Status TaskRunner::RunWith(LocalTrainer& trainer, const TaskAssignment& task,
                           const VirtualClient& client, const TaskShards& shards,
                           std::span<const std::byte> state, const PendingTask& pending,
                           TaskOutcome& outcome) {
  const TrainContext context{.progress = nullptr, .cancelled = [this, &pending] {
                               return pending.cancelled() || ending_;
                             }};
  FEDMOE_ASSIGN_OR_RETURN(const auto trainer_state, TrainerState(task, state));
  if (task.kind == TaskKind::kEvaluate) {
    const Stopwatch stopwatch(evaluation_ns_);
    FEDMOE_ASSIGN_OR_RETURN(outcome.evaluation,
                            trainer.Evaluate(task, ValuesOf(shards), trainer_state, context));
    outcome.evaluation.task = task.task;
    return Status::Ok();
  }
  TrainResult result;
  {
    const Stopwatch stopwatch(training_ns_);
    FEDMOE_ASSIGN_OR_RETURN(result, trainer.Train(task, ValuesOf(shards), trainer_state, context));
  }
  FEDMOE_ASSIGN_OR_RETURN(PreparedUpdate update,
                          PrepareUpdate(task, spec_, state, std::move(result)));
  return Hand(task, client, std::move(update), outcome);
}

Status TaskRunner::Hand(const TaskAssignment& task, const VirtualClient& client,
                        PreparedUpdate update, TaskOutcome& outcome) {
  const std::vector<OutgoingBlock> blocks = update.Outgoing();
  update.feedback.down_bytes_per_s = client.profile.down_bytes_per_s;
  update.feedback.up_bytes_per_s = client.profile.up_bytes_per_s;
  outcome.header = {.task = task.task,
                    .client = client.name,
                    .round = task.round,
                    .total_bytes = EncodedUpdateBytes(blocks),
                    .feedback = std::move(update.feedback)};
  outcome.state = std::move(update.state);
  outcome.update = spool_.Begin(task.task, outcome.header.total_bytes);
  FEDMOE_RETURN_IF_ERROR(EncodeUpdate(
      task.task, blocks,
      [&outcome](std::span<const std::byte> bytes) { return outcome.update->Append(bytes); }));
  FEDMOE_ASSIGN_OR_RETURN(const std::unique_ptr<RandomAccessFile> file, outcome.update->Read());
  FEDMOE_ASSIGN_OR_RETURN(const ParsedUpdate parsed,
                          ParseUpdate(*file, task.task, spec_.blocks.size()));
  outcome.verdict = parsed.verdict;
  if (!outcome.verdict.accepted()) return Status::Ok();
  outcome.verdict = ValidateUpdate(outcome.header, parsed.blocks, task, spec_);
  if (!outcome.verdict.accepted()) return Status::Ok();
  FEDMOE_ASSIGN_OR_RETURN(outcome.verdict, VerifyPayloads(*file, parsed.blocks, spec_));
  return Status::Ok();
}

}  // namespace fedmoe
