// One client of the load generator: registers, polls, fetches, waits as long as training would
// take, sends the template's update, and again. It holds no tensor and trains nothing.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include <grpcpp/alarm.h>

#include "client/backoff.h"
#include "common/counter_rng.h"
#include "common/result.h"
#include "federation/messages.h"
#include "fedmoe/v1/coordinator.grpc.pb.h"
#include "loadgen/update_template.h"

namespace fedmoe {

// How the clients of a fleet behave. Probabilities are for each training task.
struct Behaviour {
  Milliseconds think_ms = 0;     // between shards and update
  Milliseconds jitter_ms = 0;    // added to it: uniform, from the seed
  double returns = 0.0;          // gives the task back
  double cuts = 0.0;             // breaks the upload off half-way, once; then sends it again
  double vanishes = 0.0;         // says nothing more of the task, and opens a new session ...
  Milliseconds away_ms = 5'000;  // ... after so long
  std::int64_t examples = 100;
  int max_experts = 0;  // 0: no limit
  // Of an update, drawn from `least`, 1 or more, to `most`, as near as the model and the task's
  // encoding allow (UpdateTemplate); most 0: whole updates.
  UpdateSizes update_bytes;
  std::uint64_t seed = 1;
};

// What the clients tell as it happens, on gRPC's threads; thread-safe, must not block.
class ThinFleetObserver {
 public:
  virtual ~ThinFleetObserver() = default;
  virtual void OnRegistered() {}
  virtual void OnTask(const TaskAssignment&) {}
  virtual void OnShards(std::uint64_t bytes, double seconds) {
    static_cast<void>(bytes), static_cast<void>(seconds);
  }
  // Shards that came with their task.
  virtual void OnCarried(std::uint64_t bytes) { static_cast<void>(bytes); }
  struct Upload {
    std::uint64_t update_bytes = 0;  // of the whole
    std::uint64_t sent_bytes = 0;    // fewer where the coordinator answered before the end
    double seconds = 0.0;
  };
  virtual void OnVerdict(const TaskAssignment&, const Verdict&, const Upload&) {}
  // A call that failed and is made again.
  virtual void OnRetry(const Status&) {}
  // Once: OK where the run is over, else why the client gave up.
  virtual void OnEnd(const Status&) {}
};

// The run's model, from the first client that registers, and the updates of its tasks.
// Thread-safe.
class SharedTemplate {
 public:
  // Errors of ParseModelOptions() and BuildModelSpec(), or FAILED_PRECONDITION where the spec is
  // not the coordinator's.
  Result<const ModelSpec*> SpecOf(const RegisterReply& run);
  // Made at the first task that asks for updates so encoded. After SpecOf() only; stays.
  const UpdateTemplate& For(const TaskAssignment& task);
  // Warns, once, where updates of so many bytes cannot be had.
  void WarnWhereOutOfReach(const UpdateSizes& wanted, const TaskAssignment& task);

 private:
  std::mutex mutex_;
  std::unique_ptr<const ModelSpec> spec_;
  // By encoding, share of topk and compression.
  std::map<std::tuple<Encoding, double, bool>, std::unique_ptr<const UpdateTemplate>> templates_;
  bool warned_ = false;
};

// One call is under way at a time, but for heartbeats; what follows is started from its callback.
// Stop() is for any thread. Must outlive its calls: destroy it after OnEnd().
class ThinClient {
 public:
  // All outlive the client.
  ThinClient(std::string name, v1::Coordinator::Stub& stub, const Behaviour& behaviour,
             SharedTemplate& shared, ThinFleetObserver& observer);
  ~ThinClient();
  void Start();
  // Ends the client at its next step and what it waits for now.
  void Stop();

 private:
  class Call;
  class Fetch;
  class Submit;
  using Methods = v1::Coordinator::StubInterface::async_interface;
  template <typename Request, typename Reply>
  using UnaryMethod = void (Methods::*)(grpc::ClientContext*, const Request*, Reply*,
                                        std::function<void(grpc::Status)>);
  enum class Deadline { kSoon, kNone };

  // Calls `method`, and next(reply) when it has gone well; Recover() else.
  template <typename Request, typename Reply, typename Next>
  void Ask(UnaryMethod<Request, Reply> method, Request request, Deadline deadline, Next next);
  void Register();
  void Poll();
  void Leave();
  void Unload(const TaskAssignment& task, const std::vector<CarriedShard>& carried);
  void Take(TaskAssignment task);
  void DrawSize();
  TemplateUpdate MakeUpdate() const;
  void FetchShards();
  void Hold();
  void Think();
  void Beat(Milliseconds left_ms);
  void Send();
  void SendAgain(const Status& status);
  void Evaluate();
  void ReturnTask();
  // Of any call but OK: another try, another session, or the end.
  void Recover(const Status& status);
  void After(Milliseconds delay_ms, std::function<void()> next);
  void End(const Status& status);
  bool stopping() const { return stopping_; }
  bool Draw(double probability) { return probability > 0.0 && random_.NextUniform() < probability; }

  const std::string name_;
  v1::Coordinator::Stub& stub_;
  const Behaviour& behaviour_;
  SharedTemplate& shared_;
  ThinFleetObserver& observer_;

  CounterRng random_;
  Backoff backoff_;
  std::vector<double> affinity_;
  SessionId session_;
  RegisterReply run_;
  const ModelSpec* spec_ = nullptr;
  TaskAssignment task_;
  int tasks_ = 0;                   // of its round
  int resends_ = 0;                 // of the task's update
  std::uint64_t update_bytes_ = 0;  // asked of it; 0: whole
  std::vector<Digest> held_;        // of the last task's shards: they are not fetched again
  bool cut_ = false;                // the task's upload was broken off on purpose
  bool over_ = false;               // the run, as the coordinator says
  int leaves_ = 0;                  // that it was too busy for

  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  grpc::ClientContext* under_way_ = nullptr;  // guarded by mutex_
  std::unique_ptr<grpc::Alarm> alarm_;        // guarded by mutex_: of the last wait
};

}  // namespace fedmoe
