#include "common/write_behind_file_system.h"

#include <gtest/gtest.h>

#include "common/memory_file_system.h"

namespace fedmoe {
namespace {

constexpr std::uint64_t kFileBytes = 8;
constexpr std::uint64_t kAllBytes = 20;

class WriteBehindFileSystemTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(disk_.CreateDirectories("d").ok()); }
  std::unique_ptr<WritableFile> Create(const std::string& path) {
    auto file = files_.Create(path);
    EXPECT_TRUE(file.ok());
    return std::move(*file);
  }
  void Write(const std::string& path, const std::string& text) {
    EXPECT_TRUE(Create(path)->Append(AsBytes(text)).ok());
  }
  // "-" where there is no such file.
  static std::string Read(FileSystem& files, const std::string& path) {
    const Result<std::string> text = ReadFile(files, path, 1000);
    return text.ok() ? *text : "-";
  }

  MemoryFileSystem disk_;
  WriteBehindFileSystem files_{disk_, {.max_file_bytes = kFileBytes, .max_bytes = kAllBytes}};
};

TEST_F(WriteBehindFileSystemTest, KeepsASmallFileInMemory) {
  Write("d/a", "abc");
  EXPECT_EQ(Read(files_, "d/a"), "abc");
  EXPECT_EQ(Read(disk_, "d/a"), "-");
  EXPECT_TRUE(files_.Exists("d/a"));
  EXPECT_EQ(*files_.FileSize("d/a"), 3u);
  EXPECT_EQ(files_.bytes(), 3u);
}

TEST_F(WriteBehindFileSystemTest, BringsAFileToTheDiskWhenItIsSynced) {
  Write("d/a", "abc");
  ASSERT_TRUE(SyncFile(files_, "d/a").ok());
  EXPECT_EQ(Read(disk_, "d/a"), "abc");
  EXPECT_EQ(Read(files_, "d/a"), "abc");
  EXPECT_EQ(files_.bytes(), 0u);
}

TEST_F(WriteBehindFileSystemTest, AFileThatOutgrowsItsLimitGoesToTheDiskWhole) {
  const auto file = Create("d/a");
  ASSERT_TRUE(file->Append(AsBytes("12345678")).ok());
  EXPECT_EQ(Read(disk_, "d/a"), "-");
  ASSERT_TRUE(file->Append(AsBytes("9")).ok());
  ASSERT_TRUE(file->Append(AsBytes("0")).ok());
  EXPECT_EQ(Read(disk_, "d/a"), "1234567890");
  EXPECT_EQ(files_.bytes(), 0u);
}

TEST_F(WriteBehindFileSystemTest, AllTogetherStayWithinTheirLimit) {
  for (const char* name : {"d/a", "d/b", "d/c", "d/d"}) Write(name, "123456");
  EXPECT_EQ(files_.bytes(), 18u);
  EXPECT_EQ(Read(disk_, "d/d"), "123456") << "the one that was too much";
}

TEST_F(WriteBehindFileSystemTest, AnOpenFileFollowsItsName) {
  const auto file = Create("d/a.tmp");
  ASSERT_TRUE(file->Append(AsBytes("abc")).ok());
  ASSERT_TRUE(files_.Rename("d/a.tmp", "d/a").ok());
  ASSERT_TRUE(file->Append(AsBytes("def")).ok());
  EXPECT_EQ(Read(files_, "d/a"), "abcdef");
  ASSERT_TRUE(file->Sync().ok());
  EXPECT_EQ(Read(disk_, "d/a"), "abcdef");
  EXPECT_EQ(Read(disk_, "d/a.tmp"), "-");
}

TEST_F(WriteBehindFileSystemTest, TakesThePlaceOfAFileOnTheDisk) {
  ASSERT_TRUE(ReplaceFile(disk_, "d/a", "old").ok());
  ASSERT_TRUE(ReplaceFile(files_, "d/a", "new").ok());
  EXPECT_EQ(Read(files_, "d/a"), "new");
  EXPECT_EQ(Read(disk_, "d/a"), "new");
  Write("d/b", "memory");
  ASSERT_TRUE(files_.Rename("d/a", "d/b").ok());
  EXPECT_EQ(Read(files_, "d/b"), "new");
  EXPECT_EQ(files_.bytes(), 0u);
}

TEST_F(WriteBehindFileSystemTest, AFileThatWasRemovedIsGone) {
  const auto file = Create("d/a");
  ASSERT_TRUE(file->Append(AsBytes("abc")).ok());
  const auto reader = files_.Open("d/a");
  ASSERT_TRUE(files_.Remove("d/a").ok());
  EXPECT_FALSE(files_.Exists("d/a"));
  EXPECT_EQ(files_.bytes(), 0u);
  EXPECT_EQ(*(*reader)->Size(), 3u) << "but for who had it open";
  ASSERT_TRUE(file->Append(AsBytes("defghijkl")).ok());
  ASSERT_TRUE(file->Sync().ok());
  EXPECT_EQ(Read(disk_, "d/a"), "-");
  EXPECT_EQ(files_.Remove("d/a").code(), StatusCode::kNotFound);
}

TEST_F(WriteBehindFileSystemTest, CreatingAFileAnewBeginsItAnew) {
  Write("d/a", "abc");
  Write("d/a", "x");
  EXPECT_EQ(Read(files_, "d/a"), "x");
  EXPECT_EQ(files_.bytes(), 1u);
}

TEST_F(WriteBehindFileSystemTest, OverwritesWhatIsInMemoryAndWhatIsOnTheDisk) {
  Write("d/a", "abc");
  ASSERT_TRUE((*files_.Overwrite("d/a"))->Append(AsBytes("1")).ok());
  EXPECT_EQ(Read(files_, "d/a"), "1");
  EXPECT_EQ(Read(disk_, "d/a"), "-");
  ASSERT_TRUE(SyncFile(files_, "d/a").ok());
  ASSERT_TRUE((*files_.Overwrite("d/a"))->Append(AsBytes("2")).ok());
  EXPECT_EQ(Read(disk_, "d/a"), "2");
  EXPECT_EQ(files_.bytes(), 0u);
}

TEST_F(WriteBehindFileSystemTest, ListsBothPlaces) {
  ASSERT_TRUE(ReplaceFile(disk_, "d/b", "disk").ok());
  Write("d/a", "memory");
  Write("d/c", "memory");
  EXPECT_EQ(*files_.List("d"), (std::vector<std::string>{"a", "b", "c"}));
}

TEST_F(WriteBehindFileSystemTest, WithoutALimitEverythingIsOnTheDisk) {
  WriteBehindFileSystem files(disk_, {.max_file_bytes = 0});
  const auto file = files.Create("d/a");
  ASSERT_TRUE((*file)->Append(AsBytes("abc")).ok());
  EXPECT_EQ(Read(disk_, "d/a"), "abc");
}

}  // namespace
}  // namespace fedmoe
