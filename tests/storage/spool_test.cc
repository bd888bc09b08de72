#include "storage/spool.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "common/unsynced_file_system.h"
#include "tests/storage/storage_support.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/power_cut_file_system.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

using Fault = FaultFileSystem::Fault;

class SpoolTest : public ::testing::Test {
 protected:
  std::unique_ptr<Spool> Open() { return Spool::Open(files_, path_).value(); }
  std::vector<std::string> Names() { return disk_.List(path_).value(); }
  static std::string Content(const Result<std::unique_ptr<RandomAccessFile>>& file) {
    if (!file.ok()) return file.status().ToString();
    std::string content((*file)->Size().value(), '\0');
    EXPECT_OK((*file)->ReadAt(0, std::as_writable_bytes(std::span(content))));
    return content;
  }
  static void Keep(Spool& spool, TaskId task, const std::string& content) {
    auto update = spool.Begin(task, content.size());
    ASSERT_OK(update->Append(AsBytes(content)));
    ASSERT_OK(update->Keep());
  }

  TempDir directory_;
  std::string path_ = directory_.File("spool");
  UnsyncedFileSystem disk_{PosixFileSystem()};
  FaultFileSystem files_{disk_};
};

TEST_F(SpoolTest, KeepsAnUpdateUnderItsTasksNumber) {
  auto spool = Open();
  EXPECT_FALSE(spool->Has(12));
  {
    auto update = spool->Begin(12, 6);
    ASSERT_OK(update->Append(AsBytes("abc")));
    ASSERT_OK(update->Append(AsBytes("def")));
    EXPECT_EQ(update->size(), 6u);
    EXPECT_EQ(Content(update->Read()), "abcdef");
    EXPECT_FALSE(spool->Has(12));
    ASSERT_OK(update->Keep());
    EXPECT_EQ(Content(update->Read()), "abcdef");
    EXPECT_EQ(update->Append(AsBytes("")).ToString(),
              "FAILED_PRECONDITION: update of task 12 is kept already");
  }
  EXPECT_EQ(Names(), std::vector<std::string>{"0012.update"});
  EXPECT_TRUE(spool->Has(12));
  EXPECT_EQ(Content(Open()->Read(12)), "abcdef");
}

TEST_F(SpoolTest, RefusesBytesPastTheAnnouncedSize) {
  auto spool = Open();
  auto update = spool->Begin(3, 4);
  ASSERT_OK(update->Append(AsBytes("abc")));
  EXPECT_EQ(update->Append(AsBytes("de")).ToString(),
            "RESOURCE_EXHAUSTED: update of task 3 has 5 bytes, over the 4 announced");
  EXPECT_EQ(update->size(), 3u);
  EXPECT_OK(update->Append(AsBytes("d")));
}

TEST_F(SpoolTest, RemovesAnUpdateThatIsNotKept) {
  auto spool = Open();
  ASSERT_OK(spool->Begin(3, 4)->Append(AsBytes("abc")));
  EXPECT_EQ(Names(), std::vector<std::string>{});
}

TEST_F(SpoolTest, RemovesWhatACrashLeftWhenItOpens) {
  Keep(*Open(), 1, "kept");
  WriteAll(path_ + "/0002.99-1.tmp", "half");
  Open();
  EXPECT_EQ(Names(), std::vector<std::string>{"0001.update"});
}

TEST_F(SpoolTest, LetsTwoStreamsOfOneTaskRunSideBySide) {
  auto spool = Open();
  auto one = spool->Begin(5, 3);
  auto two = spool->Begin(5, 3);
  ASSERT_OK(one->Append(AsBytes("on")));
  ASSERT_OK(two->Append(AsBytes("two")));
  ASSERT_OK(one->Append(AsBytes("e")));
  ASSERT_OK(one->Keep());
  EXPECT_EQ(Content(spool->Read(5)), "one");
  ASSERT_OK(two->Keep());
  EXPECT_EQ(Content(spool->Read(5)), "two");
}

TEST_F(SpoolTest, RemovesAllButTheTasksToKeep) {
  auto spool = Open();
  for (const TaskId task : {1, 2, 3, 123456}) Keep(*spool, task, "x");
  auto coming = spool->Begin(4, 1);
  WriteAll(path_ + "/notes.update", "not the spool's");
  ASSERT_OK(spool->RemoveExcept({2, 123456}));
  EXPECT_FALSE(spool->Has(1));
  EXPECT_TRUE(spool->Has(2));
  EXPECT_FALSE(spool->Has(3));
  EXPECT_TRUE(spool->Has(123456));
  EXPECT_TRUE(std::filesystem::exists(path_ + "/notes.update"));
  ASSERT_OK(coming->Append(AsBytes("y")));
  ASSERT_OK(coming->Keep());
}

// One that was kept and never counted, and then another of the same task.
TEST_F(SpoolTest, TheLastOneKeptIsTheTasksWhateverItIsKeptIn) {
  const auto open = [this] {
    return Spool::Open(files_, path_, {.segment_update_bytes = 4}).value();
  };
  auto spool = open();
  Keep(*spool, 12, "old");
  EXPECT_EQ(Content(spool->Read(12)), "old");
  Keep(*spool, 12, "longer");
  EXPECT_EQ(Content(spool->Read(12)), "longer");
  EXPECT_EQ(Content(open()->Read(12)), "longer");
  spool = open();
  Keep(*spool, 12, "new");
  EXPECT_EQ(Content(spool->Read(12)), "new");
  EXPECT_EQ(Content(open()->Read(12)), "new");
  ASSERT_OK(spool->RemoveExcept({}));
  EXPECT_FALSE(spool->Has(12));
}

TEST_F(SpoolTest, ALargeUpdateTakesThePlaceOfOneThatIsNotNeeded) {
  const std::string first(3 << 20, 'a'), shorter(2 << 20, 'b'), longer(4 << 20, 'c');
  auto spool = Open();
  Keep(*spool, 1, first);
  ASSERT_OK(spool->RemoveExcept({}));
  EXPECT_EQ(Names(), std::vector<std::string>{"spare-1.tmp"});
  EXPECT_FALSE(spool->Has(1));
  {
    auto update = spool->Begin(2, shorter.size());
    ASSERT_OK(update->Append(AsBytes(shorter).first(1000)));
    EXPECT_EQ(Names().size(), 1u) << "its temporary name";
    EXPECT_EQ(Content(update->Read()), shorter.substr(0, 1000)) << "and nothing of the other";
    ASSERT_OK(update->Append(AsBytes(shorter).subspan(1000)));
    EXPECT_EQ(Content(update->Read()), shorter);
    ASSERT_OK(update->Keep());
    ASSERT_OK(update->Sync());
  }
  EXPECT_EQ(Content(spool->Read(2)), shorter);
  EXPECT_EQ(Content(Open()->Read(2)), shorter);
  ASSERT_OK(spool->RemoveExcept({}));
  Keep(*spool, 3, longer);
  EXPECT_EQ(Content(spool->Read(3)), longer);
  EXPECT_EQ(Names(), std::vector<std::string>{"0003.update"});
  Keep(*spool, 4, "too short to be of use to others");
  ASSERT_OK(spool->RemoveExcept({}));
  EXPECT_EQ(Names(), std::vector<std::string>{"spare-3.tmp"});
  ASSERT_OK(spool->Seal());
  EXPECT_EQ(Names(), std::vector<std::string>{});
}

TEST_F(SpoolTest, AFullDiskTakesTheSparesFirst) {
  const std::string large(2 << 20, 'a');
  auto spool = Open();
  for (const TaskId task : {1, 2}) Keep(*spool, task, large);
  ASSERT_OK(spool->RemoveExcept({}));
  ASSERT_EQ(Names().size(), 2u);
  {
    auto update = spool->Begin(3, large.size());
    files_.FailAt(files_.operations() + 2, Fault::kNoSpace);  // after the name and the opening
    EXPECT_EQ(update->Append(AsBytes(large)).code(), StatusCode::kResourceExhausted);
  }
  files_.Clear();
  EXPECT_EQ(Names(), std::vector<std::string>{}) << "the next one has their room";
}

TEST_F(SpoolTest, ALargeUpdateInASparesPlaceSurvivesAPowerCutWhole) {
  const std::string old(2 << 20, 'a'), update(1 << 20, 'b');
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    std::filesystem::remove_all(path_);
    PowerCutFileSystem power(disk_);
    auto spool = Spool::Open(power, path_).value();
    Keep(*spool, 1, old);
    ASSERT_OK(spool->RemoveExcept({}));
    {
      auto coming = spool->Begin(2, update.size());
      ASSERT_OK(coming->Append(AsBytes(update)));
      ASSERT_OK(coming->Keep());
      ASSERT_OK(coming->Sync());
      ASSERT_OK(spool->SyncNames());
    }
    power.Cut(seed);
    EXPECT_TRUE(Content(Open()->Read(2)) == update) << seed;
  }
}

TEST_F(SpoolTest, SaysThatAnUpdateIsNotThere) {
  EXPECT_EQ(Open()->Read(9).status().ToString(),
            "NOT_FOUND: open " + path_ + "/0009.update: No such file or directory");
}

// Law 2: whatever fails, either one of the calls is not OK, or the update is there, whole.
TEST_F(SpoolTest, AcknowledgesOnlyWhatIsDurable) {
  for (const Fault fault : {Fault::kNoSpace, Fault::kIoError, Fault::kShortWrite, Fault::kSyncFails,
                            Fault::kTornRename}) {
    for (std::int64_t index = 0;; ++index) {
      SCOPED_TRACE("fault " + std::to_string(static_cast<int>(fault)) + " at " +
                   std::to_string(index));
      std::filesystem::remove_all(path_);
      auto spool = Open();
      const std::int64_t faults = files_.faults();
      const std::int64_t begin = files_.operations();
      files_.FailAt(begin + index, fault);
      Status status;
      {
        auto update = spool->Begin(1, 6);
        status = update->Append(AsBytes("abcdef"));
        if (status.ok()) status = update->Keep();
        if (status.ok()) status = update->Sync();
        if (status.ok()) status = spool->SyncNames();
      }
      files_.Clear();
      const bool past_the_end = files_.operations() <= begin + index;
      EXPECT_EQ(status.ok(), files_.faults() == faults);
      if (status.ok()) {
        EXPECT_EQ(Content(Open()->Read(1)), "abcdef");
      }
      // A client that was not acknowledged sends again.
      Keep(*Open(), 1, "abcdef");
      EXPECT_EQ(Content(Open()->Read(1)), "abcdef");
      EXPECT_EQ(Names(), std::vector<std::string>{"0001.update"});
      if (past_the_end) break;
    }
  }
}

TEST_F(SpoolTest, TakesNothingMoreAfterAFailedWrite) {
  auto spool = Open();
  auto update = spool->Begin(1, 6);
  ASSERT_OK(update->Append(AsBytes("ab")));
  files_.FailAt(files_.operations(), Fault::kShortWrite);
  EXPECT_EQ(update->Append(AsBytes("cdef")).code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(update->Append(AsBytes("g")).code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(update->Keep().code(), StatusCode::kResourceExhausted);
  update.reset();
  EXPECT_EQ(Names(), std::vector<std::string>{});
}

}  // namespace
}  // namespace fedmoe
