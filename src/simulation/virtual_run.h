// A whole run in one process and in virtual time: the round machine, the aggregation and the
// trainers of the deployment, around a queue of what happens next instead of processes and a clock.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "client/client_state.h"
#include "common/file_system.h"
#include "common/memory_file_system.h"
#include "common/result.h"
#include "config/coordinator_config.h"
#include "coordinator/core.h"
#include "federation/round_machine.h"
#include "simulation/population.h"
#include "simulation/run_times.h"
#include "simulation/task_pool.h"
#include "simulation/task_runner.h"
#include "simulation/travelled_shard.h"
#include "storage/run_directory.h"
#include "storage/shard_store.h"
#include "storage/spool.h"

namespace fedmoe {

struct VirtualRunOptions {
  int threads = 1;  // clients that compute at once
  ComputeOptions compute;
  CoreObserver* observer = nullptr;  // outlives the run
};

// One run, by one thread; RequestStop from any.
//
// Time stands still while anything is computed, and moves on to the next thing that is due: the
// end of a task (its start and PredictRoundSeconds), a client that comes or goes, a deadline or
// grace of the round machine. Evaluations and merging take no simulated time. So a run's course is
// a function of the configuration, whatever the threads.
class VirtualRun {
 public:
  // `population`, `files` and `directory` outlive the run. What `config` says of the device is left
  // to `options`.
  VirtualRun(const CoordinatorConfig& config, ModelSpec spec, const Population& population,
             FileSystem& files, RunDirectory& directory, VirtualRunOptions options);
  ~VirtualRun();

  // Once. The summary, also of a run that failed or was stopped; an error where the run directory
  // or the model could not be set up or written.
  Result<RunSummary> Run();

  // The first call finishes the round in hand, the second ends at once. Thread-safe.
  void RequestStop() {
    if (++stops_ >= 2) ending_ = true;
  }

  // After Run().
  const RunTimes& times() const { return times_; }

 private:
  // What happens at a point in time.
  struct Due {
    enum class Kind { kTaskEnd, kTaskLost, kPresence } kind = Kind::kTaskEnd;
    TaskId task = 0;
    std::size_t client = 0;
  };
  using DueKey = std::pair<Milliseconds, std::uint64_t>;  // time, then order of scheduling
  struct ClientPart {
    std::unique_ptr<ClientState> state;
    std::uint64_t session = 0;
    bool connected = false;
    std::vector<std::uint64_t> held;  // key of the digest that it downloaded last, by shard
  };
  struct Flight {
    TaskAssignment task;
    std::size_t client = 0;
    DueKey due;
    std::uint64_t down_bytes = 0;          // what the client downloads for it
    std::shared_ptr<PendingTask> pending;  // null: nothing is computed for it
  };

  Status Open();
  Result<Manifest> StageInitial();
  Status OpenClients();
  void JoinAll();
  Status Loop();
  // Moves time on to what is due next.
  Status Advance();
  Status FailStuck();
  void TakeStops();

  void Handle(const Event& event) { Handle(event, options_); }
  void Handle(const Event& event, const RunOptions& options);
  void On(const AdmitClient& action);
  void On(const TurnAwayClient& action);
  void On(const Dispatch& action);
  void On(const AcceptUpdate&) {}
  void On(const RejectUpdate& action);
  void On(const CancelTasks& action);
  void On(const Aggregate& action);
  void On(const WriteCheckpoint& action);
  void On(const PublishModel& action);
  void On(const AbortRound& action);
  void On(Report& action);
  void On(const Finish& action);

  void StartTask(const TaskAssignment& task);
  Status SettleState(const TaskAssignment& task, ClientState& state) const;
  Result<TaskShards> FetchShards(Flight& flight);
  void Compute(Flight& flight);
  void EndTask(TaskId task);
  Status Submit(const Flight& flight, TaskOutcome outcome);
  void LoseTask(TaskId task);
  void DropFlight(TaskId task);
  void DropFlightsOf(std::size_t client);
  void ChangePresence(std::size_t client);
  void Join(std::size_t client, const RunOptions& options);
  DueKey Schedule(Milliseconds at_ms, Due due);
  void GiveBack(const Flight& flight, const std::string& why);
  void CleanUpAfterCommit();
  void Fail(const Status& status) {
    if (fatal_.ok()) fatal_ = status;
  }
  RunSummary Summarise();

  const CoordinatorConfig config_;
  RunOptions options_;
  const Population& population_;
  FileSystem& files_;
  RunDirectory& directory_;
  const int threads_;
  const ComputeOptions compute_;
  CoreObserver* observer_;

  MemoryFileSystem memory_;  // spool and client state
  std::unique_ptr<Spool> spool_;
  std::unique_ptr<ShardStore> store_;
  std::unique_ptr<TaskRunner> runner_;
  std::map<ClientId, std::size_t> index_;
  std::vector<ClientPart> clients_;

  RoundState state_;
  Milliseconds now_ms_ = 0;
  Milliseconds dispatched_ms_ = 0;  // of the last training round
  std::uint64_t next_order_ = 0;
  std::map<DueKey, Due> due_;
  std::deque<Event> events_;  // that follow at once from what was done
  std::map<TaskId, Flight> flights_;
  std::map<std::string, TravelledShard> shards_;  // of the current version, by ShardKey
  std::optional<Manifest> staged_;
  RunSummary summary_;
  std::uint64_t bytes_down_ = 0, bytes_up_ = 0;
  std::atomic<int> stops_{0};
  std::atomic<bool> ending_{false};  // what is being computed is given up
  int stops_taken_ = 0;
  Status fatal_;
  RunTimes times_;
  std::optional<RunTimesLog> times_log_;
  std::chrono::steady_clock::time_point began_;

  // Last, so that its threads end before what they use.
  std::unique_ptr<TaskPool> pool_;
};

}  // namespace fedmoe
