// What a client that means harm can do with an upload: not hold a round past its deadline, not take
// more of the disk than two updates, and not choose a file's name.
#include <algorithm>
#include <future>
#include <regex>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/coordinator/raw_client.h"

namespace fedmoe {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr Milliseconds kDeadlineMs = 60'000;

class HostileClientTest : public ::testing::Test {
 protected:
  HostileClientTest() : coordinator(Options(), directory.File("run")) {
    coordinator.clock = &clock;
  }
  static CoreOptions Options() {
    CoreOptions options = FleetOptions();
    options.run.deterministic = false;
    options.small_bytes = 0;  // updates have files that can be looked at
    options.run.rounds = 1;
    options.run.participation = {.min_clients = 2,
                                 .quorum = 0.5,
                                 .grace_ms = 600'000,
                                 .deadline_ms = kDeadlineMs,
                                 .heartbeat_timeout_ms = 600'000,
                                 .max_aborts = 1};
    options.run.evaluation.mode = EvaluationMode::kNone;
    return options;
  }
  void Start() {
    ASSERT_OK(coordinator.Start());
    honest.Join();
    hostile.Join();
  }
  void TakeTasks() {
    honest.TakeTask();
    hostile.TakeTask();
  }
  void SubmitHonestly() {
    const Result<Verdict> verdict = honest.Submit(honest.Answer());
    ASSERT_OK(verdict.status());
    EXPECT_TRUE(verdict->accepted()) << verdict->detail;
  }
  Result<UploadStart> Begin(std::uint64_t total_bytes) {
    std::promise<Result<UploadStart>> answer;
    coordinator.core().BeginUpdate(
        hostile.session,
        {.task = hostile.task.task, .round = hostile.task.round, .total_bytes = total_bytes},
        [&](Result<UploadStart> start) { answer.set_value(std::move(start)); });
    return answer.get_future().get();
  }
  static Status Append(Upload& upload, const std::string& bytes) {
    std::promise<Status> answer;
    upload.Append(bytes, [&](Status status) { answer.set_value(std::move(status)); });
    return answer.get_future().get();
  }
  static Result<Verdict> Finish(Upload& upload) {
    std::promise<Result<Verdict>> answer;
    upload.Finish([&](Result<Verdict> verdict) { answer.set_value(std::move(verdict)); });
    return answer.get_future().get();
  }
  std::string Phase() {
    std::promise<Result<std::string>> answer;
    coordinator.core().Status([&](Result<std::string> json) { answer.set_value(std::move(json)); });
    return nlohmann::json::parse(answer.get_future().get().value())["phase"];
  }
  void ExpectCompleted() {
    for (RawClient* client : {&honest, &hostile})
      client->HearTheEnd(coordinator.options.run.rounds);
    ASSERT_FALSE(HasFatalFailure()) << "this clock brings no end by itself";
    EXPECT_EQ(coordinator.core().Wait().status, "completed");
  }
  std::vector<std::string> Spool() {
    return PosixFileSystem().List(directory.File("run/spool")).value();
  }

  TempDir directory;
  ManualClock clock;
  TestCoordinator coordinator;
  RawClient honest{coordinator.slot, "honest"};
  RawClient hostile{coordinator.slot, ".."};
};

// Each byte is a sign of life, but no more time.
TEST_F(HostileClientTest, AByteNowAndThenDoesNotHoldTheRoundPastItsDeadline) {
  Start();
  TakeTasks();
  SubmitHonestly();
  const Result<UploadStart> start = Begin(MaxUpdateBytes(hostile.spec, hostile.task));
  ASSERT_OK(start.status());
  Upload& upload = *start->upload;
  for (Milliseconds at = 0; at < kDeadlineMs; at += kDeadlineMs / 10) {
    EXPECT_OK(Append(upload, "x"));
    EXPECT_EQ(Phase(), "reporting") << "after " << at << " ms";
    clock.Advance(kDeadlineMs / 10);
  }
  EXPECT_OK(Append(upload, "x"));
  ExpectCompleted();
  const Result<Verdict> late = Finish(upload);
  EXPECT_FALSE(late.ok() && late->accepted());
  const auto report = nlohmann::json::parse(ReadAll(directory.File("run/rounds.jsonl")));
  EXPECT_EQ(report["accepted"], 1) << report;
}

TEST_F(HostileClientTest, ATotalBeyondTheTaskTakesNoPlaceOnTheDisk) {
  Start();
  TakeTasks();
  for (const std::uint64_t total : {MaxUpdateBytes(hostile.spec, hostile.task) + 1,
                                    std::uint64_t{1} << 42, ~std::uint64_t{0}}) {
    const Result<UploadStart> start = Begin(total);
    ASSERT_OK(start.status());
    EXPECT_EQ(start->upload, nullptr);
    ASSERT_TRUE(start->verdict.has_value());
    EXPECT_FALSE(start->verdict->accepted());
    EXPECT_THAT(Spool(), IsEmpty());
  }
}

// Whichever of two uploads of a task is whole first is the one that counts: what comes after it
// does not take the place of its bytes.
class TwoUploads : public HostileClientTest, public ::testing::WithParamInterface<bool> {};

TEST_P(TwoUploads, TheOneThatIsCountedStays) {
  Start();
  TakeTasks();
  const auto encode = [this](float value) {
    TrainResult result = hostile.Answer();
    std::vector<OutgoingBlock> blocks;
    for (BlockDelta& block : result.blocks) {
      std::fill(block.delta.begin(), block.delta.end(), value);
      blocks.push_back({.parameter = block.parameter, .delta = block.delta});
    }
    std::string bytes;
    EXPECT_OK(EncodeUpdate(hostile.task.task, blocks, [&](std::span<const std::byte> piece) {
      bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
      return Status::Ok();
    }));
    return std::pair(hostile.HeaderFor(result, blocks), bytes);
  };
  const auto finish = [](const std::shared_ptr<Upload>& upload, const std::string& bytes) {
    std::promise<Result<Verdict>> answer;
    upload->AppendLast(
        bytes, [](const Status& status) { EXPECT_OK(status); },
        [&](Result<Verdict> verdict) { answer.set_value(std::move(verdict)); });
    return answer.get_future().get();
  };
  std::vector<std::pair<std::shared_ptr<Upload>, std::string>> uploads;
  for (const float value : {1.0f, 2.0f}) {
    auto [header, bytes] = encode(value);
    std::promise<Result<UploadStart>> answer;
    coordinator.core().BeginUpdate(hostile.session, header, [&](Result<UploadStart> start) {
      answer.set_value(std::move(start));
    });
    const Result<UploadStart> start = answer.get_future().get();
    ASSERT_OK(start.status());
    uploads.emplace_back(start->upload, std::move(bytes));
  }
  if (!GetParam()) std::swap(uploads[0], uploads[1]);
  EXPECT_TRUE(finish(uploads[0].first, uploads[0].second).value().accepted());
  EXPECT_TRUE(finish(uploads[1].first, uploads[1].second).value().accepted()) << "it is known";
  for (auto& upload : uploads) upload.first.reset();
  std::vector<std::string> kept = Spool();
  std::erase_if(kept, [](const std::string& name) { return name.ends_with(".tmp"); });
  ASSERT_EQ(kept.size(), 1u);
  EXPECT_EQ(ReadAll(directory.File("run/spool/" + kept[0])), uploads[0].second);
}

// Whether the one that began first is whole first.
INSTANTIATE_TEST_SUITE_P(Order, TwoUploads, ::testing::Values(true, false));

TEST_F(HostileClientTest, RegisteringAgainAndAgainDoesNotFillTheJournal) {
  coordinator.options.snapshot_events = 50;
  Start();
  TakeTasks();
  for (int i = 0; i < 1'000; ++i) {
    hostile.Join();
    if (i % 50 == 0) clock.Advance(2'000);
  }
  coordinator.Kill();
  const auto journal = Journal::Open(directory.File("run/journal.sqlite")).value();
  EXPECT_LT(journal->Recover().value()->events.size(), 500u);
}

// Perhaps of a process that has died, and of other bytes.
TEST_F(HostileClientTest, AnOlderUploadDoesNotTakeThePlaceOfOneThatBeganAnew) {
  Start();
  TakeTasks();
  constexpr std::uint64_t kTotal = 200;
  Result<UploadStart> older = Begin(kTotal), newer = Begin(kTotal);
  ASSERT_OK(older.status());
  ASSERT_OK(newer.status());
  ASSERT_OK(Append(*older->upload, std::string(64, 'a')));
  ASSERT_OK(Append(*newer->upload, std::string(10, 'b')));
  newer->upload->Park();
  older->upload->Park();
  std::promise<Result<std::uint64_t>> received;
  coordinator.core().ResumeUpdate(
      hostile.session, hostile.task.task, kTotal,
      [&](Result<std::uint64_t> bytes) { received.set_value(std::move(bytes)); });
  EXPECT_EQ(received.get_future().get().value(), 10u);
}

// However many tasks a client lets lapse, what it began for them does not add up.
TEST_F(HostileClientTest, UploadsThatNeverEndAreTwoInAll) {
  coordinator.options.run.rounds = 4;
  Start();
  std::vector<std::shared_ptr<Upload>> held;
  for (int round = 1; round <= 4; ++round) {
    TakeTasks();
    for (int i = 0; i < 3; ++i) {
      const Result<UploadStart> start = Begin(MaxUpdateBytes(hostile.spec, hostile.task));
      if (held.size() == 2) {
        EXPECT_EQ(start.status().ToString(),
                  "RESOURCE_EXHAUSTED: client '..' has 2 uploads under way already; ask again when "
                  "one has ended");
        continue;
      }
      ASSERT_OK(start.status());
      held.push_back(start->upload);
      EXPECT_OK(Append(*held.back(), "x"));
    }
    SubmitHonestly();
    clock.Advance(kDeadlineMs);
  }
  ExpectCompleted();
  const std::vector<std::string> names = Spool();
  EXPECT_EQ(std::count_if(names.begin(), names.end(),
                          [](const std::string& name) { return name.ends_with(".tmp"); }),
            2);
}

TEST_F(HostileClientTest, BytesPastTheTotalAreNotWritten) {
  Start();
  TakeTasks();
  const Result<UploadStart> start = Begin(128);
  ASSERT_OK(start.status());
  EXPECT_OK(Append(*start->upload, std::string(100, 'x')));
  EXPECT_OK(Append(*start->upload, std::string(1 << 20, 'x')));
  const std::vector<std::string> names = Spool();
  ASSERT_EQ(names.size(), 1u);
  EXPECT_EQ(PosixFileSystem().FileSize(directory.File("run/spool/" + names[0])).value(), 100u);
}

// The client is called "..", its task 2: a spool file's name is its task's number, and under way
// also the process's and a counter.
TEST_F(HostileClientTest, ASpoolFileIsNamedByItsTaskAlone) {
  Start();
  TakeTasks();
  const Result<UploadStart> start = Begin(128);
  ASSERT_OK(start.status());
  EXPECT_OK(Append(*start->upload, "x"));
  const std::vector<std::string> names = Spool();
  ASSERT_EQ(names.size(), 1u);
  const std::string task = "000" + std::to_string(hostile.task.task);
  EXPECT_TRUE(std::regex_match(names[0], std::regex(task + "\\.[0-9]+-[0-9]+\\.tmp"))) << names[0];
  const Result<Verdict> verdict = hostile.Submit(hostile.Answer());
  ASSERT_OK(verdict.status());
  EXPECT_TRUE(verdict->accepted()) << verdict->detail;
  EXPECT_THAT(Spool(), ElementsAre(names[0], task + ".update"));
}

}  // namespace
}  // namespace fedmoe
