// The life of a client: register, ask for work, do it, hand it in, until the run is over. Knows
// neither gRPC nor libtorch.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "client/backoff.h"
#include "client/bandwidth.h"
#include "client/client_state.h"
#include "client/shard_cache.h"
#include "client/shard_fetch.h"
#include "client/trainer.h"
#include "client/transport.h"
#include "client/update_encoding.h"
#include "common/clock.h"

namespace fedmoe {

class Pulse;
class TaskWorker;

struct ClientLoopOptions {
  std::string name;
  ClientRole role = ClientRole::kTrainer;
  std::string coordinator;  // "HOST:PORT", for messages only
  CapacityProfile profile;  // examples 0: taken from the trainer
  // Fills bandwidths that the profile leaves at 0 with the average of real transfers.
  bool measure_bandwidth = true;
  std::uint64_t cache_bytes = 1ULL << 30;
  Milliseconds retry_initial_ms = 200;
  Milliseconds retry_max_ms = 10'000;
  Milliseconds retry_limit_ms = 0;  // give up after so long without the coordinator; 0: never
  // For so long a client looks for the coordinator of a run of which it knows that it is over.
  Milliseconds end_patience_ms = 5'000;
  // The model that this build makes of a preset and its options.
  std::function<Result<ModelSpec>(const std::string& preset,
                                  const std::map<std::string, std::string>& options)>
      build_spec;
};

enum class ClientEnd {
  kRunOver,  // the coordinator says that no more work will come; `detail` is its word on how it
             // ended
  kStopped,  // Stop() was called
  kGaveUp,   // no coordinator for retry_limit_ms
  kRefused,  // the coordinator turned the client away, or the two do not fit together
};

struct ClientOutcome {
  ClientEnd end = ClientEnd::kRunOver;
  std::string detail;
};

// A fault of the network never ends the loop before retry_limit_ms; a fault of one task never ends
// it at all: the task is given back with the reason. Logs progress for a person.
class ClientLoop {
 public:
  // All four outlive the loop.
  ClientLoop(Transport& transport, Trainer& trainer, ClientState& state, const Clock& clock,
             ClientLoopOptions options);

  // Once. Blocks until the client is through. After kRunOver `state` keeps the end: whoever has
  // passed on the outcome calls its ForgetEnd().
  ClientOutcome Run();

  // Thread-safe, but not for a signal handler. The first call abandons the task in hand and leaves;
  // the second drops everything at once.
  void Stop();

 private:
  // A trained update, kept so that it can be sent again.
  struct SavedUpdate {
    TaskId task = 0;
    int attempt = 0;
    PreparedUpdate update;
    bool tried = false;  // to send it
  };
  // The task being worked on. It ends early if the coordinator cancels it, or if the client has a
  // reason to give it back.
  struct TaskInHand {
    const TaskAssignment& task;
    Milliseconds received_ms = 0;
    Milliseconds next_beat_ms = 0;
    bool cancelled = false;
    std::string give_back;
    bool ended() const { return cancelled || !give_back.empty(); }
  };

  // ---- Connection (client_loop.cc). A status other than OK is one for Serve to act on, or
  // outcome_ says that the loop is through.
  Status Connect();
  Status TryRegister();
  Status Accept(const RegisterReply& reply);
  Status Serve();
  void Leave();
  void ForgetEnd();
  Status Recover(const Status& status);
  // Repeats `call` with backoff while the coordinator is too busy for it, until `until_ms` where
  // that is given: then the last status.
  Status WhileBusy(const std::function<Status()>& call,
                   std::optional<Milliseconds> until_ms = std::nullopt);
  Status WaitBeforeRetry(const Status& why, std::optional<Milliseconds> until_ms = std::nullopt);
  void TellWait(const Status& why, Milliseconds delay_ms);
  Status End(ClientEnd end, std::string detail);
  // Ends the work in hand, before what it reads is replaced.
  void EndWork();
  bool stopping() const;

  // ---- Tasks (client_tasks.cc). OK: the task is off the client's hands, whatever became of it.
  Status RunTask(const TaskAssignment& task, const std::vector<CarriedShard>& carried);
  // What the next poll says of the shards that are here.
  PollRequest AskForWork() const;
  // Into the cache, those that are sound.
  void Unload(const TaskAssignment& task, const std::vector<CarriedShard>& carried);
  Status CheckTask(const TaskAssignment& task) const;
  Status Work(TaskInHand& hand);
  Status Fetch(TaskInHand& hand, std::map<int, HeldShard>& shards);
  Status Train(TaskInHand& hand, const ShardValues& shards);
  Status Evaluate(TaskInHand& hand, const ShardValues& shards);
  // Runs `work` on a thread of its own and keeps in touch meanwhile. OK also when the task ended
  // early, or when `work` failed: that is then hand.give_back.
  Status Attend(TaskInHand& hand, const std::function<Status(const TrainContext&)>& work);
  // Signs of life for the task while a transfer blocks the loop.
  std::unique_ptr<Pulse> StartPulse(const TaskInHand& hand);
  // Acts on what the coordinator said meanwhile: an error ends the transfer.
  Status Heed(TaskInHand& hand, const Pulse& pulse) const;
  // Ends the task early where there is reason to.
  void EndWhereDue(TaskInHand& hand) const;
  // The same, and sends a heartbeat where one is due.
  Status KeepInTouch(TaskInHand& hand, double progress);
  // The session is void: opens another, and goes on with the task if the run is still the same.
  Status ConnectAgain(TaskInHand& hand);
  Status Drop(const TaskInHand& hand);
  Status SubmitUpdate(TaskInHand& hand);
  Status SubmitEvaluation(const TaskInHand& hand);
  // Until when a result is offered to a coordinator that is too busy for it.
  Milliseconds SubmitUntil(const TaskInHand& hand) const;
  Status GiveBack(const TaskAssignment& task, const std::string& why);
  void FillBandwidth(TrainingFeedback& feedback) const;

  Transport& transport_;
  Trainer& trainer_;
  ClientState& state_;
  const Clock& clock_;
  const ClientLoopOptions options_;

  // Loop thread only.
  ShardCache cache_;
  std::optional<PartialShard> partial_;
  Bandwidth down_;
  Bandwidth up_;
  Backoff backoff_;
  std::optional<Milliseconds> lost_since_ms_;  // since when nothing succeeded
  SessionId session_;
  RegisterReply run_;
  std::optional<ModelSpec> spec_;
  bool polled_ = false;              // since the last registration
  std::vector<std::uint64_t> held_;  // prefixes of the last task's shards
  bool told_of_stopping_ = false;    // since the last poll that was served
  TaskWorker* worker_ = nullptr;  // while Attend runs: it reads the trainer's and state_'s memory
  std::optional<SavedUpdate> saved_update_;
  std::optional<EvaluationResult> saved_evaluation_;
  std::optional<ClientOutcome> outcome_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  int stops_ = 0;  // guarded by mutex_
};

}  // namespace fedmoe
