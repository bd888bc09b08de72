// Files in memory behave as files on disk do; files without syncs reach the disk all the same.
#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/memory_file_system.h"
#include "common/unsynced_file_system.h"
#include "storage/spool.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

using ::testing::ElementsAre;

std::string Text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(MemoryFileSystemTest, WhatIsWrittenIsReadMappedAndMeasured) {
  MemoryFileSystem files;
  ASSERT_TRUE(WriteFileAtomically(files, "a/x", "hello").ok());
  EXPECT_EQ(*ReadFile(files, "a/x", 100), "hello");
  EXPECT_EQ(*files.FileSize("a/x"), 5u);
  const auto file = files.Open("a/x");
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(Text((*(*file)->Map(1, 3))->bytes()), "ell");
  EXPECT_EQ((*file)->Map(3, 3).status().message(),
            "map a/x: 3 bytes at offset 3 end past the file's 5 bytes");
  std::byte byte;
  EXPECT_EQ((*file)->ReadAt(5, {&byte, 1}).code(), StatusCode::kOutOfRange);
}

TEST(MemoryFileSystemTest, AnOpenFileOutlivesItsName) {
  MemoryFileSystem files;
  ASSERT_TRUE(WriteFileAtomically(files, "a/x", "old").ok());
  const auto file = files.Open("a/x");
  const auto region = (*file)->Map(0, 3);
  ASSERT_TRUE(WriteFileAtomically(files, "a/x", "new").ok());
  ASSERT_TRUE(files.Remove("a/x").ok());
  EXPECT_EQ(Text((*region)->bytes()), "old");
  EXPECT_FALSE(files.Exists("a/x"));
}

TEST(MemoryFileSystemTest, ListsWhatStandsDirectlyInAFolder) {
  MemoryFileSystem files;
  ASSERT_TRUE(files.CreateDirectories("a").ok());
  for (const char* path : {"a/y", "a/x", "a/b/z", "ab"}) {
    ASSERT_TRUE(WriteFileAtomically(files, path, "").ok());
  }
  EXPECT_THAT(*files.List("a"), ElementsAre("x", "y"));
  EXPECT_EQ(files.List("c").status().message(), "list c: no such file in memory");
}

TEST(MemoryFileSystemTest, WhatIsMissingIsNotFound) {
  MemoryFileSystem files;
  EXPECT_EQ(files.Open("x").status().ToString(), "NOT_FOUND: open x: no such file in memory");
  EXPECT_EQ(files.Remove("x").ToString(), "NOT_FOUND: remove x: no such file in memory");
  EXPECT_EQ(files.Rename("x", "y").ToString(), "NOT_FOUND: rename x: no such file in memory");
  EXPECT_EQ(files.FileSize("x").status().ToString(), "NOT_FOUND: size x: no such file in memory");
}

TEST(MemoryFileSystemTest, ALockIsHeldUntilItIsLetGo) {
  MemoryFileSystem files;
  auto lock = files.Lock("l");
  ASSERT_TRUE(lock.ok());
  EXPECT_EQ(files.Lock("l").status().ToString(), "FAILED_PRECONDITION: lock l: it is held");
  lock->reset();
  EXPECT_TRUE(files.Lock("l").ok());
}

TEST(MemoryFileSystemTest, CarriesASpool) {
  MemoryFileSystem files;
  const auto spool = Spool::Open(files, "spool");
  ASSERT_TRUE(spool.ok());
  auto update = (*spool)->Begin(7, 3);
  ASSERT_TRUE(update->Append(AsBytes(std::string_view("abc"))).ok());
  EXPECT_FALSE((*spool)->Has(7));
  ASSERT_TRUE(update->Keep().ok());
  EXPECT_TRUE((*spool)->Has(7));
  ASSERT_TRUE((*spool)->RemoveExcept({}).ok());
  EXPECT_FALSE((*spool)->Has(7));
}

TEST(UnsyncedFileSystemTest, WritesReachTheFilesBelow) {
  TempDir directory;
  UnsyncedFileSystem files(PosixFileSystem());
  ASSERT_TRUE(files.CreateDirectories(directory.File("d")).ok());
  ASSERT_TRUE(WriteFileAtomically(files, directory.File("d/x"), "text").ok());
  EXPECT_EQ(*ReadFile(PosixFileSystem(), directory.File("d/x"), 100), "text");
  EXPECT_THAT(*files.List(directory.File("d")), ElementsAre("x"));
  EXPECT_TRUE(files.Create(directory.File("none/x")).status().code() == StatusCode::kNotFound);
}

}  // namespace
}  // namespace fedmoe
