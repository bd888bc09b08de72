// What alignment maximises, pair by pair: fitness, plus a bonus for what is not known yet, less the
// cost of moving the expert to the client. The parts stay apart, so that a plan can be explained.
#pragma once

#include <Eigen/Core>
#include <vector>

#include "common/ids.h"
#include "federation/alignment.h"
#include "federation/fitness.h"

namespace fedmoe {

enum class ExplorationStrategy {
  kNone,        // "none"
  kAge,         // "age": by the rounds since the client last had the expert
  kUcb,         // "ucb": upper confidence bound of each pair by itself
  kContextual,  // "contextual": the same, on what clients with like data have told (LinUCB)
};

struct ExplorationOptions {
  ExplorationStrategy strategy = ExplorationStrategy::kNone;
  double bonus = 0.0;  // in units of fitness, at least 0
};

enum class MovementCost {
  kSeconds,  // "seconds": of the download over the client's link, as a share of the round
  kBytes,    // "bytes": of the expert, over the mean of all: 1 where experts are of one size
};

struct MovementOptions {
  MovementCost cost = MovementCost::kSeconds;
  double weight = 0.0;  // in units of fitness, at least 0
};

struct ScoreOptions {
  ExplorationOptions exploration;
  MovementOptions movement;
};

struct ScoreClient {
  ClientId client;
  std::vector<ExpertIndex> held;  // in its last committed task: it has them, at some version
  double down_bytes_per_s = 0.0;  // 0 not known
  double round_s = 0.0;           // predicted for its capacity; 0 not known
};

struct ScoreProblem {
  std::vector<ScoreClient> clients;  // sorted
  std::vector<double> expert_bytes;  // an entry an expert
  Milliseconds deadline_ms = 0;      // of the round; 0 for none
  RoundNumber round = 1;             // to be planned
};

// clients x experts each; `bonus` and `movement` are 0 x 0 where the option is off.
struct ScoreMatrix {
  Eigen::MatrixXd fitness;
  Eigen::MatrixXd bonus;
  Eigen::MatrixXd movement;  // cost, at least 0

  // fitness + bonus - movement.
  Eigen::MatrixXd Total() const;
};

// With n_ce the trials of the pair as discounted to this round, N_c their sum over the layer, v_ce
// the variance of PredictFitness, b the bonus and w the weight:
//
//   bonus     age         b log(1 + rounds since the client last had e)
//             ucb         b sqrt(log(1 + N_c) / (1 + n_ce))    (UCB1, Auer et al. 2002, a prior
//                         count of 1; with trial_discount below 1 the discounted form, Garivier and
//                         Moulines, arXiv 0805.3415)
//             contextual  b sqrt(log(1 + N_c) (v_ce + 1/4) / (1 + n_ce))    (LinUCB plus a pair's
//                         own part), and the loss or accuracy part of fitness moves towards
//                         PredictFitness by 1 / (1 + n_ce), all the way for a pair without a signal
//   movement  seconds     w min(1, bytes_e / down_c / T): T the deadline or, without one, the
//   median
//                         of the cohort's predicted rounds; 0 where the link or T is not known
//             bytes       w bytes_e / mean bytes
//             and 0 for experts that the client holds
//
// With FitnessClaims::kBounded the bonus of a client in a layer is multiplied by
//
//   min(1, 2 s_c / median of the cohort's s),   s_c the standard deviation of its fitness there
//
// (by 1 where the median is 0): to whom all experts are alike, none is worth a trial. Otherwise a
// client that claims the best of everything would explore for ever, and push others off their
// experts. No claim raises the bonus; the cost of movement is at most w whatever link is claimed.
// Fitness is as FitnessOf has it. Deterministic.
ScoreMatrix BuildScore(const FitnessTable& table, const ScoreProblem& problem,
                       const FitnessOptions& fitness, const ScoreOptions& options);

// Makes a plan for Total() tell its parts: every assignment's `fitness` becomes the fitness part,
// and one with reason kFitness that would not be among the client's k_c best of its layer without
// the bonus becomes kExplored. The objective stays the sum of Total().
void ExplainPlan(const ScoreMatrix& score, int layers, AlignmentPlan& plan);

}  // namespace fedmoe
