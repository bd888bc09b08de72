#include "storage/spare_files.h"

#include <gtest/gtest.h>

#include "common/forwarding_file_system.h"
#include "common/memory_file_system.h"
#include "tests/storage/storage_support.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

class SpareFilesTest : public ::testing::Test {
 protected:
  std::string Path(const std::string& name) { return directory_.File(name); }
  void Make(const std::string& name, std::uint64_t bytes) {
    WriteAll(Path(name), std::string(bytes, 'x'));
  }
  void Retire(const std::string& name, std::uint64_t bytes) {
    Make(name, bytes);
    ASSERT_OK(spares_.Retire(Path(name)));
  }
  std::vector<std::string> Names() { return PosixFileSystem().List(directory_.path()).value(); }

  TempDir directory_;
  FaultFileSystem files_{PosixFileSystem()};
  SpareFiles spares_{files_, directory_.path(), {.least_bytes = 10, .max_bytes = 100}};
};

TEST_F(SpareFilesTest, KeepsWhatIsLargeEnoughAndFits) {
  Retire("short", 9);
  Retire("a", 60);
  Retire("b", 41);
  Retire("c", 40);
  EXPECT_EQ(Names(), (std::vector<std::string>{"spare-1.tmp", "spare-2.tmp"}));
  EXPECT_EQ(PosixFileSystem().FileSize(Path("spare-2.tmp")).value(), 40u);
  ASSERT_OK(spares_.Clear());
  EXPECT_EQ(Names(), std::vector<std::string>{});
  Retire("d", 100);
  EXPECT_EQ(Names(), std::vector<std::string>{"spare-3.tmp"}) << "there is room again";
}

TEST_F(SpareFilesTest, ANewFileTakesTheShortestPlaceThatIsLongEnough) {
  for (const std::uint64_t bytes : {20, 30, 10}) Retire("file", bytes);
  ASSERT_OK(spares_.Create(Path("new"), 15).status());
  EXPECT_EQ(Names(), (std::vector<std::string>{"new", "spare-2.tmp", "spare-3.tmp"}));
  ASSERT_OK(spares_.Create(Path("longer"), 31).status());
  EXPECT_EQ(Names(), (std::vector<std::string>{"longer", "new", "spare-3.tmp"}));
  ASSERT_OK(spares_.Create(Path("third"), 31).status());
  ASSERT_OK(spares_.Create(Path("fourth"), 31).status());
  EXPECT_EQ(Names(), (std::vector<std::string>{"fourth", "longer", "new", "third"}));
}

TEST_F(SpareFilesTest, DoesWithoutASpareThatIsNotToBeHad) {
  for (const auto fault : {FaultFileSystem::Fault::kTornRename, FaultFileSystem::Fault::kIoError}) {
    Retire("file", 20);
    files_.FailAt(files_.operations(), fault);
    ASSERT_OK(spares_.Create(Path("new"), 20).status());
    EXPECT_EQ(Names(), std::vector<std::string>{"new"});
    EXPECT_EQ(ReadAll(Path("new")), "");
  }
}

TEST_F(SpareFilesTest, SaysWhatFails) {
  EXPECT_EQ(spares_.Retire(Path("absent")).ToString(),
            "NOT_FOUND: size " + Path("absent") + ": No such file or directory");
  Make("old", 20);
  files_.FailFrom(files_.operations(), FaultFileSystem::Fault::kIoError);
  EXPECT_EQ(spares_.Retire(Path("old")).ToString(),
            "INTERNAL: remove " + Path("old") + ": Input/output error");
  files_.Clear();
  ASSERT_OK(spares_.Retire(Path("old")));
  files_.FailAt(files_.operations() + 1, FaultFileSystem::Fault::kIoError);
  EXPECT_EQ(spares_.Create(Path("new"), 20).status().ToString(),
            "INTERNAL: overwrite " + Path("new") + ": Input/output error");
  EXPECT_EQ(Names(), std::vector<std::string>{}) << "nothing is left that nobody knows of";
}

TEST_F(SpareFilesTest, AFullDiskThatTakesNoNewNameStillLetsFilesGo) {
  Make("old", 20);
  files_.FailAt(files_.operations(), FaultFileSystem::Fault::kNoSpace);
  ASSERT_OK(spares_.Retire(Path("old")));
  EXPECT_EQ(Names(), std::vector<std::string>{});
}

TEST_F(SpareFilesTest, WhoSendsLittleTakesNoLargePlace) {
  Retire("file", 30);
  ASSERT_OK(spares_.Create(Path("short"), 14).status());
  EXPECT_EQ(Names(), (std::vector<std::string>{"short", "spare-1.tmp"}));
  ASSERT_OK(spares_.Create(Path("half"), 15).status());
  EXPECT_EQ(Names(), (std::vector<std::string>{"half", "short"}));
}

// A disk that says how much is free.
class FilledDisk final : public ForwardingFileSystem {
 public:
  using ForwardingFileSystem::ForwardingFileSystem;
  std::optional<std::uint64_t> FreeBytes(const std::string&) override { return free; }
  std::uint64_t free = 0;
};

TEST_F(SpareFilesTest, TakesAnEighthOfWhatIsFreeAtMost) {
  FilledDisk disk(files_);
  SpareFiles spares(disk, directory_.path(), {.least_bytes = 10, .max_bytes = 100});
  const auto retire = [&](std::uint64_t free) {
    disk.free = free;
    Make("file", 40);
    ASSERT_OK(spares.Retire(Path("file")));
  };
  retire(8 * 40 - 1);
  EXPECT_EQ(Names(), std::vector<std::string>{});
  retire(8 * 40);
  EXPECT_EQ(Names(), std::vector<std::string>{"spare-1.tmp"});
  retire(8 * 80);
  EXPECT_EQ(Names(), (std::vector<std::string>{"spare-1.tmp", "spare-2.tmp"}));
  retire(8 * 79);
  EXPECT_EQ(Names(), std::vector<std::string>{}) << "the disk fills up";
}

// It would be memory for nothing.
TEST(SpareFilesInMemory, ThereAreNone) {
  MemoryFileSystem files;
  ASSERT_OK(files.CreateDirectories("d"));
  SpareFiles spares(files, "d", {.least_bytes = 1});
  ASSERT_OK(files.Create("d/file").value()->Append(AsBytes("content")));
  ASSERT_OK(spares.Retire("d/file"));
  EXPECT_EQ(files.List("d").value(), std::vector<std::string>{});
}

}  // namespace
}  // namespace fedmoe
