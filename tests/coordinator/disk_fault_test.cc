// One operation on the coordinator's disk fails, whichever: the run goes on, or stops with an error
// that names the file, and a restart on a healthy disk ends in the undisturbed run's model.
//
// By default every 9th operation, the first of them drawn anew each time; FEDMOE_EVERY_OPERATION=1
// takes all of them (minutes).
#include <chrono>
#include <cstdlib>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/unsynced_file_system.h"
#include "tests/coordinator/undisturbed.h"
#include "tests/support/fault_file_system.h"

namespace fedmoe {
namespace {

using ::testing::HasSubstr;
using Fault = FaultFileSystem::Fault;

constexpr std::int64_t kStride = 9;
constexpr auto kPatience = std::chrono::seconds(60);

// The coordinator's file system and its journal's, which can fail.
struct FaultyFleet {
  FaultyFleet() { fleet.coordinator.options.journal_hook = &files; }

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
  Fleet fleet{FleetOptions(), 4, files};
};

// An error names the file: all of the run's stand in its directory.
void ExpectNamesAFile(const Fleet& fleet, const std::string& error) {
  EXPECT_THAT(error, HasSubstr(fleet.coordinator.directory())) << error;
}

void LiveWithAFault(std::int64_t index, Fault fault) {
  FaultyFleet faulty;
  Fleet& fleet = faulty.fleet;
  faulty.files.FailAt(index, fault);
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

std::int64_t OperationsOfARun() {
  FaultyFleet faulty;
  faulty.fleet.RunToEnd();
  faulty.Restart();
  return faulty.files.operations();
}

TEST(DiskFaultTest, AnyOneFailedOperationLosesNothing) {
  const bool every = std::getenv("FEDMOE_EVERY_OPERATION") != nullptr;
  const std::int64_t stride = every ? 1 : kStride;
  const std::int64_t begin = every ? 0 : std::random_device()() % kStride;
  const std::int64_t operations = OperationsOfARun();
  ASSERT_GT(operations, 300);
  for (const Fault fault : {Fault::kWorst, Fault::kNoSpace}) {
    for (std::int64_t index = begin; index < operations; index += stride) {
      SCOPED_TRACE("fault " + std::to_string(static_cast<int>(fault)) + " at operation " +
                   std::to_string(index) + " of " + std::to_string(operations));
      LiveWithAFault(index, fault);
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

}  // namespace
}  // namespace fedmoe
