// The round machine: one pure function. No clock, no random source, no I/O, no thread, no log;
// tensor bytes never enter it.
//
//   selection -> (align, dispatch) -> reporting -> aggregating -> checkpointing -> publish, report
//   -> selection ...
//
// Its laws (each a named test in tests/federation/round_laws_test.cc) stand in docs/laws.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "federation/alignment_score.h"
#include "federation/round_events.h"
#include "federation/round_state.h"

namespace fedmoe {

// What becomes of a client that does not fit a single expert.
enum class TooSmallPolicy { kTrunkOnly, kReject };

struct ParticipationOptions {
  int per_round = 0;    // trainers drawn for a round; 0 for all that are connected
  int min_clients = 1;  // trainers that must be connected before a round starts
  double quorum = 0.8;  // share of a cell's clients that starts the grace; also of the cohort that
                        // a commit needs at least (0, 1]
  Milliseconds grace_ms = 5'000;
  Milliseconds deadline_ms = 600'000;          // from dispatch; 0 for none
  Milliseconds heartbeat_timeout_ms = 30'000;  // without a sign of life a client is lost
  int max_aborts = 3;  // consecutive aborted attempts of one round before the run fails
  TooSmallPolicy too_small = TooSmallPolicy::kTrunkOnly;
  // An expert whose only holder vanished goes to a client of the cohort that has reported. Never in
  // deterministic runs.
  bool reassign = true;
};

enum class EvaluationMode { kNone, kEvaluator, kClients, kBoth };

struct EvaluationOptions {
  EvaluationMode mode = EvaluationMode::kBoth;
  int every_rounds = 1;                // the last round is always evaluated
  Milliseconds deadline_ms = 120'000;  // from publication
};

struct RunOptions {
  std::uint64_t seed = 1;
  RoundNumber rounds = 10;
  // Every assigned client must report, or the attempt aborts.
  // Only declared capacity counts.
  bool deterministic = false;
  ParticipationOptions participation;
  AlignmentOptions alignment;
  FitnessOptions fitness;
  ScoreOptions score;
  TrainingOptions training;
  AggregationOptions aggregation;
  EvaluationOptions evaluation;
  ModelSpec spec;
};

struct StepResult {
  RoundState state;
  std::vector<Action> actions;
  // False if the event was of no consequence: it moved at most now_ms, and a replay without it
  // gives the same states and actions. An event that changed something must be journaled before its
  // actions are carried out.
  bool changed = false;
};

// Above this many known clients, disconnected ones that no round ever merged and that have no task
// are forgotten when another joins. A forgotten client may register again as a new one.
constexpr std::size_t kMaxKnownClients = 4096;

// Trainers and evaluators with a live session.
int ConnectedClients(const RoundState& state);

// The state of a new run whose version 0 consists of `shards`.
RoundState InitialState(const RunOptions& options, std::vector<Digest> shards);

// Total: every event in every state has a defined outcome. Time that seems to fall is taken as
// standing still.
StepResult Step(RoundState state, const Event& event, const RunOptions& options);

// What the shell must (again) do to go on from `state`: dispatch of the open tasks, the aggregation
// in hand (also where its checkpoint was in hand: the same shards again lead to WriteCheckpoint
// again), or the Finish of a completed run. For use after a restart: recover the state, carry out
// Outstanding(state), then Step(state, Resumed) and its actions. Resumed takes up a stopped or
// failed run again at the round that it had in hand; a completed run stays as it is.
std::vector<Action> Outstanding(const RoundState& state, const RunOptions& options);

// When a Tick can next have an effect, given no other event; -1 for never. So the shell sleeps no
// shorter and no longer.
Milliseconds NextTickMs(const RoundState& state, const RunOptions& options);

}  // namespace fedmoe
