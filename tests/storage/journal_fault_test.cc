// Whatever SQLite's disk refuses, and wherever: the journal opens again and holds what was
// acknowledged, and at most the commit that was under way besides.
#include <filesystem>

#include <gtest/gtest.h>

#include "storage/journal.h"
#include "tests/storage/storage_support.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

using Fault = FaultFileSystem::Fault;

constexpr Fault kFaults[] = {Fault::kNoSpace, Fault::kIoError, Fault::kShortWrite,
                             Fault::kSyncFails};

// What a journal holds: its snapshot's time, and its events'.
struct Content {
  Milliseconds snapshot = -1;  // none
  std::vector<Milliseconds> events;
  bool operator==(const Content&) const = default;
};

class JournalFaults : public ::testing::Test {
 protected:
  static Content Read(const Journal& journal) {
    const auto run = journal.Recover();
    EXPECT_OK(run.status());
    Content content;
    if (!run.ok() || !run->has_value()) return content;
    content.snapshot = (*run)->snapshot.now_ms;
    for (const Event& event : (*run)->events) content.events.push_back(TimeOf(event));
    return content;
  }

  // A run's commits and snapshots; the log is written back in between. Stops at the first error,
  // or, if `again`, tries each step once more. `acknowledged` is what was said to be there,
  // `under_way` what the step that failed would have made of it.
  void Use(Journal& journal, bool again) {
    Milliseconds time = 0;
    for (int round = 0; round < 3; ++round) {
      for (int commit = 0; commit < 2; ++commit) {
        under_way_ = acknowledged_;
        for (int event = 0; event <= commit; ++event) {
          journal.Append(Tick{.at_ms = ++time});
          under_way_.events.push_back(time);
        }
        if (!Try([&] { return journal.Commit(); }, again)) return;
      }
      RoundState state;
      state.now_ms = ++time;
      state.status_detail = std::string(6'000, 'x');  // over several pages
      under_way_ = {.snapshot = time, .events = {}};
      if (!Try([&] { return journal.Snapshot(state); }, again)) return;
    }
  }

  template <typename Step>
  bool Try(Step step, bool again) {
    Status status = step();
    if (!status.ok()) {
      EXPECT_TRUE(status.message().starts_with(path_ + ": ")) << status.message();
      if (again) status = step();
    }
    if (!status.ok()) return false;
    acknowledged_ = under_way_;
    return true;
  }

  // One life with the fault; false once the index is past its end.
  bool Live(Fault fault, std::int64_t index, bool again) {
    std::filesystem::remove_all(path_);
    std::filesystem::remove_all(path_ + "-wal");
    std::filesystem::remove_all(path_ + "-journal");
    acknowledged_ = under_way_ = Content();
    {
      auto journal = Journal::Open(path_, &healthy_);  // before a snapshot it says nothing
      EXPECT_OK((*journal)->Snapshot(RoundState()));
      acknowledged_ = under_way_ = {.snapshot = 0, .events = {}};
    }
    FaultFileSystem files(PosixFileSystem());
    files.FailAt(index, fault);
    {
      const auto journal = Journal::Open(path_, &files);
      EXPECT_TRUE(journal.ok() || files.faults() > 0) << journal.status().ToString();
      if (journal.ok()) Use(**journal, again);
    }
    failures_ += files.faults() > 0 ? 1 : 0;
    return files.operations() > index;
  }

  TempDir directory_;
  FaultFileSystem healthy_{PosixFileSystem()};  // whose syncs cost nothing
  std::string path_ = directory_.File("journal.sqlite");
  Content acknowledged_, under_way_;
  int failures_ = 0;
};

TEST_F(JournalFaults, LoseNothingThatWasAcknowledged) {
  for (const Fault fault : kFaults) {
    for (const bool again : {false, true}) {
      for (std::int64_t index = 0;; ++index) {
        SCOPED_TRACE("fault " + std::to_string(static_cast<int>(fault)) + " at " +
                     std::to_string(index) + (again ? ", tried again" : ""));
        const bool more = Live(fault, index, again);
        const auto opened = Journal::Open(path_, &healthy_);
        ASSERT_OK(opened.status());
        const Content content = Read(**opened);
        ASSERT_TRUE(content == acknowledged_ || content == under_way_)
            << content.snapshot << " with " << content.events.size() << " events, acknowledged "
            << acknowledged_.snapshot << " with " << acknowledged_.events.size();
        // And it goes on from there.
        (*opened)->Append(Tick{.at_ms = 1'000});
        ASSERT_OK((*opened)->Commit());
        if (!more) break;
      }
    }
  }
  EXPECT_GT(failures_, 300);
}

TEST_F(JournalFaults, InANewJournalLeaveOneThatOpens) {
  for (const Fault fault : kFaults) {
    for (std::int64_t index = 0;; ++index) {
      SCOPED_TRACE("fault " + std::to_string(static_cast<int>(fault)) + " at " +
                   std::to_string(index));
      for (const char* suffix : {"", "-wal", "-journal"}) std::filesystem::remove(path_ + suffix);
      FaultFileSystem files(PosixFileSystem());
      files.FailAt(index, fault);
      Status status;
      {
        const auto journal = Journal::Open(path_, &files);
        status = journal.status();
        if (status.ok()) status = (*journal)->SetFact("run_id", "x");
        if (status.ok()) status = (*journal)->Snapshot(RoundState());
      }
      const auto opened = Journal::Open(path_, &healthy_);
      ASSERT_OK(opened.status());
      const Content content = Read(**opened);
      ASSERT_TRUE(content.snapshot == 0 || (content.snapshot == -1 && !status.ok()));
      ASSERT_OK((*opened)->Snapshot(RoundState()));
      if (files.operations() <= index) break;
    }
  }
}

}  // namespace
}  // namespace fedmoe
