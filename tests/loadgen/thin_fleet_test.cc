// Thin clients against a coordinator behind real gRPC: well-behaved, and as badly as they can.
#include "loadgen/thin_fleet.h"

#include <array>
#include <set>
#include <thread>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "coordinator/grpc_server.h"
#include "moe/model_options.h"
#include "tests/coordinator/fleet.h"

namespace fedmoe {
namespace {

constexpr int kRounds = 6;

CoreOptions ThinOptions() {
  ModelOptions model;
  model.inputs = 6;
  model.classes = 3;
  model.width = 8;
  model.expert_width = 8;
  model.experts = 4;
  CoreOptions options = FleetOptions();
  options.run.spec = BuildModelSpec(model).value();
  options.run.rounds = kRounds;
  options.run.deterministic = false;
  options.run.participation = {.min_clients = 4,
                               .quorum = 1.0,
                               .grace_ms = 0,
                               .deadline_ms = 0,
                               .heartbeat_timeout_ms = 20'000,
                               .max_aborts = 1'000};
  options.run.evaluation.mode = EvaluationMode::kNone;
  options.poll_hold_ms = 500;
  options.heartbeat_interval_ms = 100;
  options.linger_ms = 2'000;
  return options;
}

// Goes on without those who are missing.
CoreOptions PatientOptions() {
  CoreOptions options = ThinOptions();
  options.run.participation.quorum = 0.5;
  options.run.participation.grace_ms = 200;
  options.run.participation.deadline_ms = 2'000;
  return options;
}

class ThinFleetTest : public ::testing::Test {
 protected:
  ~ThinFleetTest() override { server_.reset(); }

  void Start(CoreOptions options = ThinOptions(), const GrpcServerOptions& server = {}) {
    run_directory_ = RunDirectory::Open(PosixFileSystem(), directory_.File("run")).value();
    core_ = CoordinatorCore::Start(options, PosixFileSystem(), *run_directory_, clock_, nullptr)
                .value();
    gate_ = Gatekeeper::Open(PosixFileSystem(), run_directory_->path(), {}).value();
    server_ = GrpcServer::Start(*core_, *gate_, "127.0.0.1:0", server).value();
  }

  ThinFleetOptions Options(Behaviour behaviour = {}) const {
    behaviour.examples = 20;
    return {.coordinator = server_->address(), .clients = 4, .behaviour = behaviour};
  }

  // What `outcome` became of over the whole run.
  int Outcomes(const std::string& outcome) const {
    int count = 0;
    std::istringstream lines(ReadAll(directory_.File("run/rounds.jsonl")));
    for (std::string line; std::getline(lines, line);) {
      const nlohmann::json report = nlohmann::json::parse(line);
      for (const auto& client : report["clients"]) {
        count += client["outcome"] == outcome ? 1 : 0;
      }
    }
    return count;
  }

  TempDir directory_;
  SteadyClock clock_;
  std::unique_ptr<RunDirectory> run_directory_;
  std::unique_ptr<CoordinatorCore> core_;
  std::unique_ptr<Gatekeeper> gate_;
  std::unique_ptr<GrpcServer> server_;
};

TEST_F(ThinFleetTest, ARunIsServedToItsEnd) {
  Start();
  ThinFleet fleet(Options());
  ASSERT_OK(fleet.Run());
  EXPECT_EQ(core_->Wait().status, "completed");
  const ThinFleetTotals totals = fleet.totals();
  EXPECT_EQ(totals.registered, 4);
  EXPECT_EQ(totals.tasks, 4 * kRounds);
  EXPECT_EQ(totals.accepted, 4 * kRounds);
  EXPECT_EQ(totals.rejected, 0);
  EXPECT_EQ(totals.retries, 0);
  EXPECT_EQ(totals.ended, 4);
  EXPECT_EQ(totals.failed, 0);
  EXPECT_EQ(totals.first_error, "");
  EXPECT_EQ(totals.submit_s.size(), static_cast<std::size_t>(totals.accepted));
  EXPECT_EQ(totals.fetch_s.size(), 4u) << "after a client's first round they come with the task";
  EXPECT_GT(totals.bytes_up, 0u);
  EXPECT_GT(totals.bytes_down, 0u);
  EXPECT_EQ(Outcomes("accepted"), 4 * kRounds);
}

TEST_F(ThinFleetTest, ClientsMayShareAConnectionAndTakeTheirTime) {
  Start();
  ThinFleetOptions options = Options({.think_ms = 250, .jitter_ms = 20});
  options.connections = 1;
  options.joins_per_second = 40;
  ThinFleet fleet(options);
  ASSERT_OK(fleet.Run());
  EXPECT_EQ(core_->Wait().status, "completed");
  // Longer than two heartbeats, which the coordinator waits for: no one was taken for lost.
  EXPECT_EQ(fleet.totals().accepted, 4 * kRounds);
}

// Twelve that have 4 MB each to fetch and to send, all at once.
TEST_F(ThinFleetTest, TransfersHaveNoMoreInFlightThanTheLanesAllow) {
  ModelOptions model;
  model.inputs = 6;
  model.classes = 3;
  model.width = 64;
  model.expert_width = 2'048;
  model.experts = 4;
  CoreOptions options = ThinOptions();
  options.run.spec = BuildModelSpec(model).value();
  options.run.rounds = 2;
  options.run.participation.min_clients = 12;
  constexpr std::array<std::uint64_t, 2> kLanes = {std::uint64_t{2} << 20, std::uint64_t{1} << 20};
  Start(options, {.lanes = {.bytes = kLanes}});
  ThinFleetOptions fleet_options = Options();
  fleet_options.clients = 12;
  ThinFleet fleet(fleet_options);
  ASSERT_OK(fleet.Run());
  EXPECT_EQ(core_->Wait().status, "completed");
  const ThinFleetTotals totals = fleet.totals();
  EXPECT_EQ(totals.accepted, 12 * 2);
  const TransferBounds& transfers = server_->transfers();
  EXPECT_LE(transfers.up.peak_bytes(), kLanes[0] + kLanes[1]);
  EXPECT_LE(transfers.down.peak_bytes(), kLanes[0] + kLanes[1]);
  // Nothing passed them by.
  EXPECT_GE(transfers.up.granted_bytes(), totals.bytes_up);
  EXPECT_GE(transfers.down.granted_bytes(), totals.bytes_down);
  EXPECT_GT(totals.bytes_up, std::uint64_t{12} << 20);
  EXPECT_EQ(transfers.carried.peak_bytes(), 0U) << "they are too large for that";
}

TEST_F(ThinFleetTest, ShardsThatComeWithTasksNeedNoLane) {
  CoreOptions options = ThinOptions();
  options.run.participation.min_clients = 12;
  Start(options);
  ThinFleetOptions fleet_options = Options();
  fleet_options.clients = 12;
  ThinFleet fleet(fleet_options);
  ASSERT_OK(fleet.Run());
  const CarriedBytes& carried = server_->transfers().carried;
  EXPECT_GT(carried.peak_bytes(), 0U) << "they count among those that are carried";
  EXPECT_LT(server_->transfers().down.granted_bytes(), fleet.totals().bytes_down);
}

// Of one that holds all experts.
UpdateSizes SizesOf(const CoreOptions& options) {
  TaskAssignment task;
  task.experts = {0, 1, 2, 3};
  return UpdateTemplate(options.run.spec, options.run.training.upload).Sizes(task);
}

TEST_F(ThinFleetTest, UpdatesHaveTheSizesThatAreAskedFor) {
  CoreOptions options = ThinOptions();
  options.run.training.upload.encoding = Encoding::kTopK;
  Start(options);
  const UpdateSizes sizes = SizesOf(options);
  const UpdateSizes asked{.least = sizes.least + (sizes.most - sizes.least) / 4,
                          .most = sizes.least + (sizes.most - sizes.least) / 2};
  ThinFleet fleet(Options({.cuts = 0.3, .update_bytes = asked}));
  ASSERT_OK(fleet.Run());
  EXPECT_EQ(core_->Wait().status, "completed");
  const ThinFleetTotals totals = fleet.totals();
  EXPECT_EQ(totals.accepted, 4 * kRounds);
  const std::set<double> sent(totals.update_bytes.begin(), totals.update_bytes.end());
  EXPECT_GT(sent.size(), 2U) << "they are drawn";
  EXPECT_GT(*sent.begin() + 64.0 * static_cast<double>(options.run.spec.blocks.size()),
            static_cast<double>(asked.least));
  EXPECT_LE(*sent.rbegin(), static_cast<double>(asked.most));
}

TEST_F(ThinFleetTest, ExpertsThatDoNotFitHadNoTokens) {
  const CoreOptions options = ThinOptions();
  Start(options);
  const UpdateSizes sizes = SizesOf(options);
  const std::uint64_t half = (sizes.least + sizes.most) / 2;
  ThinFleet fleet(Options({.update_bytes = {.least = half, .most = half}}));
  ASSERT_OK(fleet.Run());
  EXPECT_EQ(core_->Wait().status, "completed");
  const ThinFleetTotals totals = fleet.totals();
  EXPECT_EQ(totals.accepted, 4 * kRounds);
  EXPECT_EQ(Quantile(totals.update_bytes, 1.0), static_cast<double>(half));
}

TEST_F(ThinFleetTest, UpdatesThatAreBrokenOffAreSentAgain) {
  Start();
  ThinFleet fleet(Options({.cuts = 1.0}));
  ASSERT_OK(fleet.Run());
  EXPECT_EQ(core_->Wait().status, "completed");
  const ThinFleetTotals totals = fleet.totals();
  EXPECT_EQ(totals.accepted, 4 * kRounds);
  EXPECT_EQ(totals.failed, 0);
}

TEST_F(ThinFleetTest, TasksThatAreGivenBackAreCounted) {
  Start(PatientOptions());
  ThinFleet fleet(Options({.returns = 0.3, .seed = 5}));
  ASSERT_OK(fleet.Run());
  EXPECT_EQ(core_->Wait().status, "completed");
  const ThinFleetTotals totals = fleet.totals();
  EXPECT_LT(totals.accepted, totals.tasks);
  EXPECT_EQ(totals.failed, 0);
  EXPECT_GT(Outcomes("lost"), 0);
}

TEST_F(ThinFleetTest, ClientsThatVanishComeBack) {
  CoreOptions options = PatientOptions();
  options.run.rounds = 3;
  Start(options);
  ThinFleet fleet(Options({.vanishes = 0.4, .away_ms = 300, .seed = 3}));
  ASSERT_OK(fleet.Run());
  EXPECT_EQ(core_->Wait().status, "completed");
  const ThinFleetTotals totals = fleet.totals();
  EXPECT_GT(totals.registered, 4);
  EXPECT_EQ(totals.failed, 0);
}

TEST_F(ThinFleetTest, AFleetStopsWhenItIsTold) {
  CoreOptions options = ThinOptions();
  options.run.rounds = 1'000'000;
  Start(options);
  ThinFleet fleet(Options({.think_ms = 60'000}));
  std::thread runs([&] { static_cast<void>(fleet.Run()); });
  while (fleet.totals().tasks < 4) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  fleet.Stop();
  runs.join();
  EXPECT_EQ(fleet.totals().ended, 4);
  EXPECT_EQ(fleet.totals().accepted, 0);
}

TEST_F(ThinFleetTest, AClientThatIsRefusedSaysWhy) {
  Start();
  ThinFleetOptions options = Options();
  options.clients = 1;
  options.prefix = "no such name! ";
  ThinFleet fleet(options);
  ASSERT_OK(fleet.Run());
  EXPECT_EQ(fleet.totals().failed, 1);
  EXPECT_EQ(fleet.totals().first_error,
            "INVALID_ARGUMENT: client must be 1 to 64 characters of [A-Za-z0-9._-]");
}

}  // namespace
}  // namespace fedmoe
