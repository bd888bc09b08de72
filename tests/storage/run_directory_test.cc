#include "storage/run_directory.h"

#include <filesystem>
#include <set>

#include <gtest/gtest.h>
#include <unistd.h>

#include "common/unsynced_file_system.h"
#include "storage/state_json.h"
#include "tests/storage/storage_support.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

using Fault = FaultFileSystem::Fault;

RoundReport ReportOf(RoundNumber round) {
  RoundReport report;
  report.round = round;
  report.cohort = {"a", "b-1"};
  report.plan.assignments = {
      {.client = 0, .expert = 2, .fitness = 0.1, .reason = AssignmentReason::kFitness},
      {.client = 1, .expert = 0, .fitness = 1.0 / 3.0, .reason = AssignmentReason::kBalance}};
  return report;
}

std::string RowsOf(RoundNumber round) {
  const std::string number = std::to_string(round);
  return number + ",a,2,0.1,fitness\n" + number + ",b-1,0,0.3333333333333333,balance\n";
}
std::string LineOf(RoundNumber round) { return ReportToJsonLine(ReportOf(round)) + "\n"; }

constexpr char kHeader[] = "round,client,expert,fitness,reason\n";

class RunDirectoryTest : public ::testing::Test {
 protected:
  std::unique_ptr<RunDirectory> Open() {
    auto directory = RunDirectory::Open(files_, path_);
    EXPECT_OK(directory.status());
    return directory.ok() ? std::move(directory).value() : nullptr;
  }
  std::string File(const std::string& name) { return ReadAll(path_ + "/" + name); }

  TempDir directory_;
  std::string path_ = directory_.File("runs/one");
  UnsyncedFileSystem disk_{PosixFileSystem()};
  FaultFileSystem files_{disk_};
};

TEST_F(RunDirectoryTest, TakesBackANewRun) {
  const auto directory = Open();
  ASSERT_OK(directory->WriteConfig("a: 1\n"));
  for (const char* name : {"journal.sqlite", "journal.sqlite-wal", "checkpoints/000000.json",
                           "checkpoints/000000.safetensors", "notes"}) {
    WriteAll(path_ + "/" + name, "x");
  }
  ASSERT_TRUE(directory->HasRun());
  ASSERT_OK(directory->RemoveNewRun());
  EXPECT_FALSE(directory->HasRun());
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path_)) {
    names.insert(entry.path().filename());
  }
  EXPECT_EQ(names, (std::set<std::string>{"checkpoints", "coordinator.lock", "notes", "spool"}));
  EXPECT_OK(directory->RemoveNewRun());
}

TEST_F(RunDirectoryTest, MakesItsParts) {
  const auto directory = Open();
  EXPECT_EQ(directory->path(), path_);
  EXPECT_EQ(directory->JournalPath(), path_ + "/journal.sqlite");
  EXPECT_TRUE(std::filesystem::is_directory(directory->SpoolPath()));
  EXPECT_TRUE(std::filesystem::is_directory(directory->CheckpointsPath()));
  EXPECT_FALSE(directory->HasRun());
  WriteAll(directory->JournalPath(), "");
  EXPECT_TRUE(directory->HasRun());
}

TEST_F(RunDirectoryTest, BelongsToOneCoordinator) {
  {
    const auto directory = Open();
    EXPECT_EQ(RunDirectory::Open(files_, path_).status().ToString(),
              "FAILED_PRECONDITION: run directory " + path_ +
                  " is in use by another coordinator (process " + std::to_string(::getpid()) + ")");
  }
  Open();
}

TEST_F(RunDirectoryTest, WritesItsSmallFiles) {
  const auto directory = Open();
  ASSERT_OK(directory->WriteConfig("run:\n  name: one\n"));
  ASSERT_OK(directory->WriteAddress("127.0.0.1:4000"));
  EXPECT_EQ(File("config.yaml"), "run:\n  name: one\n");
  EXPECT_EQ(File("address"), "127.0.0.1:4000\n");
}

TEST_F(RunDirectoryTest, WritesTheSummaryWithNullForWhatThereIsNot) {
  const auto directory = Open();
  ASSERT_OK(directory->WriteSummary({.status = "completed",
                                     .detail = "",
                                     .rounds = 12,
                                     .final_accuracy = 0.75,
                                     .load_cv = 0.125,
                                     .bytes_down = 10,
                                     .bytes_up = 20,
                                     .wall_s = 1.5,
                                     .coordinator_peak_rss_bytes = 4096}));
  EXPECT_EQ(File("summary.json"), R"({
  "status": "completed",
  "detail": "",
  "rounds": 12,
  "final_accuracy": 0.75,
  "best_accuracy": null,
  "personalised_accuracy": null,
  "final_loss": null,
  "load_cv": 0.125,
  "bytes_down": 10,
  "bytes_up": 20,
  "wall_s": 1.5,
  "coordinator_peak_rss_bytes": 4096,
  "model_digest": null
}
)");
}

TEST_F(RunDirectoryTest, AppendsReports) {
  const auto directory = Open();
  ASSERT_OK(directory->AppendReport(ReportOf(1)));
  ASSERT_OK(directory->AppendReport(ReportOf(2)));
  EXPECT_EQ(File("rounds.jsonl"), LineOf(1) + LineOf(2));
  EXPECT_EQ(File("assignments.csv"), kHeader + RowsOf(1) + RowsOf(2));
}

TEST_F(RunDirectoryTest, WritesNoReportTwice) {
  ASSERT_OK(Open()->AppendReport(ReportOf(2)));
  const auto directory = Open();
  ASSERT_OK(directory->AppendReport(ReportOf(2)));
  // A round whose evaluation took longer than the next one's comes after it.
  ASSERT_OK(directory->AppendReport(ReportOf(1)));
  ASSERT_OK(directory->AppendReport(ReportOf(1)));
  EXPECT_EQ(File("rounds.jsonl"), LineOf(2) + LineOf(1));
  EXPECT_EQ(File("assignments.csv"), kHeader + RowsOf(2) + RowsOf(1));
}

TEST_F(RunDirectoryTest, RefusesAReportThatNamesNoClient) {
  RoundReport report = ReportOf(4);
  report.cohort.pop_back();
  EXPECT_EQ(Open()->AppendReport(report).ToString(),
            "INTERNAL: report of round 4: no client 1 in a cohort of 1");
}

TEST_F(RunDirectoryTest, RepairsATornLineWhereverItIsCut) {
  ASSERT_OK(Open()->AppendReport(ReportOf(1)));
  const std::string next = LineOf(2);
  const std::string rows = RowsOf(2);
  for (std::size_t length = 0; length < next.size(); length += 3) {
    WriteAll(path_ + "/rounds.jsonl", LineOf(1) + next.substr(0, length));
    WriteAll(path_ + "/assignments.csv", kHeader + RowsOf(1) + rows.substr(0, length));
    const auto directory = Open();
    ASSERT_EQ(File("rounds.jsonl"), LineOf(1)) << length;
    ASSERT_EQ(File("assignments.csv"), kHeader + RowsOf(1)) << length;
    ASSERT_OK(directory->AppendReport(ReportOf(2)));
    ASSERT_EQ(File("rounds.jsonl"), LineOf(1) + LineOf(2));
    ASSERT_EQ(File("assignments.csv"), kHeader + RowsOf(1) + RowsOf(2));
  }
}

TEST_F(RunDirectoryTest, NamesALineThatIsNoReport) {
  ASSERT_OK(Open()->AppendReport(ReportOf(1)));
  WriteAll(path_ + "/rounds.jsonl", LineOf(1) + "what\n" + LineOf(2));
  EXPECT_EQ(RunDirectory::Open(files_, path_).status().ToString(),
            "DATA_LOSS: " + path_ + "/rounds.jsonl:2: is not a round's report");
}

// Longer than a window of reading, so that lines are cut across windows.
TEST_F(RunDirectoryTest, ReadsALongHistory) {
  std::string lines;
  const RoundNumber rounds = 5000;
  for (RoundNumber round = 1; round <= rounds; ++round) lines += LineOf(round);
  ASSERT_GT(lines.size(), std::size_t{2} << 20);
  Open();
  WriteAll(path_ + "/rounds.jsonl", lines + LineOf(rounds + 1).substr(0, 20));
  const auto directory = Open();
  EXPECT_TRUE(File("rounds.jsonl") == lines);
  ASSERT_OK(directory->AppendReport(ReportOf(rounds)));
  EXPECT_TRUE(File("rounds.jsonl") == lines);
}

// Whatever fails: after it, the same report can be given again, here or after opening again, and
// every report stands there once.
TEST_F(RunDirectoryTest, LosesAndDoublesNothingAfterAFault) {
  for (const Fault fault : {Fault::kNoSpace, Fault::kIoError, Fault::kShortWrite, Fault::kSyncFails,
                            Fault::kTornRename}) {
    for (const bool reopen : {false, true}) {
      for (std::int64_t index = 0;; ++index) {
        SCOPED_TRACE("fault " + std::to_string(static_cast<int>(fault)) + " at " +
                     std::to_string(index));
        std::filesystem::remove_all(path_);
        auto directory = Open();
        ASSERT_OK(directory->AppendReport(ReportOf(1)));
        const std::int64_t begin = files_.operations();
        const std::int64_t faults = files_.faults();
        files_.FailAt(begin + index, fault);
        const Status status = directory->AppendReport(ReportOf(2));
        ASSERT_EQ(status.ok(), files_.faults() == faults);
        const bool past_the_end = files_.operations() <= begin + index;
        files_.Clear();
        if (reopen) {
          directory.reset();
          directory = Open();
        }
        ASSERT_OK(directory->AppendReport(ReportOf(2)));
        ASSERT_OK(directory->AppendReport(ReportOf(3)));
        ASSERT_EQ(File("rounds.jsonl"), LineOf(1) + LineOf(2) + LineOf(3));
        ASSERT_EQ(File("assignments.csv"), kHeader + RowsOf(1) + RowsOf(2) + RowsOf(3));
        if (past_the_end) break;
      }
    }
  }
}

// What is written whole: after a fault it is the old one or the new one, but for half a new one
// where a rename is torn, and can be written again.
TEST_F(RunDirectoryTest, KeepsTheOldOrTheNewFileAfterAFault) {
  RunSummary running, completed;
  running.status = "running";
  completed.status = "completed";
  const auto write = [&](RunDirectory& directory, bool last) -> Status {
    FEDMOE_RETURN_IF_ERROR(directory.WriteConfig(last ? "a: 2\n" : "a: 1\n"));
    FEDMOE_RETURN_IF_ERROR(directory.WriteAddress(last ? "h:2" : "h:1"));
    return directory.WriteSummary(last ? completed : running);
  };
  ASSERT_OK(write(*Open(), true));
  const std::string summary_after = File("summary.json");
  for (const Fault fault : {Fault::kNoSpace, Fault::kIoError, Fault::kShortWrite, Fault::kSyncFails,
                            Fault::kTornRename}) {
    for (std::int64_t index = 0;; ++index) {
      SCOPED_TRACE("fault " + std::to_string(static_cast<int>(fault)) + " at " +
                   std::to_string(index));
      const auto is_one_of = [&](const char* name, const std::string& before,
                                 const std::string& after) {
        const std::string text = File(name);
        return text == before || text == after ||
               (fault == Fault::kTornRename && text == after.substr(0, after.size() / 2));
      };
      std::filesystem::remove_all(path_);
      auto directory = Open();
      ASSERT_OK(write(*directory, false));
      const std::string summary_before = File("summary.json");
      const std::int64_t begin = files_.operations(), faults = files_.faults();
      files_.FailAt(begin + index, fault);
      const Status status = write(*directory, true);
      ASSERT_EQ(status.ok(), files_.faults() == faults);
      const bool past_the_end = files_.operations() <= begin + index;
      files_.Clear();
      directory.reset();
      directory = Open();
      EXPECT_TRUE(is_one_of("config.yaml", "a: 1\n", "a: 2\n"));
      EXPECT_TRUE(is_one_of("address", "h:1\n", "h:2\n"));
      EXPECT_TRUE(is_one_of("summary.json", summary_before, summary_after));
      ASSERT_OK(write(*directory, true));
      EXPECT_EQ(File("summary.json"), summary_after);
      if (past_the_end) break;
    }
  }
}

// Nor does opening: it fails and names the file, or is done, and done again it is as if nothing had
// been.
TEST_F(RunDirectoryTest, OpensAgainAfterAFaultInOpening) {
  for (const Fault fault : {Fault::kNoSpace, Fault::kIoError, Fault::kShortWrite, Fault::kSyncFails,
                            Fault::kTornRename}) {
    for (std::int64_t index = 0;; ++index) {
      SCOPED_TRACE("fault " + std::to_string(static_cast<int>(fault)) + " at " +
                   std::to_string(index));
      std::filesystem::remove_all(path_);
      {
        const auto directory = Open();
        ASSERT_OK(directory->AppendReport(ReportOf(1)));
        ASSERT_OK(directory->AppendReport(ReportOf(2)));
      }
      // Torn lines, which opening repairs.
      WriteAll(path_ + "/rounds.jsonl", LineOf(1) + LineOf(2) + "{\"round\":3,");
      WriteAll(path_ + "/assignments.csv", kHeader + RowsOf(1) + RowsOf(2) + RowsOf(3) + "4,a");
      const std::int64_t begin = files_.operations(), faults = files_.faults();
      files_.FailAt(begin + index, fault);
      const Status status = RunDirectory::Open(files_, path_).status();
      ASSERT_EQ(status.ok(), files_.faults() == faults);
      const bool past_the_end = files_.operations() <= begin + index;
      files_.Clear();
      if (!status.ok()) {
        EXPECT_NE(status.message().find(path_), std::string::npos) << status.message();
      }
      if (fault != Fault::kTornRename || status.ok()) {
        Open();
        EXPECT_EQ(File("rounds.jsonl"), LineOf(1) + LineOf(2));
        EXPECT_EQ(File("assignments.csv"), kHeader + RowsOf(1) + RowsOf(2));
      } else {
        // A file system whose rename leaves half a file loses what it was to replace; the lines
        // that are left are whole.
        Open();
        EXPECT_TRUE((LineOf(1) + LineOf(2)).starts_with(File("rounds.jsonl")));
      }
      if (past_the_end) break;
    }
  }
}

}  // namespace
}  // namespace fedmoe
