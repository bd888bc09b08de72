#include "federation/participation.h"

#include <algorithm>
#include <cstddef>

namespace fedmoe {
namespace {

void Count(ParticipationGap& gap, bool took_part, int cutoff) {
  ++gap.since;
  if (!took_part && gap.since < cutoff) return;
  gap.mean = (gap.mean * gap.gaps + gap.since) / (gap.gaps + 1);
  ++gap.gaps;
  gap.since = 0;
}

double MeanAt(const ParticipationTable& table, const ClientId& client, std::size_t cell) {
  const auto row = table.rows.find(client);
  return row == table.rows.end() || cell >= row->second.size() ? 1.0 : row->second[cell].mean;
}

}  // namespace

double ParticipationTable::Trunk(const ClientId& client) const { return MeanAt(*this, client, 0); }

double ParticipationTable::Expert(const ClientId& client, ExpertIndex expert) const {
  return MeanAt(*this, client, static_cast<std::size_t>(expert) + 1);
}

void RecordParticipation(ParticipationTable& table, std::span<const ClientId> clients,
                         const std::map<ClientId, std::vector<ExpertIndex>>& trained, int experts,
                         int cutoff) {
  for (const ClientId& client : clients) {
    std::vector<ParticipationGap>& row = table.rows[client];
    row.resize(static_cast<std::size_t>(experts) + 1);
    const auto found = trained.find(client);
    Count(row[0], found != trained.end(), cutoff);
    for (ExpertIndex e = 0; e < experts; ++e) {
      const bool took_part =
          found != trained.end() &&
          std::find(found->second.begin(), found->second.end(), e) != found->second.end();
      Count(row[static_cast<std::size_t>(e) + 1], took_part, cutoff);
    }
  }
}

}  // namespace fedmoe
