#include "storage/journal.h"

#include <filesystem>
#include <limits>

#include <gtest/gtest.h>
#include <sqlite3.h>

#include "tests/storage/random_fields.h"
#include "tests/storage/storage_support.h"
#include "tests/support/full_disk.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

class JournalTest : public ::testing::Test {
 protected:
  std::unique_ptr<Journal> Open() {
    auto journal = Journal::Open(path_);
    EXPECT_OK(journal.status());
    return journal.ok() ? std::move(journal).value() : nullptr;
  }
  // Times of the events since the snapshot; {-1} for a run that never started.
  static std::vector<Milliseconds> Times(const Journal& journal) {
    const auto run = journal.Recover();
    EXPECT_OK(run.status());
    if (!run.ok() || !run->has_value()) return {-1};
    std::vector<Milliseconds> times;
    for (const Event& event : (*run)->events) times.push_back(TimeOf(event));
    return times;
  }
  // Runs SQL on the closed journal.
  void Execute(const std::string& sql) {
    sqlite3* handle = nullptr;
    ASSERT_EQ(sqlite3_open(path_.c_str(), &handle), SQLITE_OK);
    EXPECT_EQ(sqlite3_exec(handle, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK);
    sqlite3_close(handle);
  }

  TempDir directory_;
  std::string path_ = directory_.File("journal.sqlite");
};

TEST_F(JournalTest, HasNoRunBeforeTheFirstSnapshot) {
  auto journal = Open();
  EXPECT_EQ(Times(*journal), std::vector<Milliseconds>{-1});
  EXPECT_FALSE(journal->Fact("config").value().has_value());
}

TEST_F(JournalTest, KeepsFacts) {
  {
    auto journal = Open();
    ASSERT_OK(journal->SetFact("config", "a: 1\n"));
    ASSERT_OK(journal->SetFact("run_id", "x"));
    ASSERT_OK(journal->SetFact("run_id", "naïve"));
  }
  EXPECT_EQ(Open()->Fact("config").value(), "a: 1\n");
  EXPECT_EQ(Open()->Fact("run_id").value(), "naïve");
}

TEST_F(JournalTest, RecoversTheSnapshotAndTheEventsSince) {
  const auto state = RandomValue<RoundState>(1);
  const auto update = RandomValue<UpdateReceived>(2);
  {
    auto journal = Open();
    ASSERT_OK(journal->Snapshot(state));
    journal->Append(Tick{.at_ms = 5});
    journal->Append(update);
    ASSERT_OK(journal->Commit());
    journal->Append(Resumed{.at_ms = 6});
    ASSERT_OK(journal->Commit());
    journal->Append(Tick{.at_ms = 99});  // never committed
  }
  const auto run = Open()->Recover();
  ASSERT_TRUE(run.ok() && run->has_value());
  EXPECT_EQ(LeavesOf((*run)->snapshot), LeavesOf(state));
  ASSERT_EQ((*run)->events.size(), 3u);
  EXPECT_EQ(LeavesOf((*run)->events[1]), LeavesOf(Event(update)));
  EXPECT_EQ(TimeOf((*run)->events[2]), 6);
}

TEST_F(JournalTest, ASnapshotTakesThePlaceOfAllEventsBefore) {
  RoundState later;
  later.now_ms = 40;
  {
    auto journal = Open();
    ASSERT_OK(journal->Snapshot(RoundState()));
    journal->Append(Tick{.at_ms = 5});
    ASSERT_OK(journal->Commit());
    journal->Append(Tick{.at_ms = 6});
    ASSERT_OK(journal->Snapshot(later));
    journal->Append(Tick{.at_ms = 41});
    ASSERT_OK(journal->Commit());
  }
  auto journal = Open();
  EXPECT_EQ(Times(*journal), std::vector<Milliseconds>{41});
  EXPECT_EQ((*journal->Recover())->snapshot.now_ms, 40);
}

TEST_F(JournalTest, IsUsedByOneProcessAtATime) {
  auto journal = Open();
  EXPECT_EQ(Journal::Open(path_).status().ToString(),
            "FAILED_PRECONDITION: " + path_ + ": database is locked");
}

TEST_F(JournalTest, RefusesAnotherSchema) {
  Open().reset();
  Execute("PRAGMA user_version = 8");
  EXPECT_EQ(Journal::Open(path_).status().ToString(),
            "FAILED_PRECONDITION: " + path_ +
                ": journal schema 8, this build reads 7: resume "
                "with the build that began the run, or begin a new run");
}

TEST_F(JournalTest, NamesAFileThatIsNoJournal) {
  WriteAll(path_, std::string(5000, 'x'));
  EXPECT_EQ(Journal::Open(path_).status().ToString(),
            "DATA_LOSS: " + path_ + ": file is not a database");
}

TEST_F(JournalTest, NamesADamagedJournal) {
  {
    auto journal = Open();
    ASSERT_OK(journal->Snapshot(RandomValue<RoundState>(1)));
    for (int i = 0; i < 500; ++i) journal->Append(Tick{.at_ms = i});
    ASSERT_OK(journal->Commit());
  }
  std::string content = ReadAll(path_);
  ASSERT_GT(content.size(), 16384u);
  for (std::size_t page = 4096; page < content.size(); page += 4096) {
    content.replace(page, 16, std::string(16, '\xee'));
  }
  WriteAll(path_, content);
  const Status status = Journal::Open(path_).status();
  EXPECT_EQ(status.code(), StatusCode::kDataLoss) << status.ToString();
  EXPECT_TRUE(status.message().starts_with(path_ + ": ")) << status.message();
}

TEST_F(JournalTest, NamesAnEventThatCannotBeRead) {
  ASSERT_OK(Open()->Snapshot(RoundState()));
  Execute("INSERT INTO events (event) VALUES ('{\"type\":\"tick\"}')");
  EXPECT_EQ(Open()->Recover().status().ToString(),
            "DATA_LOSS: " + path_ + ": tick: expected 1 fields, found 0");
  Execute("UPDATE snapshot SET state = '{}'");
  EXPECT_TRUE(Open()->Recover().status().message().starts_with(path_ + ": state: expected "));
}

TEST_F(JournalTest, CannotBeMadeInAMissingDirectory) {
  const std::string path = directory_.File("missing/journal.sqlite");
  EXPECT_EQ(Journal::Open(path).status().ToString(),
            "INTERNAL: " + path + ": unable to open database file");
}

TEST_F(JournalTest, RefusesAStateThatItCouldNotReadBack) {
  auto journal = Open();
  RoundState state;
  state.version = 7;
  ASSERT_OK(journal->Snapshot(state));
  journal->Append(Tick{.at_ms = 5});
  ASSERT_OK(journal->Commit());
  state.version = 8;
  state.clients["a"].profile.compute_flops_per_s = std::numeric_limits<double>::infinity();
  const Status status = journal->Snapshot(state);
  EXPECT_EQ(status.code(), StatusCode::kInternal) << status.ToString();
  EXPECT_TRUE(status.message().starts_with(path_ + ": the state cannot be read back: state"))
      << status.message();
  EXPECT_EQ(Times(*journal), std::vector<Milliseconds>{5});
  EXPECT_EQ((*journal->Recover())->snapshot.version, 7);
}

TEST_F(JournalTest, KeepsTheQueueWhenTheDiskIsFull) {
  FullDisk disk;
  for (int writes = 0;; ++writes) {
    SCOPED_TRACE("full after " + std::to_string(writes) + " writes");
    std::filesystem::remove(path_);
    bool failed = false;
    {
      auto journal = Open();
      ASSERT_OK(journal->Snapshot(RoundState()));
      journal->Append(Tick{.at_ms = 5});
      journal->Append(Tick{.at_ms = 6});
      disk.Allow(writes);
      const Status status = journal->Commit();
      disk.Allow(-1);
      failed = !status.ok();
      if (failed) {
        EXPECT_EQ(status.ToString(), "RESOURCE_EXHAUSTED: " + path_ + ": database or disk is full");
        EXPECT_EQ(Times(*journal), std::vector<Milliseconds>{});
      }
      ASSERT_OK(journal->Commit());
    }
    EXPECT_EQ(Times(*Open()), (std::vector<Milliseconds>{5, 6}));
    if (!failed) {
      EXPECT_GT(writes, 0);
      break;
    }
  }
}

TEST_F(JournalTest, DoesNoInputOrOutputForAnEmptyQueue) {
  FullDisk disk;
  auto journal = Open();
  disk.Allow(0);
  EXPECT_OK(journal->Commit());
  disk.Allow(-1);
}

}  // namespace
}  // namespace fedmoe
