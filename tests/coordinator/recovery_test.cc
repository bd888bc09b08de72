// Crashes at chosen moments, full disks, and unruly networks: a run goes on to the same model.
#include <mutex>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sqlite3.h>

#include "common/forwarding_file_system.h"
#include "common/unsynced_file_system.h"
#include "tests/coordinator/raw_client.h"
#include "tests/coordinator/undisturbed.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/full_disk.h"
#include "tests/support/power_cut_file_system.h"

namespace fedmoe {
namespace {

using ::testing::HasSubstr;

// Waits until the run is over or `failed` holds; true in the second case.
template <typename Condition>
bool WaitForTrouble(CoordinatorCore& core, Condition failed) {
  while (!core.WaitFor(1)) {
    if (failed()) return true;
  }
  return false;
}

// Whether updates and versions are small, which share files, or get files of their own.
class Law7 : public ::testing::TestWithParam<bool> {
 protected:
  static CoreOptions Options() {
    CoreOptions options = FleetOptions();
    if (!GetParam()) options.small_bytes = 0;
    return options;
  }
};

INSTANTIATE_TEST_SUITE_P(Small, Law7, ::testing::Bool());

TEST_P(Law7, ACoordinatorKilledAfterAnyCallEndsInTheSameModel) {
  for (std::int64_t calls = 3; calls < 260; calls += 23) {
    SCOPED_TRACE("killed after " + std::to_string(calls) + " calls");
    Fleet fleet(Options());
    ASSERT_OK(fleet.coordinator.Start());
    fleet.coordinator.slot.CloseAfter(calls);
    fleet.StartClients();
    const bool killed =
        WaitForTrouble(fleet.coordinator.core(), [&] { return fleet.coordinator.slot.closed(); });
    ASSERT_TRUE(killed) << "the run ended before the kill";
    fleet.coordinator.Kill();
    ASSERT_OK(fleet.coordinator.Start());
    const RunSummary summary = fleet.coordinator.core().Wait();
    EXPECT_EQ(summary.status, "completed");
    EXPECT_EQ(summary.model_digest, UndisturbedDigest());
    ExpectWholeReports(fleet, UndisturbedDigest());
  }
}

TEST_P(Law7, ADiskThatDiesAtAnyOperationLosesNothing) {
  for (std::int64_t operation = 30; operation < 150; operation += 11) {
    SCOPED_TRACE("operation " + std::to_string(operation));
    FaultFileSystem files(PosixFileSystem());
    Fleet fleet(Options(), 4, files);
    ASSERT_OK(fleet.coordinator.Start());
    files.FailFrom(operation, FaultFileSystem::Fault::kIoError);
    fleet.StartClients();
    WaitForTrouble(fleet.coordinator.core(), [&] { return files.faults() > 0; });
    fleet.coordinator.Kill();
    fleet.CrashClients();
    files.Clear();
    fleet.coordinator.UseFiles(PosixFileSystem());
    const Status started = fleet.coordinator.Start();
    if (started.code() == StatusCode::kFailedPrecondition) {
      EXPECT_THAT(started.message(), HasSubstr("is completed (3 rounds)"));
      ExpectWholeReports(fleet, UndisturbedDigest());
    } else {
      ASSERT_OK(started);
      fleet.StartClients();
      EXPECT_EQ(fleet.coordinator.core().Wait().model_digest, UndisturbedDigest());
      ExpectWholeReports(fleet, UndisturbedDigest());
    }
  }
}

// The journal is SQLite's, which survives; of all else what was not synced is lost, or not.
TEST_P(Law7, APowerCutAtAnyMomentLosesNothingThatWasAcknowledged) {
  for (std::int64_t calls = 5; calls < 260; calls += 12) {
    SCOPED_TRACE("cut after " + std::to_string(calls) + " calls");
    UnsyncedFileSystem disk(PosixFileSystem());
    PowerCutFileSystem files(disk);
    Fleet fleet(Options(), 4, files);
    std::mutex mutex;
    std::set<TaskId> acknowledged;
    for (const auto& client : fleet.clients) {
      client->after_submit = [&](const UpdateHeader& header, const Result<Verdict>& verdict) {
        const std::lock_guard lock(mutex);
        if (verdict.ok() && verdict->accepted()) acknowledged.insert(header.task);
      };
      client->before_answer = [&](const TaskAssignment& task, TrainResult&) {
        const std::lock_guard lock(mutex);
        EXPECT_FALSE(acknowledged.contains(task.task)) << "asked for again";
      };
    }
    ASSERT_OK(fleet.coordinator.Start());
    fleet.coordinator.slot.CloseAfter(calls);
    fleet.StartClients();
    const bool cut =
        WaitForTrouble(fleet.coordinator.core(), [&] { return fleet.coordinator.slot.closed(); });
    ASSERT_TRUE(cut) << "the run ended before the cut";
    fleet.coordinator.Kill();
    files.Cut(static_cast<std::uint64_t>(calls));
    ASSERT_OK(fleet.coordinator.Start());
    const RunSummary summary = fleet.coordinator.core().Wait();
    EXPECT_EQ(summary.status, "completed");
    EXPECT_EQ(summary.model_digest, UndisturbedDigest());
    ExpectWholeReports(fleet, UndisturbedDigest());
    // The disk of the machine that came back holds the run whole.
    fleet.coordinator.Kill();
    files.Cut(static_cast<std::uint64_t>(calls) + 1);
    EXPECT_EQ(nlohmann::json::parse(ReadAll(fleet.Path("summary.json")))["status"], "completed");
    ExpectWholeReports(fleet, UndisturbedDigest());
  }
}

// The real file system, but for one kind of file that there is no space for.
class NoSpaceFor final : public ForwardingFileSystem {
 public:
  explicit NoSpaceFor(std::string part)
      : ForwardingFileSystem(PosixFileSystem()), part_(std::move(part)) {}
  Result<std::unique_ptr<WritableFile>> Create(const std::string& path) override {
    if (Refuses(path)) return ResourceExhausted("create " + path + ": No space left on device");
    return base().Create(path);
  }
  Result<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path) override {
    if (Refuses(path)) return ResourceExhausted("append to " + path + ": No space left on device");
    return base().OpenForAppend(path);
  }
  std::atomic<bool> full = true;
  std::atomic<int> refused = 0;

 private:
  bool Refuses(const std::string& path) {
    if (!full || path.find(part_) == std::string::npos) return false;
    ++refused;
    return true;
  }

  const std::string part_;
};

// Every version has files of its own at once.
CoreOptions LargeOptions() {
  CoreOptions options = FleetOptions();
  options.small_bytes = 0;
  return options;
}

TEST(RecoveryTest, AFullDiskAtTheCheckpointStopsTheRunAndARestartCompletesIt) {
  NoSpaceFor files("checkpoints/000002");
  Fleet fleet(LargeOptions(), 4, files);
  const RunSummary failed = fleet.RunToEnd();
  EXPECT_EQ(failed.status, "failed");
  EXPECT_EQ(failed.rounds, 1);
  EXPECT_EQ(failed.detail, "aggregation of round 2 failed: create " +
                               fleet.Path("checkpoints/000002.safetensors.tmp") +
                               ": No space left on device");
  EXPECT_EQ(nlohmann::json::parse(ReadAll(fleet.Path("summary.json")))["status"], "failed");
  fleet.CrashClients();
  fleet.coordinator.Kill();
  files.full = false;
  const RunSummary summary = fleet.RunToEnd();
  EXPECT_EQ(summary.status, "completed");
  EXPECT_EQ(summary.model_digest, UndisturbedDigest());
  ExpectWholeReports(fleet, UndisturbedDigest());
}

TEST(RecoveryTest, AFullDiskAtTheManifestStopsTheRunAndARestartCompletesIt) {
  NoSpaceFor files("checkpoints/000003.json");
  Fleet fleet(LargeOptions(), 4, files);
  const RunSummary failed = fleet.RunToEnd();
  EXPECT_EQ(failed.status, "failed");
  EXPECT_EQ(failed.rounds, 2);
  EXPECT_THAT(failed.detail, HasSubstr("checkpoint of round 3 failed: "));
  EXPECT_THAT(failed.detail, HasSubstr("No space left on device"));
  fleet.CrashClients();
  fleet.coordinator.Kill();
  files.full = false;
  EXPECT_EQ(fleet.RunToEnd().model_digest, UndisturbedDigest());
}

TEST(RecoveryTest, ASmallVersionWithoutFilesIsNotACompletedRun) {
  NoSpaceFor files("checkpoints/000003.json");
  Fleet fleet(FleetOptions(), 4, files);
  const RunSummary failed = fleet.RunToEnd();
  EXPECT_EQ(failed.status, "failed");
  EXPECT_EQ(failed.rounds, 3);
  EXPECT_EQ(failed.detail, "RESOURCE_EXHAUSTED: create " + fleet.Path("checkpoints/000003.json") +
                               ": No space left on device");
  fleet.CrashClients();
  fleet.coordinator.Kill();
  files.full = false;
  EXPECT_EQ(fleet.RunToEnd().model_digest, UndisturbedDigest());
  EXPECT_TRUE(PosixFileSystem().Exists(fleet.Path("checkpoints/000003.json")));
}

TEST(RecoveryTest, ASegmentThatCannotBeWrittenStopsTheRunAndARestartCompletesIt) {
  NoSpaceFor files("checkpoints/1.segment");
  Fleet fleet(FleetOptions(), 4, files);
  const RunSummary failed = fleet.RunToEnd();
  EXPECT_EQ(failed.status, "failed");
  EXPECT_EQ(failed.rounds, 0);
  EXPECT_EQ(failed.detail, "aggregation of round 1 failed: create " +
                               fleet.Path("checkpoints/1.segment") + ": No space left on device");
  fleet.CrashClients();
  fleet.coordinator.Kill();
  files.full = false;
  EXPECT_EQ(fleet.RunToEnd().model_digest, UndisturbedDigest());
}

TEST(RecoveryTest, AReportThatCannotBeWrittenIsNotACompletedRun) {
  NoSpaceFor files("rounds.jsonl");
  Fleet fleet(FleetOptions(), 4, files);
  const RunSummary failed = fleet.RunToEnd();
  EXPECT_EQ(failed.status, "failed");
  EXPECT_THAT(failed.detail, HasSubstr("the report of round 1 could not be written: append to " +
                                       fleet.Path("rounds.jsonl")));
  fleet.CrashClients();
  fleet.coordinator.Kill();
  EXPECT_THAT(fleet.coordinator.Start().ToString(), HasSubstr("RESOURCE_EXHAUSTED: the report of"));
  files.full = false;
  EXPECT_EQ(fleet.RunToEnd().status, "completed");
  ExpectWholeReports(fleet, UndisturbedDigest());
  EXPECT_EQ(nlohmann::json::parse(ReadAll(fleet.Path("summary.json")))["status"], "completed");
}

TEST(RecoveryTest, Law2NoUpdateIsAcknowledgedThatTheJournalDoesNotHave) {
  FullDisk disk;
  CoreOptions options = FleetOptions();
  options.run.participation.min_clients = 2;
  TempDir directory;
  TestCoordinator coordinator(options, directory.File("run"));
  RawClient one{coordinator.slot, "one"}, two{coordinator.slot, "two"};
  ASSERT_OK(coordinator.Start());
  for (RawClient* client : {&one, &two}) client->Join();
  for (RawClient* client : {&one, &two}) client->TakeTask();
  disk.Allow(0);
  EXPECT_EQ(one.Submit(one.Answer()).status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(two.Submit(two.Answer()).status().code(), StatusCode::kUnavailable);
  const RunSummary failed = coordinator.core().Wait();
  EXPECT_EQ(failed.status, "failed");
  EXPECT_THAT(failed.detail, HasSubstr("database or disk is full"));
  coordinator.Kill();
  disk.Allow(-1);

  ASSERT_OK(coordinator.Start());
  const TaskId before = one.task.task;
  one.Join();
  one.TakeTask();
  EXPECT_EQ(one.task.task, before) << "the update was not counted";
  EXPECT_TRUE(one.Submit(one.Answer()).value().accepted());
}

TEST(RecoveryTest, AFullDiskAtTheSpoolIsRetriedByTheClients) {
  NoSpaceFor files("spool/");
  Fleet fleet(FleetOptions(), 4, files);
  ASSERT_OK(fleet.coordinator.Start());
  fleet.StartClients();
  ASSERT_TRUE(WaitForTrouble(fleet.coordinator.core(), [&] { return files.refused >= 3; }));
  files.full = false;
  EXPECT_EQ(fleet.coordinator.core().Wait().model_digest, UndisturbedDigest());
}

TEST(RecoveryTest, AnUnrulyFleetEndsInTheSameModel) {
  CoreOptions options = FleetOptions();
  options.run.participation.deadline_ms = 1'500;
  options.linger_ms = 20;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    CounterRng random(MixKey({seed}));
    Fleet fleet(options);
    for (const auto& client : fleet.clients) {
      client->faults = {.seed = random.NextU64(),
                        .lose_request = 0.02,
                        .lose_reply = 0.02,
                        .delay = 0.05,
                        .duplicate_submit = 0.2,
                        .corrupt_upload = 0.02,
                        .corrupt_shard = 0.002,
                        .cut_upload = 0.05};
    }
    ASSERT_OK(fleet.coordinator.Start());
    fleet.StartClients();
    for (int crash = 0; crash < 3; ++crash) {
      fleet.coordinator.slot.CloseAfter(static_cast<std::int64_t>(random.NextBelow(200)));
      if (!WaitForTrouble(fleet.coordinator.core(),
                          [&] { return fleet.coordinator.slot.closed(); })) {
        break;
      }
      fleet.coordinator.Kill();
      FleetClient& victim = *fleet.clients[random.NextBelow(fleet.clients.size())];
      victim.Crash();
      const Status started = fleet.coordinator.Start();
      if (!started.ok()) break;  // it was complete
      victim.Start();
      fleet.Revive();
    }
    if (fleet.coordinator.slot.closed()) {
      fleet.coordinator.Kill();
      if (const Status again = fleet.coordinator.Start(); again.ok())
        fleet.coordinator.core().Wait();
    } else {
      fleet.coordinator.core().Wait();
    }
    ExpectWholeReports(fleet, UndisturbedDigest());
    fleet.CrashClients();
  }
}

TEST(RecoveryTest, ALockedDirectoryIsNamed) {
  TempDir directory;
  TestCoordinator first(FleetOptions(), directory.File("run"));
  ASSERT_OK(first.Start());
  TestCoordinator second(FleetOptions(), directory.File("run"));
  EXPECT_THAT(second.Start().message(),
              ::testing::MatchesRegex("run directory .*/run is in use by another coordinator "
                                      "\\(process [0-9]+\\)"));
}

TEST(RecoveryTest, AnotherModelIsRefused) {
  TempDir directory;
  TestCoordinator first(FleetOptions(), directory.File("run"));
  ASSERT_OK(first.Start());
  first.Kill();
  CoreOptions other = FleetOptions();
  other.run.spec = FleetSpec(5);
  TestCoordinator second(other, directory.File("run"));
  const Status status = second.Start();
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(),
            "the run's model differs from the configuration's: its spec digest is " +
                SpecDigest(FleetSpec(4)) + ", this one's " + SpecDigest(FleetSpec(5)));
}

// All is durable, but the coordinator died before its clients had heard of the end: they wait for
// it, and it must tell them.
TEST(RecoveryTest, ClientsLearnOfTheEndFromARestart) {
  Fleet fleet;
  fleet.RunToEnd();
  fleet.coordinator.Kill();
  fleet.CrashClients();
  sqlite3* journal = nullptr;
  ASSERT_EQ(sqlite3_open(fleet.Path("journal.sqlite").c_str(), &journal), SQLITE_OK);
  const std::string sql = std::string("DELETE FROM facts WHERE key = '") + kToldFact + "'";
  EXPECT_EQ(sqlite3_exec(journal, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK);
  EXPECT_EQ(sqlite3_changes(journal), 1);
  sqlite3_close(journal);

  ASSERT_OK(fleet.coordinator.Start());
  fleet.StartClients();
  for (const auto& client : fleet.clients) EXPECT_EQ(client->Join().end, ClientEnd::kRunOver);
  EXPECT_EQ(fleet.coordinator.core().Wait().model_digest, UndisturbedDigest());
  ExpectWholeReports(fleet, UndisturbedDigest());
  fleet.coordinator.Kill();
  EXPECT_THAT(fleet.coordinator.Start().message(), HasSubstr("is completed (3 rounds)"));
}

TEST(RecoveryTest, ACompletedRunStaysAsItIs) {
  Fleet fleet;
  fleet.RunToEnd();
  fleet.coordinator.Kill();
  const Status status = fleet.coordinator.Start();
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(), "the run in " + fleet.Path("").substr(0, fleet.Path("").size() - 1) +
                                  " is completed (3 rounds); raise run.rounds to train on, or "
                                  "choose another directory");
}

}  // namespace
}  // namespace fedmoe
