// A seeded random fleet against the round machine: joins, leaves, silence, duplicates, bad and late
// updates, returned tasks, failing checkpoints, crashes. Invariants hold after every step, a replay
// of the journal gives the live state, and once the world calms down the run ends.
#include <algorithm>
#include <set>

#include <gtest/gtest.h>

#include "common/counter_rng.h"
#include "tests/federation/round_driver.h"

namespace fedmoe {
namespace {

constexpr int kSeeds = 400;
constexpr int kChaosSteps = 250;
constexpr int kCalmSteps = 3'000;
constexpr int kClients = 5;

RunOptions RandomOptions(CounterRng& rng) {
  // One model in eight is dense, and some have two MoE layers.
  const int experts = rng.NextBelow(8) == 0 ? 0 : 1 + static_cast<int>(rng.NextBelow(6));
  const int layers = experts % 2 == 0 && rng.NextBelow(2) == 0 ? 2 : 1;
  RunOptions options = TinyOptions(experts, experts > 0 ? layers : 0);
  options.seed = rng.NextU64();
  options.rounds = 1 + static_cast<RoundNumber>(rng.NextBelow(6));
  options.deterministic = rng.NextBelow(5) == 0;
  ParticipationOptions& participation = options.participation;
  participation.min_clients = 1 + static_cast<int>(rng.NextBelow(3));
  participation.per_round = static_cast<int>(rng.NextBelow(5));
  participation.quorum = 0.1 + 0.9 * rng.NextUniform();
  participation.grace_ms = static_cast<Milliseconds>(rng.NextBelow(10'000));
  participation.max_aborts = rng.NextBelow(4) == 0 ? 3 : 1'000'000;
  options.evaluation.mode = static_cast<EvaluationMode>(rng.NextBelow(4));
  options.evaluation.every_rounds = 1 + static_cast<int>(rng.NextBelow(3));
  options.alignment.strategy = static_cast<AlignmentStrategy>(rng.NextBelow(8));
  options.alignment.load.slack = rng.NextUniform();
  participation.reassign = rng.NextBelow(4) != 0;
  return options;
}

class World {
 public:
  explicit World(std::uint64_t seed)
      : rng_(MixKey({seed, 0x5eed})), run_(RandomOptions(rng_)), snapshot_(run_.state) {
    text_ = DebugString(run_.state);
  }

  void Chaos() {
    for (int i = 0; i < kChaosSteps; ++i) RandomStep();
  }

  // Everybody is there, honest and quick; the disk works.
  void Calm() {
    for (int i = 0; i < kCalmSteps && run_.state.phase != Phase::kFinished; ++i) {
      for (int c = 0; c <= kClients; ++c) {
        const auto client = run_.state.clients.find(NameOf(c));
        if (client == run_.state.clients.end() || !client->second.connected) Join(c);
      }
      for (const TaskAssignment& task : OpenTasks()) Answer(task);
      ShellWorks();
      now_ms_ += 2'000;
      Apply(Tick{.at_ms = now_ms_});
    }
    EXPECT_EQ(run_.state.phase, Phase::kFinished) << "no progress: " << text_;
    EXPECT_EQ(reported_, run_.state.version) << "every committed round has its report";
    if (run_.state.status == RunStatus::kCompleted) {
      EXPECT_EQ(run_.state.version, run_.options.rounds);
    }
  }

  int commits() const { return static_cast<int>(run_.state.version); }
  int aborts() const { return aborts_; }
  int crashes() const { return crashes_; }
  int seconds_merged() const { return seconds_merged_; }

 private:
  static ClientId NameOf(int client) {
    return client == kClients ? "evaluator" : "c" + std::to_string(client);
  }
  bool Chance(int percent) { return rng_.NextBelow(100) < static_cast<std::uint64_t>(percent); }
  int AnyClient() { return static_cast<int>(rng_.NextBelow(kClients + 1)); }
  std::uint64_t SessionOf(const ClientId& client) {
    const auto found = run_.state.clients.find(client);
    return found == run_.state.clients.end() ? 0 : found->second.session;
  }

  void Join(int client, bool other_instance = false) {
    ClientJoined event;
    event.at_ms = now_ms_;
    event.client = NameOf(client);
    event.role = client == kClients ? ClientRole::kEvaluator : ClientRole::kTrainer;
    event.instance = other_instance ? "other" : "1";
    const auto known = run_.state.clients.find(event.client);
    if (!other_instance && known != run_.state.clients.end()) {
      event.instance = known->second.instance;
    }
    event.profile.max_experts = 1 + client % 3;
    Apply(event);
  }

  std::vector<TaskAssignment> OpenTasks() const {
    std::vector<TaskAssignment> open;
    for (const Action& action : Outstanding(run_.state, run_.options)) {
      if (const auto* dispatch = std::get_if<Dispatch>(&action)) open = dispatch->tasks;
    }
    return open;
  }

  void Answer(const TaskAssignment& task, Verdict content = {}) {
    if (task.kind == TaskKind::kEvaluate) {
      Apply(EvaluationReceived{.at_ms = now_ms_,
                               .task = task.task,
                               .client = task.client,
                               .correct = 10.0 * rng_.NextUniform(),
                               .loss = rng_.NextUniform(),
                               .examples = Chance(95) ? 10.0 : -1.0});
      return;
    }
    UpdateReceived event = run_.UpdateFor(task, std::move(content));
    event.at_ms = now_ms_;
    event.header.feedback.train_loss = rng_.NextUniform();
    event.header.feedback.examples = static_cast<std::int64_t>(rng_.NextBelow(50));
    for (double& tokens : event.header.feedback.tokens) {
      if (event.header.feedback.examples == 0 || Chance(10)) tokens = 0.0;
    }
    Apply(event);
  }

  // What the shell was asked for and has not done yet.
  void ShellWorks(bool fails = false) {
    if (aggregate_) {
      const Aggregate action = *aggregate_;
      aggregate_.reset();
      Apply(Aggregated{
          .at_ms = now_ms_, .round = action.round, .shards = Merge(run_.state.shards, action)});
    } else if (checkpoint_ != 0) {
      const RoundNumber round = checkpoint_;
      checkpoint_ = 0;
      if (fails) {
        Apply(CheckpointFailed{.at_ms = now_ms_, .round = round, .error = "no space"});
      } else {
        Apply(CheckpointWritten{.at_ms = now_ms_, .round = round});
      }
    }
  }

  void RandomStep() {
    now_ms_ += static_cast<Milliseconds>(rng_.NextBelow(800));
    const int client = AnyClient();
    const std::uint64_t session = SessionOf(NameOf(client));
    switch (rng_.NextBelow(16)) {
      case 0:
      case 1:
        return Join(client, Chance(10));
      case 2:
        if (Chance(70)) return;
        return Apply(ClientLeft{
            .at_ms = now_ms_, .client = NameOf(client), .session = session - (Chance(20) ? 1 : 0)});
      case 3:
      case 4:
      case 5:
        return Apply(Heartbeat{.at_ms = now_ms_, .client = NameOf(client), .session = session});
      case 6:
      case 7:
        return RandomTick();
      case 8:
      case 9:
        return RandomUpdate();
      case 10:
      case 11:
        return AnswerOpenTask();
      case 12:
      case 13:
        return ShellWorks(Chance(5));
      case 14:
        if (Chance(95)) return Crash();
        if (Chance(90)) return;
        return Apply(StopRequested{.at_ms = now_ms_, .drain = Chance(70)});
      default:
        if (Chance(90) || dispatched_.empty()) return;
        const TaskAssignment task = AnyTask();
        return Apply(
            TaskReturned{.at_ms = now_ms_, .task = task.task, .client = task.client, .why = "x"});
    }
  }

  TaskAssignment AnyTask() {
    auto task = dispatched_.begin();
    std::advance(task, static_cast<std::ptrdiff_t>(rng_.NextBelow(dispatched_.size())));
    return task->second;
  }

  // Of any task that ever was, so mostly late, duplicate or foreign.
  void RandomUpdate() {
    TaskAssignment task;
    task.task = rng_.NextBelow(1'000);
    task.client = NameOf(AnyClient());
    if (!dispatched_.empty() && Chance(90)) task = AnyTask();
    if (task.kind == TaskKind::kEvaluate) return Answer(task);
    if (Chance(10)) task.client = NameOf(AnyClient());
    const bool bad = Chance(20);
    Answer(task, bad ? Verdict{RejectReason::kBadChecksum, "block 0"} : Verdict{});
  }

  void AnswerOpenTask() {
    const std::vector<TaskAssignment> open = OpenTasks();
    if (!open.empty()) Answer(open[rng_.NextBelow(open.size())]);
  }

  // A Tick before NextTickMs has no effect.
  void RandomTick() {
    if (Chance(20)) now_ms_ += static_cast<Milliseconds>(rng_.NextBelow(30'000));
    const Milliseconds next_ms = NextTickMs(run_.state, run_.options);
    const bool early = next_ms < 0 || now_ms_ < next_ms;
    Apply(Tick{.at_ms = now_ms_});
    EXPECT_EQ(changed_, !early) << "next tick at " << next_ms << ", now " << now_ms_;
  }

  // The coordinator dies: state from the journal, the shell's work in hand is gone.
  void Crash() {
    ++crashes_;
    RoundState recovered = snapshot_;
    for (const Event& event : journal_) {
      recovered = Step(std::move(recovered), event, run_.options).state;
    }
    ASSERT_EQ(DebugString(recovered), text_);
    run_.state = std::move(recovered);
    aggregate_.reset();
    checkpoint_ = 0;
    const std::vector<Action> outstanding = Outstanding(run_.state, run_.options);
    for (const Action& action : outstanding) Carry(action);
    if (Chance(50)) now_ms_ += 100'000;
    Apply(Resumed{.at_ms = now_ms_});
  }

  void Apply(const Event& event) {
    if (::testing::Test::HasFatalFailure()) return;
    const bool was_finished = run_.state.phase == Phase::kFinished;
    const ModelVersion before = run_.state.version;
    run_.Apply(event);
    run_.history.clear();
    changed_ = run_.changed;
    std::string text = DebugString(run_.state);
    if (run_.changed) {
      journal_.push_back(event);
    } else {
      ASSERT_EQ(text, text_) << "an event said to be of no consequence changed the state";
    }
    text_ = std::move(text);
    published_ = 0;
    for (const Action& action : run_.actions) {
      Check(action);
      Carry(action);
    }
    const bool written = std::holds_alternative<CheckpointWritten>(event);
    ASSERT_EQ(run_.state.version - before, written && published_ != 0 ? 1 : 0);
    if (published_ != 0) {
      ASSERT_EQ(published_, before + 1);
    }
    if (was_finished && !std::holds_alternative<Resumed>(event)) {
      for (const Action& action : run_.actions) {
        const auto* accept = std::get_if<AcceptUpdate>(&action);
        // Of a completed run whoever asks is told, and for that admitted.
        const bool told = std::holds_alternative<AdmitClient>(action) &&
                          run_.state.status == RunStatus::kCompleted;
        ASSERT_TRUE(told || std::holds_alternative<RejectUpdate>(action) ||
                    std::holds_alternative<TurnAwayClient>(action) ||
                    (accept != nullptr && accept->duplicate))
            << ToText(action);
      }
    }
    if (Chance(2)) {
      snapshot_ = run_.state;
      journal_.clear();
    }
  }

  void Check(const Action& action) {
    if (const auto* accept = std::get_if<AcceptUpdate>(&action)) {
      ASSERT_TRUE(dispatched_.contains(accept->task)) << accept->task;
      ASSERT_EQ(dispatched_.at(accept->task).client, accept->client);
      if (!accept->duplicate) {
        ASSERT_TRUE(accepted_.insert(accept->task).second);
      }
    } else if (const auto* reject = std::get_if<RejectUpdate>(&action)) {
      ASSERT_NE(reject->verdict.reason, RejectReason::kNone);
      ASSERT_FALSE(reject->verdict.detail.empty());
      ASSERT_TRUE(dispatched_.contains(reject->task) ||
                  reject->verdict.reason == RejectReason::kUnknownTask);
    } else if (const auto* cancel = std::get_if<CancelTasks>(&action)) {
      for (const TaskId task : cancel->tasks) ASSERT_TRUE(dispatched_.contains(task)) << task;
    } else if (const auto* merge = std::get_if<Aggregate>(&action)) {
      const std::set<TaskId> merged(merge->plan.updates.begin(), merge->plan.updates.end());
      ASSERT_EQ(merged.size(), merge->plan.updates.size());
      ASSERT_EQ(merged, accepted_) << "an accepted update is lost, or one too many";
      ASSERT_EQ(merge->base_version, run_.state.version);
      CheckTrunk(merge->plan);
    } else if (const auto* report = std::get_if<Report>(&action)) {
      ASSERT_EQ(report->report.round, reported_ + 1) << "reports come in round order";
      ASSERT_LE(report->report.round, run_.state.version);
    } else if (std::holds_alternative<Finish>(action)) {
      ASSERT_EQ(run_.state.phase, Phase::kFinished);
      ASSERT_TRUE(OpenTasks().empty());
    }
  }

  // No client's trunk counts twice, and a second task's never.
  void CheckTrunk(const AggregationPlan& plan) {
    const std::vector<double>& weights = plan.blocks.at(0).weights;
    std::set<ClientId> counted;
    for (std::size_t i = 0; i < plan.updates.size(); ++i) {
      const TaskAssignment& task = dispatched_.at(plan.updates[i]);
      if (task.follows != 0) ++seconds_merged_;
      if (!(weights[i] > 0.0)) continue;
      ASSERT_EQ(task.follows, 0U);
      ASSERT_TRUE(counted.insert(task.client).second) << task.client;
    }
  }

  // Nobody gets an expert twice in an attempt, and a second task only after its first.
  void CheckSecond(const TaskAssignment& task) {
    ASSERT_TRUE(accepted_.contains(task.follows)) << TaskText(task);
    ASSERT_TRUE(run_.options.participation.reassign && !run_.options.deterministic);
    for (const auto& [id, other] : run_.state.tasks) {
      if (id >= task.task || other.assignment.client != task.client) continue;
      ASSERT_NE(other.status, TaskStatus::kOpen) << TaskText(task);
      for (const ExpertIndex expert : other.assignment.experts) {
        ASSERT_EQ(std::count(task.experts.begin(), task.experts.end(), expert), 0)
            << TaskText(task);
      }
    }
  }

  // The shell's side of an action.
  void Carry(const Action& action) {
    if (const auto* dispatch = std::get_if<Dispatch>(&action)) {
      for (const TaskAssignment& task : dispatch->tasks) {
        const auto [known, fresh] = dispatched_.emplace(task.task, task);
        ASSERT_TRUE(fresh || TaskText(known->second) == TaskText(task)) << TaskText(task);
        if (fresh && task.follows != 0) CheckSecond(task);
        if (fresh && task.kind == TaskKind::kTrain && task.round != train_round_) {
          train_round_ = task.round;
          accepted_.clear();
        }
      }
    } else if (const auto* merge = std::get_if<Aggregate>(&action)) {
      aggregate_ = *merge;
    } else if (const auto* write = std::get_if<WriteCheckpoint>(&action)) {
      checkpoint_ = write->round;
    } else if (const auto* publish = std::get_if<PublishModel>(&action)) {
      published_ = publish->version;
      accepted_.clear();
    } else if (std::holds_alternative<AbortRound>(action)) {
      ++aborts_;
      aggregate_.reset();
      checkpoint_ = 0;
      accepted_.clear();
    } else if (const auto* report = std::get_if<Report>(&action)) {
      reported_ = report->report.round;
    }
  }

  CounterRng rng_;
  RoundDriver run_;
  RoundState snapshot_;
  std::vector<Event> journal_;  // since the snapshot
  std::string text_;            // of the state
  Milliseconds now_ms_ = 0;
  bool changed_ = false;
  std::map<TaskId, TaskAssignment> dispatched_;
  std::set<TaskId> accepted_;  // of the attempt in hand
  RoundNumber train_round_ = 0;
  std::optional<Aggregate> aggregate_;
  RoundNumber checkpoint_ = 0;
  ModelVersion published_ = 0;
  RoundNumber reported_ = 0;
  int aborts_ = 0;
  int crashes_ = 0;
  int seconds_merged_ = 0;
};

TEST(RandomRounds, KeepTheirInvariantsUnderChaosAndEndInCalm) {
  int commits = 0;
  int aborts = 0;
  int crashes = 0;
  int seconds = 0;
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    World world(seed);
    world.Chaos();
    world.Calm();
    commits += world.commits();
    aborts += world.aborts();
    crashes += world.crashes();
    seconds += world.seconds_merged();
    if (HasFailure()) break;
  }
  // The fleet must really have gone through all of it.
  EXPECT_GT(commits, kSeeds);
  EXPECT_GT(aborts, kSeeds / 4);
  EXPECT_GT(crashes, kSeeds);
  EXPECT_GT(seconds, 0);
}

}  // namespace
}  // namespace fedmoe
