// What waits for the journal while the journal waits for the disk, and what comes to the disk
// though no round follows.
#include <atomic>
#include <functional>
#include <thread>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "common/forwarding_file_system.h"
#include "tests/coordinator/raw_client.h"

namespace fedmoe {
namespace {

using std::chrono::milliseconds;

// Time in which what must not happen would have happened; no test fails for want of it.
constexpr milliseconds kLongEnough(150);

// Holds the journal at its next sync: what it wrote is not durable, nobody has been told.
class HeldJournal final : public DiskHook {
 public:
  ~HeldJournal() override { Release(); }

  DiskVerdict Before(DiskOperation operation, const std::string&) override {
    std::unique_lock lock(mutex_);
    if (operation != DiskOperation::kSync || !holds_) return {};
    ++held_;
    moved_.notify_all();
    moved_.wait(lock, [this] { return !holds_ || let_go_ == held_; });
    return {};
  }
  void After(const DiskVerdict&) override {}

  void Hold() {
    const std::lock_guard lock(mutex_);
    holds_ = true;
    held_ = let_go_ = 0;
  }
  // The sync that is held is carried out, and the next held.
  void Step() {
    std::unique_lock lock(mutex_);
    let_go_ = held_;
    moved_.notify_all();
    const int next = held_ + 1;
    ASSERT_TRUE(moved_.wait_for(lock, std::chrono::minutes(1), [&] { return held_ >= next; }));
  }
  void WaitUntilHeld() {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(moved_.wait_for(lock, std::chrono::minutes(1), [&] { return held_ > let_go_; }));
  }
  void Release() {
    const std::lock_guard lock(mutex_);
    holds_ = false;
    moved_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable moved_;
  bool holds_ = false;
  int held_ = 0;
  int let_go_ = 0;
};

// The real file system, whose reports wait until they are let through.
class HeldReports final : public ForwardingFileSystem {
 public:
  HeldReports() : ForwardingFileSystem(PosixFileSystem()) {}
  Result<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path) override {
    if (path.ends_with("rounds.jsonl") && hold) {
      held = true;
      while (hold) std::this_thread::sleep_for(milliseconds(1));
      held = false;
    }
    return base().OpenForAppend(path);
  }
  std::atomic<bool> hold = false;
  std::atomic<bool> held = false;
};

class DurabilityOrderTest : public ::testing::Test {
 protected:
  DurabilityOrderTest() : coordinator(Options(&journal), directory.File("run")) {}
  ~DurabilityOrderTest() override { journal.Release(); }

  static CoreOptions Options(DiskHook* hook) {
    CoreOptions options = FleetOptions();
    options.run.rounds = 2;
    options.run.participation.min_clients = 2;
    options.run.evaluation.mode = EvaluationMode::kNone;
    options.poll_hold_ms = 600'000;
    options.linger_ms = 0;
    options.keep_versions = 1;
    options.journal_hook = hook;
    return options;
  }
  nlohmann::json Status() {
    Pending<std::string> status;
    coordinator.core().Status(status.Callback());
    if (!status.answered(std::chrono::seconds(30))) {
      ADD_FAILURE() << "the round thread waits for the journal";
      journal.Release();
    }
    return nlohmann::json::parse(status.Get().value());
  }
  void WaitFor(const std::function<bool()>& condition) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (!condition()) {
      ASSERT_LT(std::chrono::steady_clock::now(), end);
      std::this_thread::sleep_for(milliseconds(1));
    }
  }
  bool Has(const std::string& name) const {
    return PosixFileSystem().Exists(directory.File("run/" + name));
  }
  std::size_t SpooledFiles() const {
    return PosixFileSystem().List(directory.File("run/spool"))->size();
  }
  // Both take part in a round, and the first has answered.
  void BeginRound(bool join = true) {
    for (RawClient* client : {&one, &two}) {
      if (join) client->Join();
    }
    for (RawClient* client : {&one, &two}) client->TakeTask();
    ASSERT_TRUE(one.Submit(one.Answer()).value().accepted());
  }
  // The second answers, and the journal is held before it has that; the round is committed
  // meanwhile.
  std::future<Result<Verdict>> CommitRoundHeld(ModelVersion version = 1) {
    journal.Hold();
    std::future<Result<Verdict>> answered =
        std::async(std::launch::async, [this] { return two.Submit(two.Answer()); });
    journal.WaitUntilHeld();
    WaitFor([&] { return Status()["version"] == version; });
    return answered;
  }

  TempDir directory;
  HeldJournal journal;
  TestCoordinator coordinator;
  RawClient one{coordinator.slot, "one"}, two{coordinator.slot, "two"};
};

TEST_F(DurabilityOrderTest, AClientIsAdmittedOnceThatIsDurable) {
  ASSERT_OK(coordinator.Start());
  journal.Hold();
  Pending<RegisterReply> registered;
  coordinator.core().Register(one.Request(), registered.Callback());
  journal.WaitUntilHeld();
  std::this_thread::sleep_for(kLongEnough);
  EXPECT_FALSE(registered.answered());
  journal.Release();
  EXPECT_OK(registered.Get().status());
}

// The poll's own commit may end before that of the task which it is to be given.
TEST_F(DurabilityOrderTest, ATaskIsGivenOutOnceItsDispatchIsDurable) {
  ASSERT_OK(coordinator.Start());
  one.Join();
  journal.Hold();
  const auto watch = [this](const std::string& name, Pending<RegisterReply>& registered) {
    RegisterRequest request = RawClient{coordinator.slot, name}.Request();
    request.role = ClientRole::kEvaluator;
    coordinator.core().Register(request, registered.Callback());
    Status();
  };
  Pending<RegisterReply> first, second, trainer;
  watch("first", first);
  journal.WaitUntilHeld();
  Pending<NextTaskReply> asked;
  coordinator.core().NextTask(one.session, std::make_shared<Poll>(), asked.Callback());
  watch("second", second);
  journal.Step();
  coordinator.core().Register(two.Request(), trainer.Callback());
  WaitFor([this] { return Status()["phase"] == "reporting"; });
  journal.Step();
  std::this_thread::sleep_for(kLongEnough);
  EXPECT_FALSE(asked.answered());
  EXPECT_FALSE(trainer.answered());
  journal.Release();
  const Result<NextTaskReply> reply = asked.Get();
  ASSERT_OK(reply.status());
  EXPECT_EQ(reply->kind, NextTaskReply::Kind::kTask);
  for (Pending<RegisterReply>* each : {&first, &second, &trainer}) EXPECT_OK(each->Get().status());
}

// A crash now comes back before the round's end, and needs the updates and the version before.
TEST_F(DurabilityOrderTest, NothingIsRemovedBeforeTheRoundThatNeededItIsDurable) {
  coordinator.options.small_bytes = 0;
  coordinator.options.spares.max_bytes = 0;  // what is removed is gone
  ASSERT_OK(coordinator.Start());
  BeginRound();
  std::future<Result<Verdict>> answered = CommitRoundHeld();
  std::this_thread::sleep_for(kLongEnough);
  EXPECT_EQ(answered.wait_for(milliseconds(0)), std::future_status::timeout);
  EXPECT_EQ(SpooledFiles(), 2u);
  EXPECT_TRUE(Has("checkpoints/000000.json"));
  EXPECT_EQ(ReadAll(directory.File("run/rounds.jsonl")), "");
  journal.Release();
  EXPECT_TRUE(answered.get().value().accepted());
  WaitFor([this] { return SpooledFiles() == 0 && !Has("checkpoints/000000.json"); });
}

// A portion that is under way meanwhile must not be followed by one that knows the round.
TEST_F(DurabilityOrderTest, NoPortionFollowsAnotherBeforeTheRoundIsDurable) {
  HeldReports files;
  coordinator.UseFiles(files);
  coordinator.options.small_bytes = 0;
  coordinator.options.spares.max_bytes = 0;  // what is removed is gone
  coordinator.options.run.rounds = 3;
  ASSERT_OK(coordinator.Start());
  files.hold = true;
  BeginRound();
  ASSERT_TRUE(two.Submit(two.Answer()).value().accepted());
  WaitFor([&] { return files.held.load(); });
  BeginRound(false);
  std::future<Result<Verdict>> answered = CommitRoundHeld(2);
  std::this_thread::sleep_for(milliseconds(300));  // the next portion is due
  files.hold = false;
  WaitFor([&] { return !files.held; });
  std::this_thread::sleep_for(kLongEnough);
  EXPECT_EQ(SpooledFiles(), 2u);
  EXPECT_TRUE(Has("checkpoints/000001.json"));
  journal.Release();
  EXPECT_TRUE(answered.get().value().accepted());
  WaitFor([this] { return SpooledFiles() == 0 && !Has("checkpoints/000001.json"); });
  coordinator.Kill();  // before its files
}

TEST_F(DurabilityOrderTest, ARunIsOverOnceItsEndIsDurable) {
  coordinator.options.run.rounds = 1;
  ASSERT_OK(coordinator.Start());
  BeginRound();
  std::future<Result<Verdict>> answered = CommitRoundHeld();
  EXPECT_EQ(Status()["phase"], "finished");
  EXPECT_FALSE(coordinator.core().WaitFor(kLongEnough.count()));
  EXPECT_FALSE(Has("summary.json"));
  journal.Release();
  const RunSummary summary = coordinator.core().Wait();
  EXPECT_EQ(summary.status, "completed");
  EXPECT_TRUE(Has("summary.json"));
  EXPECT_TRUE(Has("checkpoints/000001.json"));
  EXPECT_TRUE(Has("checkpoints/000001.safetensors"));
  EXPECT_TRUE(answered.get().value().accepted());
}

// What a portion of housekeeping left where it is kept, for the snapshot was not due yet.
TEST_F(DurabilityOrderTest, AVersionGetsItsFilesThoughNoRoundFollows) {
  ASSERT_OK(coordinator.Start());
  BeginRound();
  ASSERT_TRUE(two.Submit(two.Answer()).value().accepted());
  WaitFor([this] { return Has("checkpoints/000001.json"); });
  EXPECT_TRUE(Has("checkpoints/000001.safetensors")) << "before the manifest that names it";
}

TEST_F(DurabilityOrderTest, TheLastVersionHasItsFilesWhenTheRunIsOver) {
  coordinator.options.run.rounds = 1;
  coordinator.options.run.evaluation.mode = EvaluationMode::kEvaluator;
  ASSERT_OK(coordinator.Start());
  RawClient evaluator{coordinator.slot, "evaluator"};
  RegisterRequest request = evaluator.Request();
  request.role = ClientRole::kEvaluator;
  evaluator.session = {"evaluator", evaluator.transport.Register(request).value().session};
  BeginRound();
  ASSERT_TRUE(two.Submit(two.Answer()).value().accepted());
  evaluator.TakeTask();
  // Housekeeping cleans up after the round, and no snapshot is due yet.
  std::this_thread::sleep_for(kLongEnough);
  ASSERT_OK(evaluator.transport.SubmitEvaluation(
      evaluator.session,
      {.task = evaluator.task.task, .correct = 1.0, .loss = 1.0, .examples = 2.0}));
  EXPECT_EQ(coordinator.core().Wait().status, "completed");
  EXPECT_TRUE(Has("checkpoints/000001.json"));
  EXPECT_TRUE(Has("checkpoints/000001.safetensors"));
}

}  // namespace
}  // namespace fedmoe
