// Whole runs over real gRPC whose network fails: what stops, what goes on, and what is counted.
#include <atomic>
#include <filesystem>
#include <future>
#include <memory>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "client/backoff.h"
#include "tests/wire/network_fleet.h"

namespace fedmoe {
namespace {

using Json = nlohmann::json;

// Passes every call on; a test may stand between two of them.
class WatchedTransport final : public Transport {
 public:
  explicit WatchedTransport(std::unique_ptr<Transport> inner) : inner_(std::move(inner)) {}

  std::function<void()> before_register = [] {};
  std::function<Result<Verdict>(const std::function<Result<Verdict>()>&)> around_submit =
      [](const std::function<Result<Verdict>()>& submit) { return submit(); };

  Result<RegisterReply> Register(const RegisterRequest& request) override {
    before_register();
    return inner_->Register(request);
  }
  Result<NextTaskReply> NextTask(const PollRequest& request) override {
    return inner_->NextTask(request);
  }
  Result<HeartbeatReply> Beat(const SessionId& session, TaskId task, double progress) override {
    return inner_->Beat(session, task, progress);
  }
  Status FetchShards(const SessionId& session, const std::vector<ShardReference>& shards,
                     const ShardSink& sink, bool damaged, std::uint64_t first_offset) override {
    return inner_->FetchShards(session, shards, sink, damaged, first_offset);
  }
  Result<Verdict> SubmitUpdate(const SessionId& session, const UpdateHeader& header,
                               const UpdateSource& encode, bool again) override {
    return around_submit([&] { return inner_->SubmitUpdate(session, header, encode, again); });
  }
  Status SubmitEvaluation(const SessionId& session, const EvaluationResult& result) override {
    return inner_->SubmitEvaluation(session, result);
  }
  Status ReturnTask(const SessionId& session, TaskId task, const std::string& why) override {
    return inner_->ReturnTask(session, task, why);
  }
  Status Leave(const SessionId& session) override { return inner_->Leave(session); }
  void CancelWork() override { inner_->CancelWork(); }
  void CancelAll() override { inner_->CancelAll(); }

 private:
  const std::unique_ptr<Transport> inner_;
};

// Holds a trainer back until the test, or its end, lets it go.
class Gate {
 public:
  ~Gate() { Open(); }
  void Open() {
    if (!std::exchange(open_, true)) promise_.set_value();
  }
  void Wait() const { opened_.wait(); }
  // For who may wait when this object has gone.
  std::shared_future<void> opened() const { return opened_; }

 private:
  bool open_ = false;
  std::promise<void> promise_;
  const std::shared_future<void> opened_ = promise_.get_future().share();
};

Milliseconds NowMs() { return SteadyClock().NowMs(); }

// ---- Rounds go on at quorum.

TEST(NetworkFaults, RoundsGoOnAtQuorumWhileAClientIsPartitioned) {
  NetworkFleet fleet;
  fleet.Start();
  fleet.log.WaitFor([](const RoundReport& report) { return report.accepted == 3; });

  fleet.client(2).link().Set(Partition());
  const RoundReport without = fleet.log.WaitFor([](const RoundReport& report) {
    return OutcomeOf(report, "client-2") == "absent" && report.round > 1;
  });
  EXPECT_EQ(without.accepted, 2);
  const RoundReport later = fleet.log.WaitForRound(without.round + 3);
  EXPECT_EQ(OutcomeOf(later, "client-2"), "absent");
  EXPECT_EQ(later.attempts, 1);

  fleet.client(2).link().Heal();
  const RoundReport healed = fleet.log.WaitFor([&](const RoundReport& report) {
    return report.round > later.round && OutcomeOf(report, "client-2") == "accepted";
  });
  EXPECT_EQ(healed.accepted, 3);
}

// ---- Clients reconnect with backoff.

TEST(NetworkFaults, AClientReconnectsWithBackoffAndWithoutAStorm) {
  constexpr std::size_t kAttempts = 12;
  constexpr Milliseconds kInitialMs = 5;
  constexpr Milliseconds kMaxMs = 100;
  NetworkFleetOptions options;
  options.trainers = 1;
  options.core.run.participation.min_clients = 1;
  NetworkFleet fleet(options);
  LinkedClient& client = fleet.client(0);
  std::mutex mutex;
  std::vector<Milliseconds> attempts_ms;
  Gate enough;
  client.wrap = [&](std::unique_ptr<Transport> transport) -> std::unique_ptr<Transport> {
    auto watched = std::make_unique<WatchedTransport>(std::move(transport));
    watched->before_register = [&] {
      const std::lock_guard lock(mutex);
      attempts_ms.push_back(NowMs());
      if (attempts_ms.size() == kAttempts) enough.Open();
    };
    return watched;
  };
  client.link().Set(Partition());
  client.Start();
  enough.Wait();
  client.link().Heal();
  EXPECT_EQ(fleet.log.WaitForRound(1).accepted, 1);

  // What the client must have waited, at the least, before each attempt: full jitter below a limit
  // that doubles up to the largest.
  Backoff backoff(client.instance(), kInitialMs, kMaxMs);
  const std::lock_guard lock(mutex);
  for (std::size_t i = 1; i < kAttempts; ++i) {
    const Milliseconds delay_ms = backoff.Next();
    EXPECT_LE(delay_ms, std::min(kMaxMs, kInitialMs << (i - 1)));
    EXPECT_GE(attempts_ms[i] - attempts_ms[i - 1], delay_ms) << "before attempt " << i;
  }
  // gRPC backs off by itself: attempts to connect are no more than the client's own.
  EXPECT_LE(client.link().attempts_ms().size(), attempts_ms.size());
}

// ---- Nothing is counted twice.

// Four trainers whose run ends after three rounds in a model that depends on every update.
NetworkFleetOptions DeterministicOptions(std::uint64_t seed) {
  NetworkFleetOptions options;
  options.core = FleetOptions();
  options.core.run.evaluation.mode = EvaluationMode::kNone;
  options.seed = seed;
  options.trainers = 4;
  options.max_experts = {1, 2, 3, 1};
  options.keepalive = {};  // what ends a connection here is the test alone
  return options;
}

std::string DigestOfACleanRun() {
  NetworkFleet fleet(DeterministicOptions(1));
  fleet.Start();
  const RunSummary summary = fleet.core().Wait();
  EXPECT_EQ(summary.status, "completed") << summary.detail;
  EXPECT_EQ(summary.model_digest, ReferenceDigest(fleet.options.core, fleet.ledger));
  return summary.model_digest;
}

class FaultyNetwork : public ::testing::TestWithParam<std::uint64_t> {};

TEST_P(FaultyNetwork, EndsInTheModelOfACleanOne) {
  static const std::string clean = DigestOfACleanRun();
  NetworkFleet fleet(DeterministicOptions(GetParam()));
  for (int i = 0; i < 4; ++i) {
    fleet.client(i).link().Set({.up = {.jitter_ms = 4, .cut_mean_bytes = 4'000.0},
                                .down = {.jitter_ms = 4, .cut_mean_bytes = 4'000.0}});
  }
  fleet.Start();
  const RunSummary summary = fleet.core().Wait();
  EXPECT_EQ(summary.status, "completed") << summary.detail;
  EXPECT_EQ(summary.model_digest, clean);
  std::uint64_t cuts = 0;
  for (int i = 0; i < 4; ++i) cuts += fleet.client(i).link().counts().cut;
  EXPECT_GT(cuts, 4U) << "the network was not that faulty";
  for (const RoundReport& report : fleet.log.reports()) {
    EXPECT_EQ(report.accepted, 4);
    EXPECT_EQ(report.attempts, 1);
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, FaultyNetwork, ::testing::Range<std::uint64_t>(1, 5));

// The coordinator has the update, the client does not know, and sends it again.
TEST(NetworkFaults, AnUpdateWhoseReplyIsCutIsMergedOnce) {
  NetworkFleet fleet(DeterministicOptions(1));
  LinkedClient& client = fleet.client(0);
  std::atomic<int> cut{0};
  Gate first_is_through;
  // Until then it is the only one whose update can be among the accepted.
  for (int i = 1; i < 4; ++i) {
    fleet.client(i).trainer().before_answer = [through = first_is_through.opened()](
                                                  const TaskAssignment&, TrainResult&) {
      through.wait();
    };
  }
  client.wrap = [&](std::unique_ptr<Transport> transport) -> std::unique_ptr<Transport> {
    auto watched = std::make_unique<WatchedTransport>(std::move(transport));
    watched->around_submit = [&](const std::function<Result<Verdict>()>& submit) {
      if (cut.fetch_add(1) > 0) return submit();
      client.link().Set({.down = {.stalled = true}});
      std::thread cutter([&] {
        fleet.WaitForStatus("an accepted update", [](const std::string& status) {
          return Json::parse(status)["tasks"].value("accepted", 0) == 1;
        });
        client.link().CutAll();
        client.link().Heal();
      });
      // The transport asks what has come of it and sends it again, as a client's loop would later.
      Result<Verdict> again = submit();
      cutter.join();
      // The channel may not have noticed yet that its connection is gone.
      while (again.status().code() == StatusCode::kUnavailable) again = submit();
      EXPECT_TRUE(again.ok() && again->accepted()) << again.status().ToString();
      first_is_through.Open();
      return again;
    };
    return watched;
  };
  fleet.Start();
  const RunSummary summary = fleet.core().Wait();
  EXPECT_EQ(summary.status, "completed") << summary.detail;
  EXPECT_EQ(fleet.log.WaitForRound(1).accepted, 4);
  EXPECT_EQ(summary.model_digest, ReferenceDigest(fleet.options.core, fleet.ledger));
}

// ---- Slow clients.

// Three trainers, each the only holder of an expert whose update has 200 kB.
NetworkFleetOptions LargeUpdates() {
  NetworkFleetOptions options;
  options.core.run.spec = NetworkSpec(3, 50'000);
  options.core.run.participation.min_clients = 3;
  options.core.run.participation.heartbeat_timeout_ms = kNetworkLimitMs;
  return options;
}

// The cell of the expert that the client was given in the first round: 0 is the trunk.
std::size_t CellOf(const NetworkFleet& fleet, const ClientId& client) {
  for (const TaskAssignment& task : fleet.log.tasks()) {
    if (task.client == client) return static_cast<std::size_t>(task.experts.at(0)) + 1;
  }
  ADD_FAILURE() << client << " has no task";
  return 0;
}

TEST(NetworkFaults, ASlowClientHoldsUpOnlyItsOwnExperts) {
  NetworkFleet fleet(LargeUpdates());
  fleet.client(0).link().Set({.up = {.bytes_per_s = 30'000.0}});
  fleet.Start();
  // Round 1 stands as long as its expert does; the others' are done with, and so is the trunk.
  fleet.WaitForStatus("the closing of the others' experts", [&](const std::string& text) {
    const Json status = Json::parse(text);
    if (status["round"] != 1 || fleet.log.tasks().size() < 3) return false;
    const Json& cells = status["cells"];
    return cells[CellOf(fleet, "client-1")] == "complete" &&
           cells[CellOf(fleet, "client-2")] == "complete" && cells[0] == "grace" &&
           cells[CellOf(fleet, "client-0")] == "open";
  });
  fleet.client(0).link().Heal();
  const RoundReport report = fleet.log.WaitForRound(1);
  EXPECT_EQ(OutcomeOf(report, "client-0"), "accepted") << "it was waited for, and counts";
  EXPECT_EQ(report.cells[CellOf(fleet, "client-0")], CellState::kComplete);
}

TEST(NetworkFaults, ASlowClientHoldsNothingUpPastTheDeadline) {
  NetworkFleetOptions options = LargeUpdates();
  options.core.run.participation.deadline_ms = 1'500;
  NetworkFleet fleet(options);
  fleet.client(0).link().Set({.up = {.bytes_per_s = 2'000.0}});
  fleet.Start();
  const RoundReport report = fleet.log.WaitForRound(1);
  EXPECT_EQ(OutcomeOf(report, "client-0"), "expired");
  EXPECT_EQ(report.accepted, 2);
  EXPECT_EQ(report.cells[CellOf(fleet, "client-0")], CellState::kDeadline);
  EXPECT_EQ(report.cells[CellOf(fleet, "client-1")], CellState::kComplete);
  EXPECT_EQ(report.attempts, 1);
}

// Its update is one message, which takes longer than the coordinator waits for a word, and what is
// sent after it on the same connection waits for all of it; so does the shard.
TEST(NetworkFaults, ATransferThatTakesLongerThanTheHeartbeatTimeoutLosesNobody) {
  NetworkFleetOptions options = LargeUpdates();
  options.core.run.participation.heartbeat_timeout_ms = 1'200;
  options.keepalive = {};
  NetworkFleet fleet(options);
  fleet.client(0).link().Set({.up = {.bytes_per_s = 80'000.0}, .down = {.bytes_per_s = 80'000.0}});
  fleet.Start();
  const RoundReport report = fleet.log.WaitForRound(1);
  EXPECT_EQ(OutcomeOf(report, "client-0"), "accepted");
  EXPECT_EQ(report.attempts, 1);
  EXPECT_TRUE(report.reassigned.empty()) << "it was taken for lost";
  EXPECT_EQ(report.cells[CellOf(fleet, "client-0")], CellState::kComplete);
}

// ---- Vanished clients.

TEST(NetworkFaults, AnExpertWhoseOnlyHolderVanishedIsReassignedInTheSameRound) {
  NetworkFleetOptions options = LargeUpdates();
  options.core.run.participation.heartbeat_timeout_ms = 2'000;
  NetworkFleet fleet(options);
  Gate gate;
  fleet.client(2).trainer().before_answer = [&, opened = gate.opened()](const TaskAssignment& task,
                                                                        TrainResult&) {
    fleet.client(2).link().Set(Partition());
    if (task.round == 1) opened.wait();
  };
  fleet.Start();
  const RoundReport report = fleet.log.WaitForRound(1);
  EXPECT_EQ(report.attempts, 1);
  EXPECT_EQ(report.accepted, 2);
  EXPECT_EQ(OutcomeOf(report, "client-2"), "lost");
  const std::size_t cell = CellOf(fleet, "client-2");
  ASSERT_EQ(report.reassigned.size(), 1U);
  EXPECT_EQ(report.reassigned[0].expert, static_cast<ExpertIndex>(cell) - 1);
  EXPECT_EQ(report.reassigned[0].from, "client-2");
  EXPECT_EQ(report.reassigned[0].outcome, "accepted");
  EXPECT_EQ(report.cells[cell], CellState::kComplete);
  EXPECT_EQ(report.load.round_assignments[cell - 1], 1) << "the expert has been trained";
}

// ---- Half-open connections and stalls.

NetworkFleetOptions PatientOptions() {
  NetworkFleetOptions options;
  options.trainers = 2;
  options.core.run.participation.quorum = 1.0;
  // Only keepalive can notice.
  options.core.run.participation.heartbeat_timeout_ms = 10 * kNetworkLimitMs;
  options.core.poll_hold_ms = 10 * kNetworkLimitMs;
  return options;
}

TEST(NetworkFaults, AHalfOpenConnectionIsNoticedByKeepaliveWhileAPollIsParked) {
  NetworkFleetOptions options = PatientOptions();
  options.core.heartbeat_interval_ms = kNetworkLimitMs;  // so that the poll has the only connection
  NetworkFleet fleet(options);
  Gate gate;
  fleet.client(1).trainer().before_answer =
      [opened = gate.opened()](const TaskAssignment&, TrainResult&) { opened.wait(); };
  fleet.Start();
  fleet.WaitForStatus("client-0's update", [](const std::string& status) {
    return Json::parse(status)["tasks"].value("accepted", 0) == 1;
  });
  FaultProxy& link = fleet.client(0).link();
  link.Set(HalfOpen());
  link.Heal();  // for the next connection; this one stays dead
  EXPECT_TRUE(link.WaitUntil([](const LinkCounts& counts) { return counts.accepted >= 2; }));
  // The coordinator's end is given up, too.
  EXPECT_TRUE(link.WaitUntil([](const LinkCounts& counts) { return counts.open == 1; }));
  gate.Open();
  EXPECT_EQ(OutcomeOf(fleet.log.WaitForRound(2), "client-0"), "accepted");
}

TEST(NetworkFaults, ATaskGoesOnAfterItsConnectionWasHalfOpen) {
  NetworkFleet fleet(PatientOptions());
  const auto training = std::make_shared<Gate>();
  Gate gate;
  fleet.client(0).trainer().before_answer = [training, opened = gate.opened()](
                                                const TaskAssignment&, TrainResult&) {
    training->Open();
    opened.wait();
  };
  fleet.Start();
  training->Wait();
  FaultProxy& link = fleet.client(0).link();
  link.Set(HalfOpen());
  link.Heal();
  // Its heartbeats find the new way.
  EXPECT_TRUE(link.WaitUntil([](const LinkCounts& counts) { return counts.accepted >= 2; }));
  gate.Open();
  const RoundReport report = fleet.log.WaitForRound(1);
  EXPECT_EQ(report.attempts, 1);
  EXPECT_EQ(report.accepted, 2);
  EXPECT_EQ(fleet.log.tasks().front().task, 1U);
}

std::size_t FilesIn(const std::string& directory) {
  const std::filesystem::directory_iterator files(directory);
  return static_cast<std::size_t>(std::distance(begin(files), end(files)));
}

TEST(NetworkFaults, AStalledUploadHoldsNeitherTheRoundNorItsSpoolFile) {
  NetworkFleetOptions options = LargeUpdates();
  options.core.run.participation.deadline_ms = 2'000;
  options.core.run.rounds = 1;  // so that nothing else is in the spool in the end
  options.core.linger_ms = 2 * kNetworkLimitMs;
  NetworkFleet fleet(options);
  FaultProxy& link = fleet.client(0).link();
  link.Set({.up = {.bytes_per_s = 50'000.0}});
  fleet.Start();
  EXPECT_TRUE(link.WaitUntil([](const LinkCounts& counts) { return counts.bytes_up > 20'000; }));
  link.Set({.up = {.stalled = true}, .refuse = true});
  const RoundReport report = fleet.log.WaitForRound(1);
  EXPECT_EQ(OutcomeOf(report, "client-0"), "expired");
  EXPECT_EQ(report.accepted, 2);
  EXPECT_LE(link.counts().held_bytes, 600'000U);
  // The coordinator gives the connection up within keepalive, and what had come goes with it.
  fleet.WaitForStatus("an empty spool", [&](const std::string&) {
    return FilesIn(fleet.directory.File("run/spool")) == 0;
  });
}

}  // namespace
}  // namespace fedmoe
