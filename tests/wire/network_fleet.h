// A coordinator behind real gRPC, and clients that reach it through a proxy each: their link.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "client/client_loop.h"
#include "client/grpc_transport.h"
#include "coordinator/grpc_server.h"
#include "tests/coordinator/fleet.h"
#include "tests/support/fake_trainer.h"
#include "tests/support/fault_proxy.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {

// Generous: a test that waits so long has failed.
constexpr Milliseconds kNetworkLimitMs = 60'000;

// FleetOptions, but a run goes on without those who are missing, and ends only when it is told to.
CoreOptions NetworkOptions();

// A trunk of 64 values and `experts` experts of `expert_values` each, at 4 bytes.
ModelSpec NetworkSpec(int experts, std::int64_t expert_values);

// What the coordinator told its observer. Thread-safe.
class RoundLog final : public CoreObserver {
 public:
  void OnReport(const RoundReport& report) override;
  void OnDispatch(const RoundState& state) override;
  std::vector<RoundReport> reports() const;
  // The first report that satisfies `wanted`, waiting for it; a failure and an empty one else.
  RoundReport WaitFor(const std::function<bool(const RoundReport&)>& wanted) const;
  RoundReport WaitForRound(RoundNumber round) const;
  // The tasks of every dispatch of training so far.
  std::vector<TaskAssignment> tasks() const;

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::vector<RoundReport> reports_;
  std::map<TaskId, TaskAssignment> tasks_;
};

// "accepted", ...; "absent" if the round went without the client.
std::string OutcomeOf(const RoundReport& report, const ClientId& client);

struct LinkedClientOptions {
  std::string coordinator;  // HOST:PORT
  std::uint64_t seed = 1;   // of the link
  ModelSpec spec;
  ClientLoopOptions loop;
  std::string state_directory;
  std::int64_t examples = 10;
  KeepaliveOptions keepalive;
  AnswerLedger* ledger = nullptr;
};

// One client and its link. Set up before Start().
class LinkedClient {
 public:
  explicit LinkedClient(LinkedClientOptions options);
  ~LinkedClient() { Crash(); }

  void Start();
  // Ends at once, without a word to the coordinator.
  void Crash();
  ClientOutcome Join();
  const std::string& name() const { return options_.loop.name; }
  const std::string& instance() const { return state_->instance(); }
  FaultProxy& link() { return *link_; }
  FakeTrainer& trainer() { return trainer_; }

  // Between the loop and gRPC, where a test wants to listen.
  std::function<std::unique_ptr<Transport>(std::unique_ptr<Transport>)> wrap;

 private:
  const LinkedClientOptions options_;
  SteadyClock clock_;
  std::unique_ptr<FaultProxy> link_;
  std::unique_ptr<ClientState> state_;
  FakeTrainer trainer_;
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<ClientLoop> loop_;
  std::thread thread_;
  ClientOutcome outcome_;
};

struct NetworkFleetOptions {
  CoreOptions core = NetworkOptions();
  std::uint64_t seed = 1;
  int trainers = 3;
  std::vector<int> max_experts;  // by trainer; empty: 1 for all
  // Small, so that a connection without an answer is given up within a second.
  KeepaliveOptions keepalive = {.interval_ms = 300, .timeout_ms = 300};
};

// Trainers "client-0" ... with 10, 20, ... examples.
class NetworkFleet {
 public:
  explicit NetworkFleet(NetworkFleetOptions options = {});
  ~NetworkFleet();

  void Start();
  LinkedClient& client(int index) { return *clients_[static_cast<std::size_t>(index)]; }
  CoordinatorCore& core() { return *core_; }
  const std::string& address() const { return server_->address(); }
  // fedmoe-admin status, as JSON.
  std::string Status();
  // Waits until `wanted` holds of the status, as JSON; a failure else.
  void WaitForStatus(const std::string& what,
                     const std::function<bool(const std::string&)>& wanted);

  NetworkFleetOptions options;
  TempDir directory;
  RoundLog log;
  AnswerLedger ledger;

 private:
  SteadyClock clock_;
  std::unique_ptr<RunDirectory> run_directory_;
  std::unique_ptr<Gatekeeper> gate_;
  std::unique_ptr<CoordinatorCore> core_;
  std::unique_ptr<GrpcServer> server_;
  std::vector<std::unique_ptr<LinkedClient>> clients_;
};

}  // namespace fedmoe
