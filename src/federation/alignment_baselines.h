// The strategies that need no solver. Each gives the experts of every client, ascending; the
// problem has been validated.
#pragma once

#include <cstdint>
#include <vector>

#include "common/counter_rng.h"
#include "federation/alignment.h"

namespace fedmoe {

using ExpertLists = std::vector<std::vector<ExpertIndex>>;

constexpr int kPreferenceBits = 20;

// A number of kPreferenceBits for the pair that depends on nothing but the seed and the pair: how
// pairs of equal fitness are told apart, so that clients without any feedback do not all choose the
// same experts.
class PairPreferences {
 public:
  PairPreferences(std::uint64_t seed, const ClientId& client)
      : begun_(KeyMixer(4).Add(seed).Add(KeyOf(client))), purpose_(KeyOf("alignment.ties")) {}
  std::int64_t Of(ExpertIndex expert) const {
    KeyMixer mixer = begun_;
    const std::uint64_t mixed = mixer.Add(static_cast<std::uint64_t>(expert)).Add(purpose_).key();
    return static_cast<std::int64_t>(mixed >> (64 - kPreferenceBits));
  }

 private:
  KeyMixer begun_;
  std::uint64_t purpose_;
};
std::int64_t PairPreference(std::uint64_t seed, const ClientId& client, ExpertIndex expert);

// All experts of the client at `index`, fittest first; ties by PairPreference (greatest first),
// then expert.
std::vector<ExpertIndex> FittestFirst(const AlignmentProblem& problem, int index);

// Whether FittestFirst has the expert among its first `count`. O(experts).
bool IsAmongFittest(const AlignmentProblem& problem, int index, ExpertIndex expert, int count);

ExpertLists AlignFull(const AlignmentProblem& problem);
ExpertLists AlignRandom(const AlignmentProblem& problem);
// Clients without a pinned list get the k_c least-pinned experts, ties at random by (seed, client);
// a list of another length than k_c grows by the least-pinned or shrinks by the most-pinned.
ExpertLists AlignStatic(const AlignmentProblem& problem, AlignmentMemory& memory);
// The clients' blocks of consecutive experts lie end to end on a ring that turns each round by a
// stride without common divisor with the number of experts: with an unchanged cohort every client
// starts at every expert once in any `experts` rounds.
ExpertLists AlignRoundRobin(const AlignmentProblem& problem);
ExpertLists AlignGreedy(const AlignmentProblem& problem);
// Client after client, the k_c experts with the fewest assignments so far, this round's included;
// ties at random.
ExpertLists AlignLoadOnly(const AlignmentProblem& problem);

}  // namespace fedmoe
