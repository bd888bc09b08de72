#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "common/file_system.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

using Fault = FaultFileSystem::Fault;

constexpr std::uint64_t kLimit = 1 << 20;
const std::string kOld = "the old content";
const std::string kNew = "the new content, which is longer";
// Create, append, sync, close, rename, sync of the directory.
constexpr std::int64_t kOperations = 6;
constexpr std::int64_t kRename = 4;

std::string ContentOf(const std::string& path) {
  return ReadFile(PosixFileSystem(), path, kLimit).value();
}

TEST(JoinPath, PutsOneSlashBetween) {
  EXPECT_EQ(JoinPath("runs/a", "b.json"), "runs/a/b.json");
  EXPECT_EQ(JoinPath("runs/a/", "b.json"), "runs/a/b.json");
  EXPECT_EQ(JoinPath("/", "b"), "/b");
  EXPECT_EQ(JoinPath("", "b"), "b");
}

TEST(ReadFile, ReadsTheWholeFileUpToTheLimit) {
  const TempDir directory;
  const std::string path = directory.File("x");
  ASSERT_EQ(WriteFileAtomically(PosixFileSystem(), path, std::string_view("12345")), Status::Ok());
  EXPECT_EQ(ReadFile(PosixFileSystem(), path, 5).value(), "12345");
  EXPECT_EQ(ReadFile(PosixFileSystem(), path, 4).status(),
            ResourceExhausted(path + " is 5 bytes, over the limit of 4"));
}

TEST(ReadFile, ReadsAnEmptyFileAndNamesAMissingOne) {
  const TempDir directory;
  ASSERT_EQ(WriteFileAtomically(PosixFileSystem(), directory.File("x"), std::string_view()),
            Status::Ok());
  EXPECT_EQ(ReadFile(PosixFileSystem(), directory.File("x"), 0).value(), "");
  EXPECT_EQ(ReadFile(PosixFileSystem(), directory.File("y"), kLimit).status(),
            NotFound("open " + directory.File("y") + ": No such file or directory"));
}

TEST(WriteFileAtomically, CreatesAndReplacesAndLeavesNothingBeside) {
  const TempDir directory;
  FaultFileSystem files(PosixFileSystem());
  const std::string path = directory.File("x");
  ASSERT_EQ(WriteFileAtomically(files, path, kOld), Status::Ok());
  EXPECT_EQ(ContentOf(path), kOld);
  EXPECT_EQ(files.operations(), kOperations);
  ASSERT_EQ(WriteFileAtomically(files, path, AsBytes(kNew)), Status::Ok());
  EXPECT_EQ(ContentOf(path), kNew);
  EXPECT_EQ(files.List(directory.path()).value(), std::vector<std::string>{"x"});
}

TEST(WriteFileAtomically, WritesOverAnOldTemporaryFile) {
  const TempDir directory;
  const std::string path = directory.File("x");
  FileSystem& files = PosixFileSystem();
  ASSERT_EQ(files.Create(path + ".tmp").value()->Append(AsBytes(std::string(1000, 'z'))),
            Status::Ok());
  ASSERT_EQ(WriteFileAtomically(files, path, kNew), Status::Ok());
  EXPECT_EQ(ContentOf(path), kNew);
}

TEST(WriteFileAtomically, OneFaultAtAnyOperationLeavesTheOldOrTheNewContentWhole) {
  for (const Fault fault :
       {Fault::kNoSpace, Fault::kIoError, Fault::kShortWrite, Fault::kSyncFails}) {
    std::int64_t faults = 0;
    for (std::int64_t index = 0; index < kOperations; ++index) {
      SCOPED_TRACE("fault " + std::to_string(static_cast<int>(fault)) + " at operation " +
                   std::to_string(index));
      const TempDir directory;
      const std::string path = directory.File("x");
      ASSERT_EQ(WriteFileAtomically(PosixFileSystem(), path, kOld), Status::Ok());
      FaultFileSystem files(PosixFileSystem());
      files.FailAt(index, fault);
      const Status status = WriteFileAtomically(files, path, kNew);
      faults += files.faults();
      EXPECT_EQ(status.ok(), files.faults() == 0) << status.ToString();
      // A failed sync of the directory comes after the rename: the content is new, but may not
      // survive a power cut.
      const bool renamed = status.ok() || index > kRename;
      EXPECT_EQ(ContentOf(path), renamed ? kNew : kOld);
      EXPECT_FALSE(files.Exists(path + ".tmp"));
    }
    // The fault was really met: everywhere, or at the one append, or at the two syncs.
    const bool everywhere = fault == Fault::kNoSpace || fault == Fault::kIoError;
    EXPECT_EQ(faults, everywhere ? kOperations : fault == Fault::kShortWrite ? 1 : 2);
  }
}

TEST(WriteFileAtomically, AFileSystemThatStaysBrokenKeepsTheOldContentAndTheNextWriteHeals) {
  for (const Fault fault : {Fault::kNoSpace, Fault::kIoError}) {
    for (std::int64_t index = 0; index < kOperations; ++index) {
      SCOPED_TRACE("operation " + std::to_string(index));
      const TempDir directory;
      const std::string path = directory.File("x");
      ASSERT_EQ(WriteFileAtomically(PosixFileSystem(), path, kOld), Status::Ok());
      FaultFileSystem files(PosixFileSystem());
      files.FailFrom(index, fault);
      EXPECT_FALSE(WriteFileAtomically(files, path, kNew).ok());
      EXPECT_EQ(ContentOf(path), index > kRename ? kNew : kOld);
      files.Clear();
      EXPECT_EQ(WriteFileAtomically(files, path, kNew), Status::Ok());
      EXPECT_EQ(ContentOf(path), kNew);
      EXPECT_EQ(files.List(directory.path()).value(), std::vector<std::string>{"x"});
    }
  }
}

TEST(WriteFileAtomically, NamesTheFileAndTheReason) {
  const TempDir directory;
  const std::string path = directory.File("x");
  const auto status_of = [&](std::int64_t index, Fault fault) {
    FaultFileSystem files(PosixFileSystem());
    files.FailAt(index, fault);
    return WriteFileAtomically(files, path, kNew);
  };
  const std::string temporary = path + ".tmp";
  EXPECT_EQ(status_of(0, Fault::kNoSpace),
            ResourceExhausted("create " + temporary + ": No space left on device"));
  EXPECT_EQ(status_of(1, Fault::kShortWrite),
            ResourceExhausted("write " + temporary + ": No space left on device"));
  EXPECT_EQ(status_of(2, Fault::kSyncFails),
            Internal("sync " + temporary + ": Input/output error"));
  EXPECT_EQ(status_of(3, Fault::kIoError), Internal("close " + temporary + ": Input/output error"));
  EXPECT_EQ(status_of(4, Fault::kIoError),
            Internal("rename " + temporary + ": Input/output error"));
  EXPECT_EQ(status_of(5, Fault::kSyncFails),
            Internal("sync directory " + directory.path() + ": Input/output error"));
}

// Atomicity rests on rename; where a broken disk tears it, the caller hears of it, and readers need
// their checksums.
TEST(WriteFileAtomically, ReportsATornRename) {
  const TempDir directory;
  const std::string path = directory.File("x");
  FaultFileSystem files(PosixFileSystem());
  files.FailAt(kRename, Fault::kTornRename);
  EXPECT_EQ(WriteFileAtomically(files, path, kNew),
            Internal("rename " + path + ".tmp: Input/output error"));
  EXPECT_EQ(ContentOf(path), kNew.substr(0, kNew.size() / 2));
}

}  // namespace
}  // namespace fedmoe
