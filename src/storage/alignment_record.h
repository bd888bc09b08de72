// The alignment of a run as rounds.jsonl has it: what each plan was made from, what it was, and
// what became of it.
#pragma once

#include <string>
#include <vector>

#include "common/file_system.h"
#include "common/result.h"
#include "federation/alignment.h"
#include "federation/alignment_score.h"
#include "federation/round_machine.h"

namespace fedmoe {

struct RecordedClient {
  ClientId client;
  int capacity = 0;             // k_c
  std::string capacity_reason;  // CapacityReasonName
  CapacityProfile profile;      // without `device`
  double round_s = 0.0;         // predicted; 0 not known
  std::vector<double> fitness;  // by expert
  std::vector<double> bonus;    // by expert; empty where there was none
  std::vector<double> movement;
  std::vector<ExpertIndex> held;  // of its last committed round, when the plan was made
  std::vector<ExpertIndex> experts;
  std::string outcome;  // "accepted", ...
};

struct RecordedRound {
  RoundNumber round = 0;
  std::vector<RecordedClient> clients;  // sorted
  ExpertLoad load;                      // with this round
  double cumulative_cv = 0.0;
  // Its assignments have the fitness part; their reasons stand in assignments.csv and are not read.
  AlignmentPlan plan;
};

// By round. Errors are INVALID_ARGUMENT and name the line and field, NOT_FOUND where there is no
// rounds.jsonl, FAILED_PRECONDITION where rounds are missing or the run is another model's than
// `options`. A torn last line is left out, as the run does when it is opened again.
Result<std::vector<RecordedRound>> ReadRecordedRounds(FileSystem& files,
                                                      const std::string& directory,
                                                      const RunOptions& options);

// clients x experts, as recorded.
ScoreMatrix RecordedScore(const RecordedRound& round, int experts);

// What rounds[index] was planned from, but for the score and the load history, which are the
// caller's. Weights are predicted as the run does where options.alignment.load.unit asks for it.
AlignmentProblem RecordedProblem(const RecordedRound& round, const ScoreMatrix& score,
                                 const ExpertLoad& load, const RunOptions& options);

// The load history before rounds[index].
ExpertLoad LoadBefore(const std::vector<RecordedRound>& rounds, std::size_t index, int experts);

}  // namespace fedmoe
