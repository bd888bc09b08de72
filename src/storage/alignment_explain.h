// Why a client of a recorded round has an expert, or has not.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/result.h"
#include "storage/alignment_record.h"

namespace fedmoe {

// What one client would give up and get if the plan had to be another in one pair.
struct ExchangeStep {
  ClientId client;
  std::vector<ExpertIndex> gives_up;
  std::vector<ExpertIndex> takes;
  double change = 0.0;  // of its score
};

// The best plan in which a pair is the other way round, beside the plan that was made.
struct Exchange {
  bool possible = false;  // else capacity and bounds leave no such plan
  double cost = 0.0;      // by which the objective is smaller
  std::vector<ExchangeStep> steps;
};

struct PairExplanation {
  ExpertIndex expert = 0;
  bool assigned = false;
  AssignmentReason reason = AssignmentReason::kFitness;  // of an assigned one
  // score = fitness + bonus - movement.
  double fitness = 0.0;
  double bonus = 0.0;
  double movement = 0.0;
  double score = 0.0;
  int rank = 1;        // of the score among the client's experts of the layer, from 1
  double price = 0.0;  // that the client pays: the expert's, times the client's weight
  // Balanced and greedy, where the client has some of the layer's experts but not all: the score
  // less price that decides. For an assigned expert the best of those that the client has not; for
  // another the least of those that it has.
  std::optional<double> threshold;
  ExpertIndex rival = 0;             // whose score less price the threshold is
  std::optional<Exchange> exchange;  // balanced by clients, where asked for

  // By how much score less price is on the right side of the threshold; below 0: on the wrong one.
  double Margin() const {
    const double reduced = score - price;
    return assigned ? reduced - *threshold : *threshold - reduced;
  }
};

struct ClientExplanation {
  ClientId client;
  int capacity = 0;
  std::string capacity_reason;
  std::string outcome;
  double weight = 1.0;  // in loads by tokens
  std::vector<ExpertIndex> held;
  std::vector<ExpertIndex> experts;
  std::vector<PairExplanation> pairs;  // by expert; those asked for
};

struct ExpertExplanation {
  ExpertIndex expert = 0;
  double price = 0.0;
  double load = 0.0;  // clients, or predicted tokens under loads by tokens
  std::optional<double> lower;
  std::optional<double> upper;
  double deficit = 0.0;          // before the round
  std::int64_t assignments = 0;  // before the round
  // Of the clients that have it the one with the least margin, of the others the nearest.
  std::optional<std::pair<ClientId, double>> last_in;
  std::optional<std::pair<ClientId, double>> first_out;
};

struct RoundExplanation {
  RoundNumber round = 0;
  int layers = 1;
  AlignmentPlan plan;  // as recorded
  bool by_tokens = false;
  bool reproduced = false;  // this build aligns the round as it was aligned
  std::vector<ExpertExplanation> experts;
  std::vector<ClientExplanation> clients;
};

struct ExplainRequest {
  RoundNumber round = 1;
  std::optional<ClientId> client;  // none: all
  std::optional<ExpertIndex> expert;
  bool exchanges = true;  // for the pairs of one client; each takes a solve
};

// `options` are those of the run. NOT_FOUND, naming what there is, for a round, client or expert
// that is not there.
Result<RoundExplanation> ExplainRound(const std::vector<RecordedRound>& rounds,
                                      const RunOptions& options, const ExplainRequest& request);

}  // namespace fedmoe
