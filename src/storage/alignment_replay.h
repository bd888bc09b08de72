// "What if": a run's rounds aligned again by another strategy.
#pragma once

#include <cstdint>
#include <vector>

#include "common/result.h"
#include "storage/alignment_record.h"

namespace fedmoe {

// Of one round, or of several together.
struct ReplayFigures {
  int rounds = 0;
  std::int64_t assignments = 0;
  double objective = 0.0;  // sum of the score
  double fitness = 0.0;    // sum of the score's fitness part
  double bound = 0.0;      // of the objective, under the strategy's own rules
  // The sum of the score if each client had its best experts, as many as it has in each layer.
  double greatest = 0.0;
  double cumulative_cv = 0.0;  // of assignments over the rounds so far; of several rounds the last
  double coverage = 0.0;       // of several rounds the mean
  std::int64_t keepable = 0;   // experts that clients could have kept from their last participation
  std::int64_t kept = 0;       // that they did keep
  std::int64_t moved = 0;      // experts that a client did not hold
  double moved_bytes = 0.0;
  int relaxed = 0;  // clients that the bounds were widened by; of several rounds the most
};

struct ReplayedRound {
  RoundNumber round = 0;
  int clients = 0;
  AlignmentPlan plan;  // clients index into the recorded round's
  ExpertLoad load;     // with this round
  ReplayFigures would;
  ReplayFigures did;
  bool same = false;  // each client has the experts that it had
};

struct Replay {
  std::vector<ReplayedRound> rounds;
  ReplayFigures would;  // over all rounds
  ReplayFigures did;
};

// Aligns every recorded round by options.alignment, options.seed and options.score.movement, in
// order, with the strategy's own memory, load history and held experts carried along. Cohorts,
// capacities, fitness, exploration bonuses and outcomes are those of the run: what training would
// have made of another plan is not known. A client's update counts as accepted if the run accepted
// it; an expert's load then counts each accepted client, but for an expert that the same clients
// trained in the run, for which it counts those that had tokens, as the run did. With the run's own
// options the plans and loads are therefore exactly the run's.
//
// FAILED_PRECONDITION, naming the round, for bounds that cannot be met and may not be relaxed.
Result<Replay> ReplayAlignment(const std::vector<RecordedRound>& rounds, const RunOptions& options);

// What alignment kept in mind before rounds[index], had it always been done by options.alignment on
// the recorded load history; its prices are the recorded ones.
Result<AlignmentMemory> MemoryBefore(const std::vector<RecordedRound>& rounds, std::size_t index,
                                     const RunOptions& options);

}  // namespace fedmoe
