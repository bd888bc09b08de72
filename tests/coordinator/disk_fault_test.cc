// One operation on the coordinator's disk fails, whichever: the run goes on, or stops with an error
// that names the file, and a restart on a healthy disk ends in the undisturbed run's model.
#include <chrono>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/unsynced_file_system.h"
#include "tests/coordinator/undisturbed.h"
#include "tests/support/fault_file_system.h"

namespace fedmoe {
namespace {

using ::testing::HasSubstr;
using Fault = FaultFileSystem::Fault;

constexpr auto kPatience = std::chrono::seconds(60);

// The coordinator's file system and its journal's, which can fail.
struct FaultyFleet {
  // `small`: updates and versions share files, else each has its own.
  explicit FaultyFleet(bool small) : fleet(Options(small), 4, files) {
    fleet.coordinator.options.journal_hook = &files;
  }
  static CoreOptions Options(bool small) {
    CoreOptions options = FleetOptions();
    if (!small) options.small_bytes = 0;
    return options;
  }

  // Until the run is over, one way or another.
  bool Wait() {
    const auto end = std::chrono::steady_clock::now() + kPatience;
    while (!fleet.coordinator.core().WaitFor(5)) {
      if (std::chrono::steady_clock::now() > end) return false;
    }
    return true;
  }

  void Restart() {
    fleet.CrashClients();
    fleet.coordinator.Kill();
    files.Clear();
  }

  UnsyncedFileSystem disk{PosixFileSystem()};
  FaultFileSystem files{disk};
  Fleet fleet;
};

// An error names the file: all of the run's stand in its directory.
void ExpectNamesAFile(const Fleet& fleet, const std::string& error) {
  EXPECT_THAT(error, HasSubstr(fleet.coordinator.directory())) << error;
}

void LiveWithAFault(FaultyFleet& faulty) {
  Fleet& fleet = faulty.fleet;
  const Status started = fleet.coordinator.Start();
  if (started.ok()) {
    fleet.StartClients();
    ASSERT_TRUE(faulty.Wait()) << "the run hangs";
    const RunSummary summary = fleet.coordinator.core().Wait();
    if (summary.status == "completed") {
      EXPECT_EQ(summary.model_digest, UndisturbedDigest());
    } else {
      EXPECT_EQ(summary.status, "failed");
      ExpectNamesAFile(fleet, summary.detail);
    }
  } else {
    ExpectNamesAFile(fleet, started.message());
  }
  faulty.Restart();
  const Status again = fleet.coordinator.Start();
  if (again.ok()) {
    fleet.StartClients();
    ASSERT_TRUE(faulty.Wait()) << "the run hangs after its restart";
    EXPECT_EQ(fleet.coordinator.core().Wait().model_digest, UndisturbedDigest());
  } else {
    EXPECT_THAT(again.message(), HasSubstr("is completed (3 rounds)"));
  }
  ExpectWholeReports(fleet, UndisturbedDigest());
}

struct Operations {
  std::int64_t writes = 0, reads = 0;
};
Operations OfARun(bool small) {
  FaultyFleet faulty(small);
  faulty.fleet.RunToEnd();
  faulty.Restart();
  return {.writes = faulty.files.operations(), .reads = faulty.files.reads()};
}

class DiskFaultTest : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Small, DiskFaultTest, ::testing::Bool());

void LiveWithAnyOne(bool small, Fault fault) {
  const std::int64_t operations = OfARun(small).writes;
  ASSERT_GT(operations, 200);
  for (std::int64_t index = 0; index < operations; ++index) {
    SCOPED_TRACE("at operation " + std::to_string(index) + " of " + std::to_string(operations));
    FaultyFleet faulty(small);
    faulty.files.FailAt(index, fault);
    LiveWithAFault(faulty);
    if (::testing::Test::HasFatalFailure()) return;
  }
}

TEST_P(DiskFaultTest, AnyOneFailedOperationLosesNothing) {
  LiveWithAnyOne(GetParam(), Fault::kWorst);
}

TEST_P(DiskFaultTest, AnyOneOperationOnAFullDiskLosesNothing) {
  LiveWithAnyOne(GetParam(), Fault::kNoSpace);
}

TEST_P(DiskFaultTest, AnyOneFailedReadLosesNothing) {
  const std::int64_t reads = OfARun(GetParam()).reads;
  ASSERT_GT(reads, 25);
  for (std::int64_t index = 0; index < reads; ++index) {
    SCOPED_TRACE("at read " + std::to_string(index) + " of " + std::to_string(reads));
    FaultyFleet faulty(GetParam());
    faulty.files.FailReadAt(index);
    LiveWithAFault(faulty);
    if (::testing::Test::HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace fedmoe
