#include "storage/segment_log.h"

#include <filesystem>
#include <thread>

#include <gtest/gtest.h>

#include "common/counter_rng.h"
#include "common/forwarding_file_system.h"
#include "common/unsynced_file_system.h"
#include "storage/kept_files.h"
#include "tests/storage/storage_support.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/power_cut_file_system.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

using Fault = FaultFileSystem::Fault;

class SegmentLogTest : public ::testing::Test {
 protected:
  std::unique_ptr<SegmentLog> Open(const SegmentLogOptions& options = {}) {
    auto log = SegmentLog::Open(files_, directory_.path(), options);
    EXPECT_OK(log.status());
    return log.ok() ? std::move(log).value() : nullptr;
  }
  static void Append(SegmentLog& log, SegmentKey key, const std::string& text) {
    const auto place = log.Append(key, AsBytes(text));
    ASSERT_OK(place.status());
    ASSERT_OK(log.Sync(*place));
  }
  static std::string Read(const SegmentLog& log, SegmentKey key) {
    const auto file = log.Read(key);
    if (!file.ok()) return file.status().ToString();
    std::string text((*file)->Size().value(), '\0');
    EXPECT_OK((*file)->ReadAt(0, std::as_writable_bytes(std::span(text))));
    return text;
  }
  std::vector<std::string> Names() { return disk_.List(directory_.path()).value(); }

  TempDir directory_;
  UnsyncedFileSystem disk_{PosixFileSystem()};
  FaultFileSystem files_{disk_};
};

TEST_F(SegmentLogTest, KeepsRecordsAcrossOpening) {
  {
    const auto log = Open();
    Append(*log, 7, "seven");
    Append(*log, 3, "");
    Append(*log, 7, "seven again");
  }
  const auto log = Open();
  EXPECT_EQ(log->Keys(), (std::vector<SegmentKey>{3, 7}));
  EXPECT_EQ(Read(*log, 7), "seven again");
  EXPECT_EQ(Read(*log, 3), "");
  EXPECT_TRUE(log->Has(3));
  EXPECT_FALSE(log->Has(4));
  EXPECT_EQ(Read(*log, 4), "NOT_FOUND: " + directory_.path() + ": no record 4");
  Append(*log, 4, "four");
  EXPECT_EQ(Read(*Open(), 4), "four");
}

TEST_F(SegmentLogTest, PassesOverWhatACrashCutAtAnyByte) {
  {
    const auto log = Open();
    Append(*log, 1, "one");
    Append(*log, 2, "two");
  }
  const std::string path = directory_.File("1.segment");
  const std::string whole = ReadAll(path);
  for (std::size_t length = 0; length <= whole.size(); ++length) {
    WriteAll(path, whole.substr(0, length));
    const auto log = Open();
    EXPECT_EQ(log->Has(1), length >= whole.size() / 2) << length;
    EXPECT_EQ(log->Has(2), length == whole.size()) << length;
  }
}

TEST_F(SegmentLogTest, PassesOverWhatIsDamaged) {
  {
    const auto log = Open();
    Append(*log, 1, "one");
    Append(*log, 2, "two");
  }
  const std::string path = directory_.File("1.segment");
  const std::string whole = ReadAll(path);
  for (std::size_t at = 0; at < whole.size(); ++at) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x20);
    WriteAll(path, damaged);
    const auto log = Open();
    const bool in_first = at < whole.size() / 2;
    EXPECT_EQ(log->Has(1), !in_first) << at;
    EXPECT_TRUE(in_first || !log->Has(2)) << at;
    for (const SegmentKey key : log->Keys()) EXPECT_EQ(Read(*log, key), key == 1 ? "one" : "two");
  }
}

TEST_F(SegmentLogTest, ARecordIsItsPiecesOneAfterAnother) {
  const auto place = Open()->Append(1, {AsBytes("pie"), AsBytes(""), AsBytes("ces")});
  ASSERT_OK(place.status());
  EXPECT_EQ(Read(*Open(), 1), "pieces");
}

TEST_F(SegmentLogTest, RecordsWithTheHighestKeysAreReadFromMemory) {
  const std::string text(68, 'x');  // 100 bytes with its header
  const auto log = Open({.recent_bytes = 250});
  for (const SegmentKey key : {2, 1, 3}) Append(*log, key, text);
  const auto reads_of = [&](SegmentKey key, const std::string& expected) {
    const std::int64_t before = files_.reads();
    EXPECT_EQ(Read(*log, key), expected);
    return files_.reads() - before;
  };
  EXPECT_GT(reads_of(1, text), 0) << "of the lowest key there is no more than the file";
  EXPECT_EQ(reads_of(2, text), 0);
  EXPECT_EQ(reads_of(3, text), 0);
  Append(*log, 3, "another");
  EXPECT_EQ(reads_of(3, "another"), 0);
  Append(*log, 4, std::string(300, 'y'));
  EXPECT_GT(reads_of(4, std::string(300, 'y')), 0) << "longer than all that is held";
  EXPECT_EQ(reads_of(2, text), 0);
  ASSERT_OK(log->RemoveExcept({2}, 4));
  EXPECT_EQ(Read(*log, 3), "NOT_FOUND: " + directory_.path() + ": no record 3");
  EXPECT_EQ(reads_of(2, text), 0);
  Append(*log, 5, text);
  EXPECT_EQ(reads_of(2, text), 0) << "what was forgotten takes no room";
}

TEST_F(SegmentLogTest, RemovesSegmentsThatNothingNeeds) {
  const auto log = Open();
  const std::string large(5 << 20, 'x');
  for (const SegmentKey key : {1, 2, 3, 4}) Append(*log, key, large);
  EXPECT_EQ(Names(), (std::vector<std::string>{"1.segment", "2.segment"}));
  ASSERT_OK(log->RemoveExcept({4}, 4));
  EXPECT_EQ(Names(), (std::vector<std::string>{"1.spare", "2.segment"}));
  EXPECT_FALSE(log->Has(3));
  EXPECT_EQ(Read(*log, 4), large);
  Append(*log, 5, "goes on");
  ASSERT_OK(log->RemoveExcept({}, 100));
  EXPECT_EQ(Names(), (std::vector<std::string>{"2.spare", "3.segment"}))
      << "it takes the next record, in place of the spare";
  ASSERT_OK(log->Seal());
  EXPECT_EQ(Names(), std::vector<std::string>{});
  Append(*log, 6, "goes on");
  ASSERT_OK(log->Seal());
  EXPECT_EQ(Names(), std::vector<std::string>{"4.segment"}) << "it holds something";
}

TEST_F(SegmentLogTest, NoMoreSparesStayThanAreOfUse) {
  const auto log = Open({.segment_bytes = 1});
  for (SegmentKey key = 1; key <= 10; ++key) Append(*log, key, "record");
  ASSERT_OK(log->RemoveExcept({}, 100));
  EXPECT_EQ(Names(),
            (std::vector<std::string>{"1.spare", "10.segment", "2.spare", "3.spare", "4.spare"}));
  EXPECT_EQ(Open()->Keys(), std::vector<SegmentKey>{10}) << "forgotten, but in the segment in hand";
  EXPECT_EQ(Names(), std::vector<std::string>{"10.segment"}) << "those of an earlier process go";
}

TEST_F(SegmentLogTest, AFullDiskTakesTheSparesFirst) {
  const auto log = Open({.segment_bytes = 1});
  for (const SegmentKey key : {1, 2, 3}) Append(*log, key, "record");
  ASSERT_OK(log->RemoveExcept({}, 3));
  ASSERT_EQ(Names(), (std::vector<std::string>{"1.spare", "2.spare", "3.segment"}));
  files_.FailAt(files_.operations() + 3, Fault::kNoSpace);  // after the name, the opening, its sync
  Append(*log, 4, "fits after all");
  EXPECT_EQ(Read(*log, 4), "fits after all");
  EXPECT_EQ(Names(), (std::vector<std::string>{"3.segment", "4.segment", "5.segment"}));
}

// The records of a segment stand where others did.
TEST_F(SegmentLogTest, NothingOfASparesRecordsIsFound) {
  const auto log = Open({.segment_bytes = 200});
  for (SegmentKey key = 1; key <= 5; ++key) Append(*log, key, std::string(20, 'a'));
  ASSERT_OK(log->RemoveExcept({}, 5));
  ASSERT_EQ(Names(), (std::vector<std::string>{"1.spare", "2.segment"}));
  for (SegmentKey key = 6; key <= 8; ++key) Append(*log, key, std::string(20, 'b'));
  Append(*log, 9, std::string(20, 'c'));
  ASSERT_EQ(Names(), (std::vector<std::string>{"2.segment", "3.segment"}));
  const std::string path = directory_.File("3.segment");
  const std::string whole = ReadAll(path);
  ASSERT_EQ(whole.size(), 4u * 52) << "three records of the segment it was are still there";
  EXPECT_EQ(Open()->Keys(), (std::vector<SegmentKey>{5, 6, 7, 8, 9}));
  EXPECT_EQ(Read(*Open(), 9), std::string(20, 'c'));
}

// Against a model: whatever is drawn, what was synced and not forgotten is there after a power cut,
// or what was appended under its key since.
TEST_F(SegmentLogTest, APowerCutAtAnyTimeLosesNothingThatWasSynced) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    for (const std::string& name : Names()) ASSERT_OK(disk_.Remove(directory_.File(name)));
    PowerCutFileSystem power(disk_);
    CounterRng random(seed);
    std::map<SegmentKey, std::set<std::string>> kept;  // what may be read under each
    SegmentKey next = 1;
    for (int life = 0; life < 6; ++life) {
      auto log = SegmentLog::Open(power, directory_.path(), {.segment_bytes = 300}).value();
      for (auto& [key, texts] : kept) {
        const std::string text = Read(*log, key);
        ASSERT_TRUE(texts.contains(text)) << "key " << key << ": " << text;
        texts = {text};
      }
      for (int step = 0; step < 25; ++step) {
        const bool again = !kept.empty() && random.NextBelow(3) == 0;
        const SegmentKey key = again ? kept.rbegin()->first : next++;
        // Of lengths that let old records follow new ones.
        const std::string text(32 * random.NextBelow(3),
                               static_cast<char>('a' + random.NextBelow(26)));
        const auto place = log->Append(key, AsBytes(text));
        ASSERT_OK(place.status());
        if (random.NextBelow(4) > 0) {
          ASSERT_OK(log->Sync(*place));
          kept[key] = {text};
        } else if (again) {
          kept[key].insert(text);
        }
        if (random.NextBelow(8) > 0) continue;
        std::set<SegmentKey> keep;
        std::erase_if(kept, [&](const auto& entry) {
          if (random.NextBelow(3) == 0) keep.insert(entry.first);
          return !keep.contains(entry.first);
        });
        ASSERT_OK(log->RemoveExcept(keep, next));
      }
      log.reset();
      power.Cut(seed * 100 + static_cast<std::uint64_t>(life));
    }
  }
}

TEST_F(SegmentLogTest, OneSyncServesAllWhoWait) {
  const auto log = Open();
  std::vector<SegmentPlace> places;
  for (SegmentKey key = 1; key <= 4; ++key) {
    places.push_back(log->Append(key, AsBytes("record")).value());
  }
  const std::int64_t before = files_.operations();
  std::vector<std::jthread> threads;
  for (const SegmentPlace& place : places) {
    threads.emplace_back([&log, place] { EXPECT_OK(log->Sync(place)); });
  }
  threads.clear();
  EXPECT_EQ(files_.operations(), before + 1);
}

TEST_F(SegmentLogTest, AFaultAtAnyOperationLosesNothingThatWasSynced) {
  for (const Fault fault :
       {Fault::kNoSpace, Fault::kIoError, Fault::kShortWrite, Fault::kSyncFails}) {
    for (std::int64_t index = 0;; ++index) {
      SCOPED_TRACE("fault " + std::to_string(static_cast<int>(fault)) + " at " +
                   std::to_string(index));
      for (const std::string& name : Names()) ASSERT_OK(disk_.Remove(directory_.File(name)));
      const auto log = Open();
      const std::int64_t begin = files_.operations(), faults = files_.faults();
      files_.FailAt(begin + index, fault);
      std::set<SegmentKey> synced;
      for (const SegmentKey key : {1, 2, 3}) {
        const auto place = log->Append(key, AsBytes("record " + std::to_string(key)));
        if (place.ok() && log->Sync(*place).ok()) synced.insert(key);
      }
      const bool past_the_end = files_.operations() <= begin + index;
      files_.Clear();
      EXPECT_GE(synced.size(), files_.faults() == faults ? 3u : 2u);
      const auto again = Open();
      for (const SegmentKey key : synced)
        EXPECT_EQ(Read(*again, key), "record " + std::to_string(key));
      if (past_the_end) break;
    }
  }
}

TEST_F(SegmentLogTest, FilesAreKeptUntilTheyAreForgotten) {
  {
    const auto kept = KeptFiles::Open(files_, directory_.path());
    ASSERT_OK(kept.status());
    ASSERT_OK((*kept)->Keep({{.name = "1.a", .bytes = "first"}, {.name = "1.b", .bytes = "b"}}));
    ASSERT_OK((*kept)->Keep({{.name = "1.a", .bytes = "second"},
                             {.name = "2.c", .bytes = ""},
                             {.name = "3.a", .bytes = "nobody was told of it"}}));
    ASSERT_OK((*kept)->Forget({"1.b", "never"}));
  }
  WriteAll(directory_.File("1.a"), "torn");
  const auto kept = KeptFiles::Open(files_, directory_.path());
  ASSERT_OK(kept.status());
  ASSERT_OK((*kept)->Restore(disk_, 2));
  EXPECT_EQ(ReadAll(directory_.File("1.a")), "second");
  EXPECT_EQ(ReadAll(directory_.File("2.c")), "");
  EXPECT_FALSE(std::filesystem::exists(directory_.File("3.a")));
  EXPECT_EQ((*kept)->Names(), (std::set<std::string>{"1.a", "1.b", "2.c", "3.a"}))
      << "what was forgotten may be there again";
  ASSERT_OK((*kept)->Settle(disk_, 2));
  EXPECT_EQ((*kept)->Names(), std::set<std::string>{"3.a"});
  ASSERT_OK((*kept)->Forget((*kept)->Names()));
  EXPECT_EQ((*kept)->Names(), std::set<std::string>{});
}

// As the manifest of a version comes after its tensors: who reads beside the run finds them.
TEST_F(SegmentLogTest, KeptFilesComeToTheDiskInTheOrderInWhichTheyWereKept) {
  class Synced final : public ForwardingFileSystem {
   public:
    using ForwardingFileSystem::ForwardingFileSystem;
    Result<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path) override {
      order.push_back(path.substr(path.rfind('/') + 1));
      return base().OpenForAppend(path);
    }
    std::vector<std::string> order;
  };
  const auto kept = KeptFiles::Open(files_, directory_.path());
  ASSERT_OK(kept.status());
  ASSERT_OK((*kept)->Keep({{.name = "1.tensors", .bytes = "t"}, {.name = "1.json", .bytes = "m"}}));
  for (const char* name : {"1.tensors", "1.json"}) WriteAll(directory_.File(name), "x");
  Synced synced(disk_);
  ASSERT_OK((*kept)->Settle(synced, 1));
  EXPECT_EQ(synced.order, (std::vector<std::string>{"1.tensors", "1.json"}));
}

TEST_F(SegmentLogTest, ARecordWithoutAFilesNameIsNotRestored) {
  Append(*Open(), 1, std::string("../x\0y", 6));
  EXPECT_EQ(KeptFiles::Open(files_, directory_.path()).status().ToString(),
            "DATA_LOSS: " + directory_.path() + ": record 1 has no file's name");
}

}  // namespace
}  // namespace fedmoe
