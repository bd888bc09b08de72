// The fault injector is itself a subject: a fault that does not happen would make every durability
// test pass.
#include "tests/support/fault_file_system.h"

#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

using Fault = FaultFileSystem::Fault;

// One of each mutating operation, in a fixed order: the status of each. Prepares what they need
// past the faults.
std::vector<Status> EveryOperation(FaultFileSystem& files, const TempDir& directory) {
  FileSystem& real = PosixFileSystem();
  const auto prepare = [&](const std::string& name) {
    return WriteFileAtomically(real, directory.File(name), std::string_view("1234"));
  };
  EXPECT_EQ(prepare("from"), Status::Ok());
  EXPECT_EQ(prepare("gone"), Status::Ok());
  std::vector<Status> statuses;
  statuses.push_back(files.Create(directory.File("created")).status());
  auto appended = files.OpenForAppend(directory.File("appended"));
  statuses.push_back(appended.status());
  if (!appended.ok()) {
    return statuses;
  }
  statuses.push_back((*appended)->Append(AsBytes(std::string_view("123456"))));
  statuses.push_back((*appended)->Sync());
  statuses.push_back((*appended)->Close());
  statuses.push_back(files.Rename(directory.File("from"), directory.File("to")));
  statuses.push_back(files.Remove(directory.File("gone")));
  statuses.push_back(files.CreateDirectories(directory.File("made/inside")));
  statuses.push_back(files.SyncDirectory(directory.path()));
  return statuses;
}

// The indices in EveryOperation.
enum Index { kCreate, kOpen, kAppend, kSync, kClose, kRename, kRemove, kMake, kSyncDir, kCount };

TEST(FaultFileSystem, WithoutAFaultOnlyCounts) {
  const TempDir directory;
  FaultFileSystem files(PosixFileSystem());
  const std::vector<Status> statuses = EveryOperation(files, directory);
  ASSERT_EQ(statuses.size(), static_cast<std::size_t>(kCount));
  for (const Status& status : statuses) EXPECT_EQ(status, Status::Ok());
  EXPECT_EQ(files.operations(), kCount);
  EXPECT_EQ(files.faults(), 0);
  EXPECT_EQ(files.FileSize(directory.File("appended")).value(), 6u);
  EXPECT_TRUE(files.Exists(directory.File("to")));
  EXPECT_FALSE(files.Exists(directory.File("gone")));
  EXPECT_TRUE(files.Exists(directory.File("made/inside")));
}

TEST(FaultFileSystem, ReadsAndLocksAreNotCountedAndNeverFail) {
  const TempDir directory;
  const std::string path = directory.File("x");
  ASSERT_EQ(WriteFileAtomically(PosixFileSystem(), path, std::string_view("1234")), Status::Ok());
  FaultFileSystem files(PosixFileSystem());
  files.FailFrom(0, Fault::kIoError);
  EXPECT_EQ(ReadFile(files, path, 4).value(), "1234");
  EXPECT_EQ(files.FileSize(path).value(), 4u);
  EXPECT_EQ(files.List(directory.path()).value(), std::vector<std::string>{"x"});
  EXPECT_TRUE(files.Exists(path));
  EXPECT_TRUE(files.Lock(directory.File("lock")).ok());
  EXPECT_EQ(files.operations(), 0);
}

struct HitCase {
  Fault fault;
  std::vector<int> hits;
};

TEST(FaultFileSystem, EachFaultHitsItsOwnOperations) {
  const std::vector<HitCase> cases = {
      {Fault::kNoSpace, {kCreate, kOpen, kAppend, kSync, kClose, kRename, kMake, kSyncDir}},
      {Fault::kIoError,
       {kCreate, kOpen, kAppend, kSync, kClose, kRename, kRemove, kMake, kSyncDir}},
      {Fault::kShortWrite, {kAppend}},
      {Fault::kSyncFails, {kSync, kSyncDir}},
      {Fault::kTornRename, {kRename}},
  };
  for (const HitCase& c : cases) {
    std::vector<int> hits;
    for (int index = 0; index < kCount; ++index) {
      const TempDir directory;
      FaultFileSystem files(PosixFileSystem());
      files.FailAt(index, c.fault);
      const std::vector<Status> statuses = EveryOperation(files, directory);
      for (std::size_t i = 0; i < statuses.size(); ++i) {
        if (statuses[i].ok()) continue;
        EXPECT_EQ(static_cast<int>(i), index) << statuses[i].ToString();
        hits.push_back(index);
      }
    }
    EXPECT_EQ(hits, c.hits) << "fault " << static_cast<int>(c.fault);
  }
}

TEST(FaultFileSystem, AFaultThatDoesNothingLeavesNoTrace) {
  const TempDir directory;
  FaultFileSystem files(PosixFileSystem());
  files.FailFrom(0, Fault::kIoError);
  EXPECT_EQ(files.Create(directory.File("x")).status(),
            Internal("create " + directory.File("x") + ": Input/output error"));
  EXPECT_EQ(files.OpenForAppend(directory.File("x")).status(),
            Internal("append " + directory.File("x") + ": Input/output error"));
  EXPECT_EQ(files.CreateDirectories(directory.File("d")),
            Internal("create directory " + directory.File("d") + ": Input/output error"));
  EXPECT_EQ(files.List(directory.path()).value(), std::vector<std::string>{});
  EXPECT_EQ(files.faults(), 3);
}

TEST(FaultFileSystem, AShortWriteWritesHalf) {
  const TempDir directory;
  FaultFileSystem files(PosixFileSystem());
  const std::string path = directory.File("x");
  auto file = files.Create(path);
  ASSERT_TRUE(file.ok());
  files.FailAt(files.operations(), Fault::kShortWrite);
  EXPECT_EQ((*file)->Append(AsBytes(std::string_view("1234567"))),
            ResourceExhausted("write " + path + ": No space left on device"));
  EXPECT_EQ(ReadFile(files, path, 100).value(), "123");
}

TEST(FaultFileSystem, ATornRenameLeavesHalfUnderTheNewName) {
  const TempDir directory;
  FaultFileSystem files(PosixFileSystem());
  const std::string from = directory.File("from");
  ASSERT_EQ(WriteFileAtomically(PosixFileSystem(), from, std::string_view("123456")), Status::Ok());
  files.FailAt(0, Fault::kTornRename);
  EXPECT_EQ(files.Rename(from, directory.File("to")),
            Internal("rename " + from + ": Input/output error"));
  EXPECT_EQ(ReadFile(files, directory.File("to"), 100).value(), "123");
  EXPECT_FALSE(files.Exists(from));
}

TEST(FaultFileSystem, FailAtFailsOnceFailFromUntilCleared) {
  const TempDir directory;
  FaultFileSystem files(PosixFileSystem());
  const auto sync = [&] { return files.SyncDirectory(directory.path()).ok(); };
  files.FailAt(1, Fault::kSyncFails);
  EXPECT_TRUE(sync());
  EXPECT_FALSE(sync());
  EXPECT_TRUE(sync());
  files.FailFrom(4, Fault::kSyncFails);
  EXPECT_TRUE(sync());
  EXPECT_FALSE(sync());
  EXPECT_FALSE(sync());
  files.Clear();
  EXPECT_TRUE(sync());
  EXPECT_EQ(files.operations(), 7);
  EXPECT_EQ(files.faults(), 3);
}

TEST(FaultFileSystem, CountsTheOperationsOfAllThreads) {
  const TempDir directory;
  FaultFileSystem files(PosixFileSystem());
  files.FailAt(50, Fault::kIoError);
  constexpr int kThreads = 4;
  constexpr int kEach = 50;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kEach; ++i) static_cast<void>(files.Create(directory.File("x")));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(files.operations(), kThreads * kEach);
  EXPECT_EQ(files.faults(), 1);
}

}  // namespace
}  // namespace fedmoe
