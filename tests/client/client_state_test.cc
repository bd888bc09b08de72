#include "client/client_state.h"

#include <fstream>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/fault_file_system.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

std::string Text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::unique_ptr<ClientState> Opened(const TempDir& directory) {
  auto state = ClientState::Open(PosixFileSystem(), directory.path());
  EXPECT_TRUE(state.ok()) << state.status().ToString();
  return std::move(state).value();
}

TEST(ClientStateTest, TheInstanceKeyIsMadeOnceAndDiffersBetweenClients) {
  const TempDir one, two;
  const std::string key = Opened(one)->instance();
  EXPECT_EQ(key.size(), 32U);
  EXPECT_EQ(Opened(one)->instance(), key);
  EXPECT_NE(Opened(two)->instance(), key);
}

TEST(ClientStateTest, OneClientADirectory) {
  const TempDir directory;
  const auto first = Opened(directory);
  EXPECT_EQ(ClientState::Open(PosixFileSystem(), directory.path()).status(),
            FailedPrecondition("another client uses the state directory " + directory.path() +
                               "; give each client its own"));
}

TEST(ClientStateTest, TentativeStateSurvivesARestartAndIsPromotedWhenItsRoundCommitted) {
  const TempDir directory;
  {
    const auto state = Opened(directory);
    state->BeginRun("run");
    ASSERT_TRUE(state->SaveTentative(5, AsBytes("gate")).ok());
    EXPECT_TRUE(state->committed().empty());
  }
  {
    const auto state = Opened(directory);
    state->BeginRun("run");
    ASSERT_TRUE(state->Settle(5, 0).ok());
    EXPECT_EQ(Text(state->committed()), "gate");
  }
  const auto state = Opened(directory);
  state->BeginRun("run");
  EXPECT_TRUE(state->committed().empty()) << "nobody has said so yet";
  ASSERT_TRUE(state->Settle(5, 0).ok());
  EXPECT_EQ(Text(state->committed()), "gate");
}

TEST(ClientStateTest, TentativeStateOfAnotherTaskIsDiscarded) {
  const TempDir directory;
  const auto state = Opened(directory);
  state->BeginRun("run");
  ASSERT_TRUE(state->SaveTentative(5, AsBytes("gate")).ok());
  ASSERT_TRUE(state->Settle(3, 0).ok());
  ASSERT_TRUE(state->Settle(5, 0).ok());
  EXPECT_TRUE(state->committed().empty());
}

TEST(ClientStateTest, TentativeStateOfAnUpdateToBeSentAgainIsKept) {
  const TempDir directory;
  const auto state = Opened(directory);
  state->BeginRun("run");
  ASSERT_TRUE(state->SaveTentative(5, AsBytes("gate")).ok());
  ASSERT_TRUE(state->Settle(0, 5).ok());
  ASSERT_TRUE(state->Settle(5, 0).ok());
  EXPECT_EQ(Text(state->committed()), "gate");
}

TEST(ClientStateTest, AnEvaluationDiscardsNothing) {
  const TempDir directory;
  const auto state = Opened(directory);
  state->BeginRun("run");
  ASSERT_TRUE(state->SaveTentative(5, AsBytes("gate")).ok());
  state->Promote(3);
  EXPECT_TRUE(state->committed().empty());
  state->Promote(5);
  EXPECT_EQ(Text(state->committed()), "gate");
}

TEST(ClientStateTest, CommittedStateLaterThanTheCoordinatorsIsVoid) {
  const TempDir directory;
  const auto state = Opened(directory);
  state->BeginRun("run");
  ASSERT_TRUE(state->SaveTentative(5, AsBytes("gate")).ok());
  ASSERT_TRUE(state->Settle(5, 0).ok());
  ASSERT_TRUE(state->Settle(4, 0).ok());
  EXPECT_TRUE(state->committed().empty());
}

// Of two states on disk, after a restart too, the coordinator's word tells which is committed.
TEST(ClientStateTest, WhichOfTwoStatesIsCommittedIsTheCoordinatorsWord) {
  struct Case {
    TaskId last, keep;
    std::string committed;
  };
  // The state of 5 was committed when 7 was trained.
  const std::vector<Case> cases = {{5, 0, "five"}, {5, 7, "five"}, {7, 0, "seven"}, {4, 0, ""},
                                   {6, 0, ""},     {9, 7, ""},     {0, 0, ""}};
  for (const bool restarts : {false, true}) {
    for (const Case& one : cases) {
      SCOPED_TRACE(fmt::format("{}, {}{}", one.last, one.keep, restarts ? ", restarted" : ""));
      const TempDir directory;
      auto state = Opened(directory);
      state->BeginRun("run");
      ASSERT_TRUE(state->SaveTentative(5, AsBytes("five")).ok());
      ASSERT_TRUE(state->Settle(5, 0).ok());
      ASSERT_TRUE(state->SaveTentative(7, AsBytes("seven")).ok());
      if (restarts) {
        state.reset();
        state = Opened(directory);
        state->BeginRun("run");
      }
      ASSERT_TRUE(state->Settle(one.last, one.keep).ok());
      EXPECT_EQ(Text(state->committed()), one.committed);
      ASSERT_TRUE(state->Settle(7, 0).ok());
      EXPECT_EQ(Text(state->committed()), one.keep == 7 || one.last == 7 ? "seven" : "");
    }
  }
}

TEST(ClientStateTest, AStateReplacesTheOneThatIsNotCommitted) {
  const TempDir directory;
  const auto state = Opened(directory);
  state->BeginRun("run");
  std::string committed;
  for (TaskId task = 1; task <= 6; ++task) {
    ASSERT_TRUE(state->SaveTentative(task, AsBytes(std::to_string(task))).ok());
    EXPECT_EQ(Text(state->committed()), committed) << task;
    const bool merged = task % 3 != 0;
    if (merged) committed = std::to_string(task);
    ASSERT_TRUE(state->Settle(merged ? task : task - 1, 0).ok());
    EXPECT_EQ(Text(state->committed()), committed) << task;
  }
  EXPECT_THAT(PosixFileSystem().List(directory.path()).value(),
              ::testing::ElementsAre("instance", "lock", "state.1"));
}

TEST(ClientStateTest, StateOfAnotherRunIsVoid) {
  const TempDir directory;
  const auto state = Opened(directory);
  state->BeginRun("run");
  ASSERT_TRUE(state->SaveTentative(5, AsBytes("gate")).ok());
  ASSERT_TRUE(state->Settle(5, 0).ok());
  state->BeginRun("other");
  EXPECT_TRUE(state->committed().empty());
}

TEST(ClientStateTest, AnEndIsKeptUntilItIsForgotten) {
  const TempDir directory;
  {
    const auto state = Opened(directory);
    EXPECT_FALSE(state->end().has_value());
    state->BeginRun("run");
    ASSERT_TRUE(state->SaveEnd("all 3 rounds are done").ok());
  }
  {
    const auto state = Opened(directory);
    ASSERT_TRUE(state->end().has_value());
    EXPECT_EQ(state->end()->run_id, "run");
    EXPECT_EQ(state->end()->detail, "all 3 rounds are done");
    ASSERT_TRUE(state->ForgetEnd().ok());
    ASSERT_TRUE(state->ForgetEnd().ok());
    EXPECT_FALSE(state->end().has_value());
  }
  EXPECT_FALSE(Opened(directory)->end().has_value());
}

TEST(ClientStateTest, DamageIsNamed) {
  const TempDir directory;
  {
    const auto state = Opened(directory);
    state->BeginRun("run");
    ASSERT_TRUE(state->SaveTentative(5, AsBytes("gate")).ok());
  }
  const std::string path = directory.File("state.0");
  const std::string whole = ReadFile(PosixFileSystem(), path, 1000).value();
  const auto fault = [&](const std::string& content) {
    std::ofstream(path, std::ios::binary) << content;
    return ClientState::Open(PosixFileSystem(), directory.path()).status();
  };
  const auto expected = [&](const std::string& why) {
    return DataLoss(path + " is damaged: " + why + "; remove it to start without client state");
  };
  EXPECT_EQ(fault("X" + whole.substr(1)), expected("its magic is wrong"));
  EXPECT_EQ(fault("x"), expected("its magic is wrong"));
  EXPECT_EQ(fault(whole.substr(0, 8) + "\1" + whole.substr(9)),
            expected("its version is not known"));
  EXPECT_EQ(fault(whole + "x"), expected("its length does not match"));
  // The lengths, too, or a longer one would pass for a file that was cut short.
  for (const std::size_t at : {12, 16, 24, 25, 34, 37, 40}) {
    std::string flipped = whole;
    flipped[at] ^= 1;
    EXPECT_EQ(fault(flipped), expected("its checksum is wrong")) << at;
  }
  EXPECT_TRUE(fault(whole).ok());
}

// As a rename before its bytes would leave it. What is committed is never the one that is written.
TEST(ClientStateTest, AStateThatWasCutShortIsDropped) {
  const TempDir directory;
  {
    const auto state = Opened(directory);
    state->BeginRun("run");
    ASSERT_TRUE(state->SaveTentative(5, AsBytes("gate")).ok());
    ASSERT_TRUE(state->Settle(5, 0).ok());
    ASSERT_TRUE(state->SaveTentative(6, AsBytes("other")).ok());
  }
  const std::string path = directory.File("state.1");
  const std::string whole = ReadFile(PosixFileSystem(), path, 1000).value();
  for (std::size_t length = 0; length < whole.size(); ++length) {
    SCOPED_TRACE(length);
    std::ofstream(path, std::ios::binary) << whole.substr(0, length);
    const auto state = Opened(directory);
    state->BeginRun("run");
    ASSERT_TRUE(state->Settle(5, 6).ok());
    EXPECT_EQ(Text(state->committed()), "gate");
    ASSERT_TRUE(state->SaveTentative(7, AsBytes("new")).ok());
    ASSERT_TRUE(state->Settle(5, 0).ok());
  }
}

TEST(ClientStateTest, AnInstanceKeyThatWasCutShortIsMadeAgain) {
  const TempDir directory;
  const std::string key = Opened(directory)->instance();
  const auto open = [&](const std::string& content) {
    std::ofstream(directory.File("instance"), std::ios::binary) << content;
    return ClientState::Open(PosixFileSystem(), directory.path());
  };
  EXPECT_EQ(open(key).value()->instance(), key) << "as an editor may leave it";
  for (const std::size_t length : {0, 1, 16, 31}) {
    const std::string made = open(key.substr(0, length)).value()->instance();
    EXPECT_EQ(made.size(), 32U);
    EXPECT_NE(made, key);
    EXPECT_EQ(Opened(directory)->instance(), made);
  }
  for (const std::string& damaged :
       std::vector<std::string>{key + "0", key + "\n\n", "x" + key.substr(1), "\n"}) {
    EXPECT_EQ(open(damaged).status(),
              DataLoss(directory.File("instance") +
                       " is damaged: it must hold 32 hexadecimal characters; remove it to make a "
                       "new instance key"));
  }
}

TEST(ClientStateTest, AFailedWriteLeavesTheStateBefore) {
  const TempDir directory;
  {
    const auto state = Opened(directory);
    state->BeginRun("run");
    ASSERT_TRUE(state->SaveTentative(5, AsBytes("gate")).ok());
  }
  FaultFileSystem files(PosixFileSystem());
  {
    auto state = ClientState::Open(files, directory.path());
    ASSERT_TRUE(state.ok());
    (*state)->BeginRun("run");
    files.FailFrom(files.operations(), FaultFileSystem::Fault::kShortWrite);
    EXPECT_EQ((*state)->SaveTentative(6, AsBytes("other")).code(), StatusCode::kResourceExhausted);
  }
  const auto state = Opened(directory);
  state->BeginRun("run");
  ASSERT_TRUE(state->Settle(5, 0).ok());
  EXPECT_EQ(Text(state->committed()), "gate");
}

// A client's life on disk: three tasks, of which the first two are merged, and the word of the end.
// The first error; which task was merged last then, and the state that must be there for it.
struct Life {
  Status status;
  std::string instance;
  TaskId merged = 0;
  std::string committed;
  bool ended = false;
};

Life Live(FileSystem& files, const TempDir& directory) {
  Life life;
  auto state = ClientState::Open(files, directory.path());
  life.status = state.status();
  if (!life.status.ok()) return life;
  life.instance = (*state)->instance();
  (*state)->BeginRun("run");
  const auto succeeds = [&](const Status& status) {
    life.status = status;
    return status.ok();
  };
  for (TaskId task = 1; task <= 3; ++task) {
    if (!succeeds((*state)->Settle(life.merged, 0))) return life;
    // What was not saved is not sent, so that it is not merged.
    if (!succeeds((*state)->SaveTentative(task, AsBytes(std::to_string(task))))) return life;
    if (task == 3) break;
    life.merged = task;
    life.committed = std::to_string(task);
  }
  life.ended = true;
  if (succeeds((*state)->SaveEnd("all done"))) succeeds((*state)->ForgetEnd());
  return life;
}

TEST(ClientStateTest, AFaultAtAnyOperationLosesNoCommittedState) {
  using Fault = FaultFileSystem::Fault;
  for (const Fault fault : {Fault::kNoSpace, Fault::kIoError, Fault::kShortWrite, Fault::kSyncFails,
                            Fault::kTornRename}) {
    for (std::int64_t index = 0;; ++index) {
      SCOPED_TRACE("fault " + std::to_string(static_cast<int>(fault)) + " at " +
                   std::to_string(index));
      const TempDir directory;
      FaultFileSystem files(PosixFileSystem());
      files.FailAt(index, fault);
      const Life life = Live(files, directory);
      ASSERT_EQ(life.status.ok(), files.faults() == 0) << life.status.ToString();
      if (!life.status.ok()) {
        EXPECT_NE(life.status.message().find(directory.path()), std::string::npos)
            << life.status.message();
      }
      const auto state = Opened(directory);
      if (!life.instance.empty()) {
        EXPECT_EQ(state->instance(), life.instance);
      }
      state->BeginRun("run");
      ASSERT_TRUE(state->Settle(life.merged, 0).ok());
      EXPECT_EQ(Text(state->committed()), life.committed);
      if (!life.ended) {
        EXPECT_FALSE(state->end().has_value());
      }
      if (files.operations() <= index) break;
    }
  }
}

}  // namespace
}  // namespace fedmoe
