#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/file_system.h"
#include "common/mapped_pages.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

class PosixFiles : public ::testing::Test {
 protected:
  std::string Path(std::string_view name) const { return directory_.File(name); }

  void Write(std::string_view name, std::string_view content) {
    auto file = files_.Create(Path(name));
    ASSERT_TRUE(file.ok()) << file.status().ToString();
    ASSERT_EQ((*file)->Append(AsBytes(content)), Status::Ok());
    ASSERT_EQ((*file)->Close(), Status::Ok());
  }
  std::string Read(std::string_view name) const {
    return ReadFile(files_, Path(name), 1 << 20).value();
  }

  const TempDir directory_;
  FileSystem& files_ = PosixFileSystem();
};

TEST_F(PosixFiles, CreateTruncatesAndOpenForAppendDoesNot) {
  Write("x", "a long first content");
  Write("x", "one");
  EXPECT_EQ(Read("x"), "one");
  for (const char* text : {" two", " three"}) {
    auto file = files_.OpenForAppend(Path("x"));
    ASSERT_TRUE(file.ok());
    EXPECT_EQ((*file)->Append(AsBytes(std::string_view(text))), Status::Ok());
    EXPECT_EQ((*file)->Sync(), Status::Ok());
    EXPECT_EQ((*file)->Close(), Status::Ok());
  }
  EXPECT_EQ(Read("x"), "one two three");
}

TEST_F(PosixFiles, OverwriteLeavesWhatIsPastTheBytesWrittenUntilTheTrim) {
  Write("x", "a long first content");
  auto file = files_.Overwrite(Path("x"));
  ASSERT_TRUE(file.ok());
  EXPECT_EQ((*file)->Append(AsBytes(std::string_view("one"))), Status::Ok());
  EXPECT_EQ((*file)->Sync(), Status::Ok());
  EXPECT_EQ(Read("x"), "oneong first content");
  EXPECT_EQ((*file)->Trim(), Status::Ok());
  EXPECT_EQ(Read("x"), "one");
  EXPECT_EQ((*file)->Append(AsBytes(std::string_view(" and more than there was"))), Status::Ok());
  EXPECT_EQ((*file)->Trim(), Status::Ok());
  EXPECT_EQ((*file)->Close(), Status::Ok());
  EXPECT_EQ(Read("x"), "one and more than there was");
  EXPECT_EQ(files_.Overwrite(Path("absent")).status(),
            NotFound("overwrite " + Path("absent") + ": No such file or directory"));
}

TEST_F(PosixFiles, AppendsFollowEachOtherAndASecondCloseIsOk) {
  auto file = files_.OpenForAppend(Path("new"));
  ASSERT_TRUE(file.ok());
  EXPECT_EQ((*file)->Append(AsBytes(std::string_view("ab"))), Status::Ok());
  EXPECT_EQ((*file)->Append({}), Status::Ok());
  EXPECT_EQ((*file)->Append(AsBytes(std::string_view("cd"))), Status::Ok());
  EXPECT_EQ((*file)->Close(), Status::Ok());
  EXPECT_EQ((*file)->Close(), Status::Ok());
  EXPECT_EQ((*file)->Append(AsBytes(std::string_view("ef"))),
            Internal("write " + Path("new") + ": Bad file descriptor"));
  EXPECT_EQ(Read("new"), "abcd");
}

TEST_F(PosixFiles, ReadsAnyRangeAndRefusesWhatIsPastTheEnd) {
  Write("x", "0123456789");
  const auto file = files_.Open(Path("x"));
  ASSERT_TRUE(file.ok());
  EXPECT_EQ((*file)->Size().value(), 10u);
  EXPECT_EQ(files_.FileSize(Path("x")).value(), 10u);
  std::string part(4, '\0');
  const auto out = std::as_writable_bytes(std::span(part));
  EXPECT_EQ((*file)->ReadAt(6, out), Status::Ok());
  EXPECT_EQ(part, "6789");
  EXPECT_EQ((*file)->ReadAt(10, out.first(0)), Status::Ok());
  EXPECT_EQ((*file)->ReadAt(7, out),
            OutOfRange("read " + Path("x") + ": 4 bytes at offset 7 end past the file's 10 bytes"));
  constexpr std::uint64_t kHuge = std::numeric_limits<std::uint64_t>::max();
  EXPECT_EQ((*file)->ReadAt(kHuge - 1, out).code(), StatusCode::kOutOfRange);
}

TEST_F(PosixFiles, MapsAnyOffsetAndLength) {
  std::string content(20000, '\0');
  for (std::size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i * 31 % 251);
  Write("x", content);
  const auto file = files_.Open(Path("x"));
  ASSERT_TRUE(file.ok());
  for (const std::uint64_t offset : {0, 1, 4095, 4096, 4097, 12345, 20000}) {
    for (const std::uint64_t length : {0, 1, 4096, 5000, 7655}) {
      if (offset + length > content.size()) continue;
      SCOPED_TRACE(std::to_string(offset) + " + " + std::to_string(length));
      const auto region = (*file)->Map(offset, length);
      ASSERT_TRUE(region.ok()) << region.status().ToString();
      const auto bytes = (*region)->bytes();
      ASSERT_EQ(bytes.size(), length);
      const std::string mapped(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      EXPECT_EQ(mapped, content.substr(offset, length));
    }
  }
}

TEST_F(PosixFiles, AMappingOutlivesItsFile) {
  Write("x", "0123456789");
  auto file = files_.Open(Path("x"));
  ASSERT_TRUE(file.ok());
  const auto region = (*file)->Map(2, 3);
  file = Internal("closed");
  ASSERT_EQ(files_.Remove(Path("x")), Status::Ok());
  const auto bytes = region.value()->bytes();
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), "234");
}

TEST_F(PosixFiles, RefusesToMapPastTheEnd) {
  Write("x", "0123456789");
  const auto file = files_.Open(Path("x"));
  ASSERT_TRUE(file.ok());
  EXPECT_EQ((*file)->Map(5, 6).status(),
            OutOfRange("map " + Path("x") + ": 6 bytes at offset 5 end past the file's 10 bytes"));
  constexpr std::uint64_t kHuge = std::numeric_limits<std::uint64_t>::max();
  EXPECT_EQ((*file)->Map(5, kHuge).status().code(), StatusCode::kOutOfRange);
}

TEST_F(PosixFiles, ListsNamesSorted) {
  for (const char* name : {"b", "a", "c10", "c2", ".hidden"}) Write(name, "");
  ASSERT_EQ(files_.CreateDirectories(Path("d")), Status::Ok());
  EXPECT_EQ(files_.List(directory_.path()).value(),
            (std::vector<std::string>{".hidden", "a", "b", "c10", "c2", "d"}));
  EXPECT_EQ(files_.List(Path("d")).value(), std::vector<std::string>{});
}

TEST_F(PosixFiles, RenameReplacesAndRemoveRemoves) {
  Write("x", "new");
  Write("y", "old");
  ASSERT_EQ(files_.Rename(Path("x"), Path("y")), Status::Ok());
  EXPECT_EQ(Read("y"), "new");
  EXPECT_FALSE(files_.Exists(Path("x")));
  ASSERT_EQ(files_.SyncDirectory(directory_.path()), Status::Ok());
  ASSERT_EQ(files_.Remove(Path("y")), Status::Ok());
  EXPECT_FALSE(files_.Exists(Path("y")));
}

TEST_F(PosixFiles, CreatesAllMissingDirectoriesAndNoneAgain) {
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(files_.CreateDirectories(Path("a/b//c/")), Status::Ok());
    EXPECT_EQ(files_.List(Path("a/b")).value(), std::vector<std::string>{"c"});
  }
}

TEST_F(PosixFiles, FailuresNameTheOperationThePathAndTheReason) {
  const std::string none = Path("none");
  const std::string inside = Path("none/x");
  const std::string missing = ": No such file or directory";
  EXPECT_EQ(files_.Create(inside).status(), NotFound("create " + inside + missing));
  EXPECT_EQ(files_.OpenForAppend(inside).status(), NotFound("append " + inside + missing));
  EXPECT_EQ(files_.Open(none).status(), NotFound("open " + none + missing));
  EXPECT_EQ(files_.Rename(none, Path("y")), NotFound("rename " + none + missing));
  EXPECT_EQ(files_.Remove(none), NotFound("remove " + none + missing));
  EXPECT_EQ(files_.SyncDirectory(none), NotFound("sync directory " + none + missing));
  EXPECT_EQ(files_.List(none).status(), NotFound("list " + none + missing));
  EXPECT_EQ(files_.FileSize(none).status(), NotFound("size " + none + missing));
  EXPECT_EQ(files_.Lock(inside).status(), NotFound("lock " + inside + missing));
  EXPECT_EQ(files_.CreateDirectories(""), NotFound("create directory " + missing));
}

TEST_F(PosixFiles, AFileIsNotADirectoryNorTheOtherWayRound) {
  Write("file", "");
  EXPECT_EQ(files_.CreateDirectories(Path("file/inside")),
            AlreadyExists("create directory " + Path("file") + ": File exists"));
  EXPECT_EQ(files_.List(Path("file")).status(),
            InvalidArgument("list " + Path("file") + ": Not a directory"));
  EXPECT_EQ(files_.SyncDirectory(Path("file")),
            InvalidArgument("sync directory " + Path("file") + ": Not a directory"));
  EXPECT_EQ(files_.Open(directory_.path()).status(),
            InvalidArgument("open " + directory_.path() + ": Is a directory"));
  EXPECT_EQ(files_.Create(directory_.path()).status(),
            InvalidArgument("create " + directory_.path() + ": Is a directory"));
}

TEST_F(PosixFiles, ADiskThatBeginsEarlyGetsTheSameBytes) {
  std::string content;
  {
    auto file = files_.Create(Path("large"));
    ASSERT_TRUE(file.ok()) << file.status().ToString();
    for (int i = 0; i < 50; ++i) {
      const std::string piece(100'001, static_cast<char>('a' + i % 26));
      ASSERT_EQ((*file)->Append(AsBytes(std::string_view(piece))), Status::Ok());
      (*file)->StartSync();
      content += piece;
    }
    ASSERT_EQ((*file)->Sync(), Status::Ok());
    ASSERT_EQ((*file)->Close(), Status::Ok());
  }
  EXPECT_EQ(ReadFile(files_, Path("large"), content.size()).value(), content);
}

// As of a bad sector: the page is mapped, and the file has none.
TEST_F(PosixFiles, AMappedPageThatCannotBeReadIsAnError) {
  Write("x", std::string(3 * 4096, 'x'));
  const int file = ::open(Path("x").c_str(), O_RDWR);
  ASSERT_GE(file, 0);
  void* base = ::mmap(nullptr, 3 * 4096, PROT_READ, MAP_SHARED, file, 0);
  ASSERT_NE(base, MAP_FAILED);
  if (::madvise(base, 3 * 4096, MADV_POPULATE_READ) < 0) GTEST_SKIP() << "needs Linux 5.14";
  EXPECT_EQ(ReadPages(Path("x"), base, 3 * 4096), Status::Ok());
  ASSERT_EQ(::ftruncate(file, 2 * 4096), 0);
  EXPECT_EQ(ReadPages(Path("x"), base, 2 * 4096), Status::Ok());
  EXPECT_EQ(ReadPages(Path("x"), base, 3 * 4096),
            Internal("read " + Path("x") + ": a mapped page cannot be read"));
  ::munmap(base, 3 * 4096);
  ::close(file);
}

// /dev/full is Linux's own fault injector.
TEST_F(PosixFiles, AFullDiskIsResourceExhausted) {
  auto file = files_.OpenForAppend("/dev/full");
  ASSERT_TRUE(file.ok()) << file.status().ToString();
  EXPECT_EQ((*file)->Append(AsBytes(std::string_view("x"))),
            ResourceExhausted("write /dev/full: No space left on device"));
}

TEST_F(PosixFiles, AFailedSyncStaysFailed) {
  auto file = files_.OpenForAppend("/dev/full");
  ASSERT_TRUE(file.ok()) << file.status().ToString();
  const Status expected = Internal("sync /dev/full: Invalid argument");
  EXPECT_EQ((*file)->Sync(), expected);
  // Another descriptor's worth of success would not bring lost pages back: after Close only the
  // kept status can say so.
  EXPECT_EQ((*file)->Close(), Status::Ok());
  EXPECT_EQ((*file)->Sync(), expected);
}

TEST_F(PosixFiles, AForbiddenPathIsPermissionDenied) {
  ASSERT_EQ(files_.CreateDirectories(Path("closed")), Status::Ok());
  ASSERT_EQ(::chmod(Path("closed").c_str(), 0), 0);
  // Root may enter any directory, so root does this as nobody.
  constexpr uid_t kNobody = 65534;
  const bool is_root = ::geteuid() == 0;
  if (is_root) {
    ASSERT_EQ(::chmod(directory_.path().c_str(), 0755), 0);
    ASSERT_EQ(::seteuid(kNobody), 0);
  }
  const Status status = files_.Create(Path("closed/x")).status();
  const bool is_root_again = !is_root || ::seteuid(0) == 0;
  ASSERT_TRUE(is_root_again);
  EXPECT_EQ(status, Status(StatusCode::kPermissionDenied,
                           "create " + Path("closed/x") + ": Permission denied"));
}

TEST_F(PosixFiles, ALockIsHeldUntilItsObjectEnds) {
  const std::string path = Path("lock");
  auto lock = files_.Lock(path);
  ASSERT_TRUE(lock.ok()) << lock.status().ToString();
  const std::string self = std::to_string(::getpid());
  EXPECT_EQ(Read("lock"), self + "\n");
  EXPECT_EQ(files_.Lock(path).status(),
            FailedPrecondition("lock " + path + ": held by process " + self));
  lock = Internal("released");
  EXPECT_TRUE(files_.Lock(path).ok());
}

// A process that locks `path` and then waits to be killed.
class LockHolder {
 public:
  explicit LockHolder(const std::string& path) {
    int ends[2] = {-1, -1};
    if (::pipe(ends) != 0) return;
    process_ = ::fork();
    if (process_ == 0) {
      const auto lock = PosixFileSystem().Lock(path);
      const char answer = lock.ok() ? 'y' : 'n';
      if (::write(ends[1], &answer, 1) != 1) ::_exit(1);
      while (true) ::pause();
    }
    ::close(ends[1]);
    char answer = 'n';
    holds_ = ::read(ends[0], &answer, 1) == 1 && answer == 'y';
    ::close(ends[0]);
  }
  ~LockHolder() { Kill(); }
  LockHolder(const LockHolder&) = delete;
  LockHolder& operator=(const LockHolder&) = delete;

  void Kill() {
    if (process_ <= 0) return;
    ::kill(process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
    process_ = -1;
  }
  bool holds() const { return holds_; }
  pid_t process() const { return process_; }

 private:
  pid_t process_ = -1;
  bool holds_ = false;
};

TEST_F(PosixFiles, ALockOfAnotherProcessIsNamedAndEndsWithIt) {
  const std::string path = Path("lock");
  LockHolder holder(path);
  ASSERT_TRUE(holder.holds());
  EXPECT_EQ(files_.Lock(path).status(), FailedPrecondition("lock " + path + ": held by process " +
                                                           std::to_string(holder.process())));
  holder.Kill();
  EXPECT_TRUE(files_.Lock(path).ok());
  EXPECT_EQ(Read("lock"), std::to_string(::getpid()) + "\n");
}

}  // namespace
}  // namespace fedmoe
