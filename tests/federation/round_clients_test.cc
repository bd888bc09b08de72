// What the round machine remembers of clients: who sits out, who earned what, who is forgotten.
#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/federation/round_driver.h"

namespace fedmoe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Three trainers of which all must be accepted, one more than the least number.
RoundDriver Strict(bool deterministic = false, int min_clients = 2) {
  RunOptions options = TinyOptions();
  options.participation.quorum = 1.0;
  options.participation.min_clients = 3;  // so that the first cohort is all three
  options.deterministic = deterministic;
  RoundDriver run(options);
  for (const char* name : {"a", "b", "bad"}) run.Join(name);
  run.options.participation.min_clients = min_clients;
  return run;
}

std::string Reject(RoundDriver& run) {
  run.Update("a");
  run.Update("b");
  return run.Update("bad", {RejectReason::kNotFinite, "NaN"});
}

TEST(SittingOut, ARejectedClientIsLeftOutOfTheRoundsLaterAttempts) {
  RoundDriver run = Strict();
  EXPECT_THAT(Reject(run), HasSubstr("abort round=1 attempt=1 too_few_updates"));
  EXPECT_THAT(run.state.cohort, ElementsAre("a", "b"));
  run.CommitRound();
  const RoundReport report = run.Last<Report>().report;
  EXPECT_EQ(report.round, 1);
  EXPECT_THAT(report.sat_out, ElementsAre("bad"));
  EXPECT_EQ(report.connected_trainers, 3);
  EXPECT_THAT(run.state.cohort, ElementsAre("a", "b", "bad")) << "a new round, a new chance";
  EXPECT_THAT(run.state.sitting_out, IsEmpty());
}

TEST(SittingOut, EndsWhereTooFewOthersAreConnected) {
  RoundDriver run = Strict(false, 3);
  Reject(run);
  EXPECT_THAT(run.state.cohort, ElementsAre("a", "b", "bad"));
}

TEST(SittingOut, EndsWithAnotherInstance) {
  RoundDriver run = Strict();
  Reject(run);
  run.Leave("bad");
  run.Join("bad", 2, "2");
  EXPECT_THAT(run.state.sitting_out, IsEmpty());
}

TEST(SittingOut, IsForContentAndNotForLateOrLostClients) {
  RoundDriver run = Strict();
  run.Update("a");
  run.Return("bad");
  run.Update("b");
  EXPECT_EQ(run.state.attempt, 2);
  EXPECT_THAT(run.state.cohort, ElementsAre("a", "b", "bad"));
}

TEST(SittingOut, NeverHappensInADeterministicRunWhichFailsAtItsLimit) {
  RoundDriver run = Strict(true);
  Reject(run);
  EXPECT_THAT(run.state.cohort, ElementsAre("a", "b", "bad"));
  Reject(run);
  EXPECT_THAT(Reject(run),
              HasSubstr("finish failed: round 1 was aborted 3 times, at last: 2 of 3 assigned "
                        "clients reported; missing: bad\n"));
}

TEST(SittingOut, IsOverWhenAFailedRunIsTakenUpAgain) {
  RoundDriver run = Strict();
  Reject(run);
  run.Stop(false);
  EXPECT_THAT(run.state.sitting_out, ElementsAre("bad"));
  run.Resume();
  EXPECT_THAT(run.state.sitting_out, IsEmpty());
}

TEST(Credit, GoesToTheInstanceThatDidTheTask) {
  RoundDriver run(TinyOptions());
  run.Join("a", 2, "first");
  run.Join("b");
  run.Update("a");
  run.Leave("a");
  run.Join("a", 2, "second");
  EXPECT_THAT(run.Update("b"), HasSubstr("aggregate round=1 base=0 updates=[1 2]"));
  run.Aggregate();
  run.Checkpoint();
  const ClientRecord& client = run.state.clients["a"];
  EXPECT_EQ(client.last_committed_task, 0u);
  EXPECT_THAT(client.experts, IsEmpty());
  EXPECT_EQ(client.rounds_merged, 0);
  EXPECT_EQ(run.TaskOf("a").last_committed_task, 0u);
  EXPECT_EQ(run.state.clients["b"].last_committed_task, 2u);
  EXPECT_EQ(run.Last<Report>().report.accepted, 2) << "the update itself counts";
}

// kMaxKnownClients names that came and went, heard of at rising times, "n0000" first.
RoundDriver Crowded() {
  RunOptions options = TinyOptions();
  options.participation.min_clients = 2;
  RoundDriver run(options);
  run.Join("a");
  run.now_ms = 10'000;
  run.Beat("a");
  for (std::size_t i = 1; i < kMaxKnownClients; ++i) {
    ClientRecord client;
    client.client = "n" + std::to_string(i + 10'000);
    client.last_heard_ms = static_cast<Milliseconds>(i);
    run.state.clients[client.client] = client;
  }
  return run;
}

TEST(KnownClients, TheLongestSilentIsForgottenForANewOne) {
  RoundDriver run = Crowded();
  EXPECT_EQ(run.state.clients.size(), kMaxKnownClients);
  EXPECT_EQ(ConnectedClients(run.state), 1);
  run.Join("b");
  EXPECT_EQ(run.state.clients.size(), kMaxKnownClients);
  EXPECT_EQ(ConnectedClients(run.state), 2);
  EXPECT_FALSE(run.state.clients.contains("n10001"));
  EXPECT_TRUE(run.state.clients.contains("n10002"));
}

TEST(KnownClients, AKnownOneForgetsNobody) {
  RoundDriver run = Crowded();
  run.Join("n10007");
  EXPECT_EQ(run.state.clients.size(), kMaxKnownClients);
  EXPECT_TRUE(run.state.clients.contains("n10001"));
}

TEST(KnownClients, WhoHasMergedRoundsOrATaskIsKept) {
  RoundDriver run = Crowded();
  run.state.clients["n10001"].rounds_merged = 1;
  run.Join("n10002");  // dispatches round 1 to it and to a
  ASSERT_THAT(run.state.cohort, ElementsAre("a", "n10002"));
  run.Leave("n10002");
  run.state.clients["n10002"].last_heard_ms = 2;
  run.Join("b");
  EXPECT_TRUE(run.state.clients.contains("n10001"));
  EXPECT_TRUE(run.state.clients.contains("n10002"));
  EXPECT_FALSE(run.state.clients.contains("n10003"));
}

TEST(RoundReport, TellsWhatEachDecisionWasMadeFrom) {
  RunOptions options = TinyOptions();
  options.participation.per_round = 2;
  RoundDriver run(options);
  const CapacityProfile profile{.up_bytes_per_s = 1e6, .examples = 10, .max_experts = 3};
  run.JoinWith("a", profile);
  run.Join("b", 1);
  run.Join("c", 1);
  UpdateReceived update = run.UpdateFor(run.TaskOf("a"));
  update.header.feedback.up_bytes_per_s = 2.0;  // one expert in time, from the next round on
  update.header.feedback.affinity = {0.1, 0.2, 0.3, 0.4};
  run.Apply(update);
  run.Update("b");
  run.Aggregate();
  run.Checkpoint();
  const RoundReport report = run.Last<Report>().report;
  EXPECT_EQ(report.connected_trainers, 2) << "c came when round 1 was under way";
  EXPECT_EQ(report.clients_per_round, 2);
  EXPECT_EQ(report.min_clients, 2);
  EXPECT_EQ(report.quorum, 0.5);
  ASSERT_EQ(report.clients.size(), 2u);
  EXPECT_EQ(report.clients[0].profile.up_bytes_per_s, 1e6);
  EXPECT_EQ(report.clients[0].capacity.experts, 3);
  EXPECT_EQ(run.state.clients["a"].capacity.experts, 1);
  EXPECT_THAT(report.clients[0].fitness, ElementsAre(0.25, 0.25, 0.25, 0.25));
  EXPECT_THAT(report.load.round_tokens, ElementsAre(20, 20, 20, 20));
  EXPECT_THAT(report.load.assignments, ElementsAre(1, 1, 1, 1));
  EXPECT_EQ(run.state.connected_trainers, 3);
  const auto again = std::find_if(run.state.selected.begin(), run.state.selected.end(),
                                  [](const ClientReport& client) { return client.client == "a"; });
  if (again != run.state.selected.end()) {
    EXPECT_THAT(again->fitness, ElementsAre(0.1, 0.2, 0.3, 0.4));
  }
}

}  // namespace
}  // namespace fedmoe
