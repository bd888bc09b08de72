// A coordinator and its clients in one process, each of which can crash and come back.
#pragma once

#include <atomic>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "client/client_loop.h"
#include "common/clock.h"
#include "coordinator/core.h"
#include "tests/support/fake_trainer.h"
#include "tests/support/in_process_transport.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {

#define ASSERT_OK(expression) ASSERT_EQ((expression).ToString(), "OK")
#define EXPECT_OK(expression) EXPECT_EQ((expression).ToString(), "OK")

// A trunk of 12 + 5 values with a gate for each layer, whose rows belong to its experts and one
// zero-computation expert where there are several layers, and `experts` experts of 20 + 3 values.
ModelSpec FleetSpec(int experts = 4, int layers = 1);

// Four trainers needed, all assigned must report, nothing waits for a clock.
CoreOptions FleetOptions();

inline std::string ReadAll(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

// The coordinator of one run directory.
class TestCoordinator {
 public:
  TestCoordinator(CoreOptions options, std::string directory, FileSystem& files = PosixFileSystem())
      : options(std::move(options)), files_(&files), directory_(std::move(directory)) {}
  ~TestCoordinator() { Kill(); }

  Status Start(CoreObserver* observer = nullptr);
  // As a crash would: what is durable stays, nothing is finished.
  void Kill();
  void UseFiles(FileSystem& files) { files_ = &files; }
  CoordinatorCore& core() { return *core_; }
  const std::string& directory() const { return directory_; }

  CoreOptions options;
  SteadyClock steady_clock;
  const Clock* clock = &steady_clock;
  CoordinatorSlot slot;

 private:
  FileSystem* files_;
  const std::string directory_;
  std::unique_ptr<RunDirectory> run_directory_;
  std::unique_ptr<CoordinatorCore> core_;
};

// One client: its loop on a thread, its state on disk.
class FleetClient {
 public:
  FleetClient(CoordinatorSlot& slot, const ModelSpec& spec, ClientLoopOptions options,
              std::string state_directory, std::int64_t examples, AnswerLedger* ledger);
  ~FleetClient() { Crash(); }

  void Start();
  // Ends at once, without a word to the coordinator.
  void Crash();
  // Blocks until the loop has ended by itself.
  ClientOutcome Join();
  bool ended() const { return ended_; }

  // Of the transports and trainers to come.
  TransportFaults faults;
  std::function<void(const TaskAssignment&, TrainResult&)> before_answer = [](const TaskAssignment&,
                                                                              TrainResult&) {};
  std::function<void(const UpdateHeader&)> before_submit = [](const UpdateHeader&) {};
  std::function<void(const UpdateHeader&, const Result<Verdict>&)> after_submit =
      [](const UpdateHeader&, const Result<Verdict>&) {};

 private:
  CoordinatorSlot& slot_;
  const ModelSpec& spec_;
  const ClientLoopOptions options_;
  const std::string state_directory_;
  const std::int64_t examples_;
  AnswerLedger* ledger_;
  SteadyClock clock_;
  std::uint64_t lives_ = 0;

  std::unique_ptr<ClientState> state_;
  std::unique_ptr<InProcessTransport> transport_;
  std::unique_ptr<FakeTrainer> trainer_;
  std::unique_ptr<ClientLoop> loop_;
  std::thread thread_;
  std::atomic<bool> ended_{false};
  ClientOutcome outcome_;
};

// Trainers "client-0" ... with 1, 2, 3, 1, 2, 3 ... experts and 10, 20, ... examples, and an
// evaluator.
class Fleet {
 public:
  explicit Fleet(CoreOptions options = FleetOptions(), int trainers = 4,
                 FileSystem& files = PosixFileSystem());
  ~Fleet() { CrashClients(); }

  void StartClients();
  void CrashClients();
  // Restarts the clients that have ended.
  void Revive();
  // Whether the coordinator has had `client` register.
  bool Knows(const ClientId& client);
  // Starts everything, and waits for the run to be over and everyone to know.
  RunSummary RunToEnd();
  std::string Path(const std::string& name) const { return directory.File("run/" + name); }

  TempDir directory;
  TestCoordinator coordinator;
  AnswerLedger ledger;
  std::vector<std::unique_ptr<FleetClient>> clients;
};

// The values that a block has in version 0.
using InitialValues = std::vector<float> (*)(const ParameterBlock& block, std::uint64_t seed);

// What the run must end with, recomputed by plain loops from what the trainers returned; every
// trainer took part in every round. `initial` null: as the spec initialises.
std::string ReferenceDigest(const CoreOptions& options, const AnswerLedger& ledger,
                            InitialValues initial = nullptr);

}  // namespace fedmoe
