// Global expert load: how much training each expert has had, and the bounds that follow for the
// next round.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fedmoe {

// What an expert's load is counted in.
enum class LoadUnit {
  kClients,  // "clients": each assignment counts the same
  kTokens,   // "tokens": an assignment counts as the tokens that the client will train it with
};

struct LoadOptions {
  LoadUnit unit = LoadUnit::kClients;
  double slack = 0.0;          // s in the bounds; 0 is the most even plan
  double average_beta = 0.3;   // of the moving average of tokens
  double deficit_limit = 2.0;  // D_e is clipped to +- this many assignments
};

// All vectors have one entry an expert; layer after layer.
struct ExpertLoad {
  std::vector<std::int64_t> assignments;        // over committed rounds
  std::vector<std::int64_t> round_assignments;  // of the last committed round
  std::vector<double> tokens;                   // trained, over committed rounds
  std::vector<double> round_tokens;
  std::vector<double> average_tokens;  // moving average
  std::vector<double> deficit;         // D_e

  static ExpertLoad Of(int experts);
};

struct LoadBounds {
  double target = 0.0;     // sum of k_c over experts
  std::vector<int> lower;  // L_e = max(0, floor((1 - s) target + D_e))
  std::vector<int> upper;  // U_e = ceil((1 + s) target + D_e), at least L_e, at least 0, at most
                           // the number of clients
};

// The same in units of weight, where clients weigh differently.
struct WeightedBounds {
  double target = 0.0;
  std::vector<double> lower;
  std::vector<double> upper;
};

// Of the experts of one layer, each of a client's k_c assignments weighing weight[c]:
// max(0, (1 - s) target + D_e w - h) and (1 + s) target + D_e w + h, where the target is
// sum_c k_c weight[c] over experts, w the mean weight of an assignment and h half of the greatest:
// no split is finer than a client.
WeightedBounds WeightedBoundsFor(const ExpertLoad& load, std::span<const int> capacity,
                                 std::span<const double> weight, const LoadOptions& options);

// Of the experts of one layer.
LoadBounds BoundsFor(const ExpertLoad& load, std::span<const int> capacity,
                     const LoadOptions& options);

// After a commit: adds the round's assignments and tokens and moves D_e <- clip(D_e + (target_e -
// actual_e)), where the target is the mean of e's layer. By tokens, actual_e is e's share of the
// layer's tokens, in assignments.
void RecordRound(ExpertLoad& load, std::span<const std::int64_t> assignments,
                 std::span<const double> tokens, const LoadOptions& options, int layers = 1);

// Standard deviation over mean (population); 0 where the mean is 0.
double CoefficientOfVariation(std::span<const double> values);
double CoefficientOfVariation(std::span<const std::int64_t> values);
// The CV of the most even integer split of `total` over `experts`.
double IntegerFloorCv(std::int64_t total, int experts);

}  // namespace fedmoe
