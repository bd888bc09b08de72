#include "tests/support/power_cut_file_system.h"

#include <set>

#include <gtest/gtest.h>

#include "common/unsynced_file_system.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

class PowerCutFileSystemTest : public ::testing::Test {
 protected:
  std::string Path(const std::string& name) const { return directory_.File(name); }
  void Write(const std::string& name, const std::string& text, bool sync) {
    auto file = files_.Create(Path(name));
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE((*file)->Append(AsBytes(text)).ok());
    if (sync) {
      ASSERT_TRUE((*file)->Sync().ok());
    }
  }
  // "-" where there is no such file.
  std::string Read(const std::string& name) {
    const Result<std::string> text = ReadFile(files_, Path(name), 1000);
    return text.ok() ? *text : "-";
  }

  TempDir directory_;
  UnsyncedFileSystem disk_{PosixFileSystem()};
  PowerCutFileSystem files_{disk_};
};

TEST_F(PowerCutFileSystemTest, KeepsWhatWasSynced) {
  Write("a", "abc", true);
  ASSERT_TRUE(files_.SyncDirectory(directory_.path()).ok());
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    files_.Cut(seed);
    EXPECT_EQ(Read("a"), "abc");
  }
}

TEST_F(PowerCutFileSystemTest, LosesAnyPartOfWhatWasNot) {
  std::set<std::string> names, contents, replaced;
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    Write("old", "old", true);
    Write("open", "ab", true);
    ASSERT_TRUE(files_.SyncDirectory(directory_.path()).ok());
    ASSERT_TRUE((*files_.OpenForAppend(Path("open")))->Append(AsBytes("cd")).ok());
    Write("new", "new", true);
    ASSERT_TRUE(files_.Rename(Path("new"), Path("old")).ok());
    Write("name", "x", true);
    files_.Cut(seed);
    names.insert(Read("name"));
    contents.insert(Read("open"));
    replaced.insert(Read("old"));
    for (const char* name : {"new", "name"}) static_cast<void>(files_.Remove(Path(name)));
  }
  EXPECT_EQ(names, (std::set<std::string>{"-", "x"}));
  EXPECT_EQ(contents, (std::set<std::string>{"ab", "abc", "abcd"}));
  EXPECT_EQ(replaced, (std::set<std::string>{"old", "new"}));
}

TEST_F(PowerCutFileSystemTest, WhatIsOverwrittenComesBackWhereItWasNotSynced) {
  std::set<std::string> left;
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    Write("file", "abcdef", true);
    ASSERT_TRUE(files_.SyncDirectory(directory_.path()).ok());
    const auto file = files_.Overwrite(Path("file"));
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE((*file)->Append(AsBytes("12")).ok());
    ASSERT_TRUE((*file)->Sync().ok());
    ASSERT_TRUE((*file)->Append(AsBytes("34")).ok());
    EXPECT_EQ(Read("file"), "1234ef");
    files_.Cut(seed);
    left.insert(Read("file"));
  }
  EXPECT_EQ(left, (std::set<std::string>{"12cdef", "123def", "1234ef"}));
}

TEST_F(PowerCutFileSystemTest, ATrimHoldsOnceItIsSynced) {
  Write("file", "abcdef", true);
  ASSERT_TRUE(files_.SyncDirectory(directory_.path()).ok());
  const auto file = files_.Overwrite(Path("file"));
  ASSERT_TRUE((*file)->Append(AsBytes("12")).ok());
  ASSERT_TRUE((*file)->Trim().ok());
  EXPECT_EQ(Read("file"), "12");
  ASSERT_TRUE((*file)->Sync().ok());
  files_.Cut(1);
  EXPECT_EQ(Read("file"), "12");
}

TEST_F(PowerCutFileSystemTest, BringsBackWhatWasRemovedUnlessThatIsDurable) {
  std::set<std::string> left;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Write("a", "abc", true);
    ASSERT_TRUE(files_.SyncDirectory(directory_.path()).ok());
    ASSERT_TRUE(files_.Remove(Path("a")).ok());
    files_.Cut(seed);
    left.insert(Read("a"));
  }
  EXPECT_EQ(left, (std::set<std::string>{"-", "abc"}));
  Write("a", "abc", true);
  ASSERT_TRUE(files_.Remove(Path("a")).ok());
  ASSERT_TRUE(files_.SyncDirectory(directory_.path()).ok());
  files_.Cut(1);
  EXPECT_EQ(Read("a"), "-");
}

}  // namespace
}  // namespace fedmoe
