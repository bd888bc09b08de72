// How seldom each client takes part, for weighting those up who are rarely heard: FedAU.
#pragma once

#include <map>
#include <span>
#include <vector>

#include "common/ids.h"

namespace fedmoe {

// Rounds from one participation to the next.
struct ParticipationGap {
  int since = 0;      // rounds since the last gap ended, the present one not counted
  int gaps = 0;       // ended so far
  double mean = 1.0;  // of them; 1 before the first has ended
};

// By client: the trunk, then each expert. Clients join with their first round.
struct ParticipationTable {
  std::map<ClientId, std::vector<ParticipationGap>> rows;

  // The weight of what the client trained in the round that is being merged; 1 for one not known.
  double Trunk(const ClientId& client) const;
  double Expert(const ClientId& client, ExpertIndex expert) const;
};

// After a round: `clients` are all that are registered as trainers, `trained` holds, for those
// whose update was merged, the experts with tokens. A gap ends when its client takes part, or after
// `cutoff` rounds, so that clients that have gone for good do not count ever more. The weights of a
// round are normalised afterwards, which the paper's are not: the step keeps its size when few take
// part, at the price of a part of the correction. (FedAU, Wang and Ji, arXiv 2306.03401, Algorithm
// 2, there for whole models.)
void RecordParticipation(ParticipationTable& table, std::span<const ClientId> clients,
                         const std::map<ClientId, std::vector<ExpertIndex>>& trained, int experts,
                         int cutoff);

}  // namespace fedmoe
