// The crashes are themselves a subject: one that does not come would make every crash test pass.
#include "common/crash_points.h"

#include <csignal>
#include <cstdlib>

#include <gtest/gtest.h>

#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

using Phase = CrashPoints::Phase;

// Operations 1 to 6.
Status WriteAndRename(FileSystem& files, const TempDir& directory) {
  FEDMOE_RETURN_IF_ERROR(files.CreateDirectories(directory.path()));  // is there: no operation
  return WriteFileAtomically(files, directory.File("file"), std::string_view("123456"));
}

constexpr const char* kOperations[] = {"create", "write",  "sync",
                                       "close",  "rename", "sync_directory"};

std::string Content(const TempDir& directory, const std::string& name) {
  const Result<std::string> content = ReadFile(PosixFileSystem(), directory.File(name), 1 << 20);
  return content.ok() ? *content : "absent";
}

void Crash(const TempDir& directory, CrashPoints::Options options) {
  CrashPoints files(PosixFileSystem(), std::move(options));
  std::exit(WriteAndRename(files, directory).ok() ? 0 : 1);
}

TEST(CrashPointsTest, WithoutAPointAllIsDoneAndTraced) {
  const TempDir directory;
  const std::string trace = directory.File("trace");
  CrashPoints files(PosixFileSystem(), {.trace = trace});
  EXPECT_EQ(WriteAndRename(files, directory).ToString(), "OK");
  EXPECT_EQ(Content(directory, "file"), "123456");
  std::string expected;
  for (int i = 0; i < 6; ++i) {
    const std::string path = i == 5 ? directory.path() : directory.File("file.tmp");
    expected += std::to_string(i + 1) + " " + kOperations[i] + " " + path + "\n";
  }
  EXPECT_EQ(Content(directory, "trace"), expected);
}

TEST(CrashPointsTest, DiesAtEachOperationBeforeHalfWayAndAfter) {
  for (std::int64_t operation = 1; operation <= 6; ++operation) {
    for (const Phase phase : {Phase::kBefore, Phase::kHalf, Phase::kAfter}) {
      SCOPED_TRACE("operation " + std::to_string(operation) + " phase " +
                   std::to_string(static_cast<int>(phase)));
      const TempDir directory;
      EXPECT_EXIT(Crash(directory, {.operation = operation, .phase = phase}),
                  ::testing::KilledBySignal(SIGKILL), "");
      const bool before = phase == Phase::kBefore;
      const bool renamed = operation > 5 || (operation == 5 && !before);
      EXPECT_EQ(Content(directory, "file"), renamed ? "123456" : "absent");
      if (renamed) continue;
      std::string left = operation == 1 && before ? "absent" : "";
      if (operation == 2 && phase == Phase::kHalf) left = "123";
      if (operation > 2 || (operation == 2 && phase == Phase::kAfter)) left = "123456";
      EXPECT_EQ(Content(directory, "file.tmp"), left);
    }
  }
}

TEST(CrashPointsTest, OverwritingIsCounted) {
  const TempDir directory;
  const std::string path = directory.File("file");
  ASSERT_TRUE(WriteFileAtomically(PosixFileSystem(), path, std::string_view("123456")).ok());
  CrashPoints files(PosixFileSystem(), {.trace = directory.File("trace")});
  {
    const auto file = files.Overwrite(path);
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE((*file)->Append(AsBytes(std::string_view("ab"))).ok());
    EXPECT_EQ(Content(directory, "file"), "ab3456");
    ASSERT_TRUE((*file)->Trim().ok());
  }
  EXPECT_EQ(Content(directory, "file"), "ab");
  EXPECT_EQ(Content(directory, "trace"),
            "1 overwrite " + path + "\n2 write " + path + "\n3 truncate " + path + "\n");
}

TEST(CrashPointsTest, TheTraceEndsWithTheCrash) {
  const TempDir directory;
  EXPECT_EXIT(
      Crash(directory, {.operation = 2, .phase = Phase::kHalf, .trace = directory.File("trace")}),
      ::testing::KilledBySignal(SIGKILL), "");
  EXPECT_TRUE(Content(directory, "trace").ends_with("file.tmp\nkilled 2 half\n"));
}

TEST(CrashPointsTest, ReadsTheVariable) {
  const auto both = CrashPoints::Parse("12:half,/tmp/trace");
  ASSERT_TRUE(both.ok());
  EXPECT_EQ(both->operation, 12);
  EXPECT_EQ(both->phase, Phase::kHalf);
  EXPECT_EQ(both->trace, "/tmp/trace");
  EXPECT_EQ(CrashPoints::Parse("/tmp/trace")->operation, 0);
  EXPECT_EQ(CrashPoints::Parse("3:after")->phase, Phase::kAfter);
  for (const char* wrong :
       {"", "3", "0:after", "-1:after", "x:after", "3:later", "3:after,", "3:after,trace"}) {
    EXPECT_EQ(
        CrashPoints::Parse(wrong).status(),
        InvalidArgument("FEDMOE_CRASH_POINTS must be N:before, N:half or N:after, the absolute "
                        "path of a file for the operations, or both with a comma between "
                        "(got '" +
                        std::string(wrong) + "')"));
  }
}

TEST(CrashPointsTest, IsNotThereWithoutTheVariable) {
  ASSERT_EQ(std::getenv(kCrashPointsVariable), nullptr);
  const auto points = CrashPoints::FromEnvironment(PosixFileSystem());
  ASSERT_TRUE(points.ok());
  EXPECT_EQ(*points, nullptr);
}

}  // namespace
}  // namespace fedmoe
