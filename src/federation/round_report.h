// What one round did: the line of rounds.jsonl, the row of the live table, the answer of Status.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "federation/alignment.h"
#include "federation/capacity.h"
#include "federation/expert_load.h"
#include "federation/update.h"

namespace fedmoe {

// How an expert (or the trunk) stands within a round.
enum class CellState {
  kOpen,        // still waited for
  kUnassigned,  // no client has it
  kComplete,    // every client reported
  kGrace,       // quorum reported and the grace passed
  kDeadline,    // the round's deadline passed
  kAbandoned,   // nobody is left who could report
};
const char* CellStateName(CellState state);

enum class AbortReason {
  kTooFewUpdates,  // at the deadline, or when nobody was left
  kIncomplete,     // deterministic runs: an assigned client did not report
  kAggregationFailed,
  kCheckpointFailed,
  kRunStopped,
};
const char* AbortReasonName(AbortReason reason);

struct ClientReport {
  ClientId client;
  CapacityProfile profile;    // as the decision used it
  CapacityDecision capacity;  // at dispatch
  // By expert, as the plan used it: it maximises fitness + bonus - movement.
  std::vector<double> fitness;
  std::vector<double> bonus;      // of exploration; empty without
  std::vector<double> movement;   // cost; empty without
  std::vector<ExpertIndex> held;  // of its last committed round, when the plan was made
  std::vector<ExpertIndex> experts;
  // "accepted", "lost", "expired", or a RejectReason's name.
  std::string outcome;
  std::int64_t examples = 0;
  double train_loss = 0.0;
  double train_s = 0.0;
};

// A metric that is a number, or null with a reason.
struct Metric {
  std::optional<double> value;
  // Why there is no value: "not_configured", "not_due", "local_gate", "no_evaluator",
  // "evaluator_lost", "no_clients", "clients_lost", "timed_out", "bad_result", "run_over".
  std::string reason;
};

// An expert whose only holder vanished, given to another client in the same round.
struct Reassignment {
  ExpertIndex expert = 0;
  ClientId from;
  ClientId to;
  std::string outcome;  // of the second task, as ClientReport's
};

struct RoundReport {
  RoundNumber round = 0;
  int attempts = 1;
  Milliseconds started_ms = 0;
  Milliseconds committed_ms = 0;
  double seconds = 0.0;                  // dispatch to commit
  int connected_trainers = 0;            // when the attempt that was committed began
  int clients_per_round = 0;             // as configured; 0 for all
  int min_clients = 0;                   // as configured
  double quorum = 0.0;                   // as configured
  std::vector<ClientId> sat_out;         // rejected in an earlier attempt, so left out of this one
  std::vector<ClientReport> clients;     // by client id
  int accepted = 0;                      // clients whose update counts
  std::map<std::string, int> rejected;   // by RejectReason name
  std::vector<CellState> cells;          // trunk, then experts
  std::vector<Reassignment> reassigned;  // by task, then expert
  double train_loss = 0.0;               // over accepted updates, weighted by examples
  ExpertLoad load;                       // with this round
  double load_cv = 0.0;                  // of this round's assignments
  double load_cv_floor = 0.0;
  double cumulative_load_cv = 0.0;  // of assignments over all committed rounds
  double client_expert_information =
      0.0;                 // nats; tells domains (about 0.4) from label skew (about 0.01)
  double consensus = 0.0;  // share of the way that experts were moved towards their mean
  AlignmentPlan plan;      // clients index into `cohort`
  std::vector<ClientId> cohort;
  Metric global_accuracy;  // 0 to 1
  Metric global_loss;      // nats
  Metric personalised_accuracy;
  Metric personalised_loss;
  // Counted by the shell over the time between two reports; 0 in the pure core.
  std::uint64_t bytes_down = 0;
  std::uint64_t bytes_up = 0;
  Digest model_digest;
};

}  // namespace fedmoe
