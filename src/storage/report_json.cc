#include <nlohmann/json.hpp>

#include "storage/state_json.h"

namespace fedmoe {
namespace {

using Json = nlohmann::ordered_json;

Json ValueOrNull(const Metric& metric) { return metric.value ? Json(*metric.value) : Json(); }

Json ReasonOrNull(const Metric& metric) { return metric.value ? Json() : Json(metric.reason); }

Json ProfileJson(const CapacityProfile& profile) {
  return {{"memory_bytes", profile.memory_bytes},
          {"compute_flops_per_s", profile.compute_flops_per_s},
          {"down_bytes_per_s", profile.down_bytes_per_s},
          {"up_bytes_per_s", profile.up_bytes_per_s},
          {"examples", profile.examples},
          {"max_experts", profile.max_experts}};
}

Json LoadJson(const ExpertLoad& load) {
  return {{"round_assignments", load.round_assignments},
          {"round_tokens", load.round_tokens},
          {"assignments", load.assignments},
          {"tokens", load.tokens},
          {"average_tokens", load.average_tokens},
          {"deficit", load.deficit}};
}

Json ClientJson(const ClientReport& client) {
  return {{"client", client.client},
          {"profile", ProfileJson(client.profile)},
          {"experts_capacity", client.capacity.experts},
          {"capacity_reason", CapacityReasonName(client.capacity.reason)},
          {"memory_bytes", client.capacity.memory_bytes},
          {"predicted_round_s", client.capacity.round_s},
          {"fitness", client.fitness},
          {"bonus", client.bonus},
          {"movement", client.movement},
          {"held", client.held},
          {"experts", client.experts},
          {"outcome", client.outcome},
          {"examples", client.examples},
          {"train_loss", client.train_loss},
          {"train_s", client.train_s}};
}

Json ReassignmentJson(const Reassignment& reassigned) {
  return {{"expert", reassigned.expert},
          {"from", reassigned.from},
          {"to", reassigned.to},
          {"outcome", reassigned.outcome}};
}

Json AlignmentJson(const AlignmentPlan& plan) {
  return {{"strategy", AlignmentStrategyName(plan.strategy)},
          {"objective", plan.objective},
          {"bound", plan.bound},
          {"gap", plan.gap},
          {"solver", AlignmentSolverName(plan.solver)},
          {"cv", plan.cv},
          {"floor_cv", plan.floor_cv},
          {"coverage", plan.coverage},
          {"load", plan.load},
          {"relaxed", plan.relaxed},
          {"conflict", plan.conflict},
          {"prices", plan.prices},
          {"lower", plan.bounds.lower},
          {"upper", plan.bounds.upper},
          {"weighted_load", plan.weighted_load},
          {"weighted_lower", plan.weighted_bounds.lower},
          {"weighted_upper", plan.weighted_bounds.upper},
          {"violation", plan.violation}};
}

}  // namespace

// "round" stands first: RunDirectory finds the rounds of a file by it.
std::string ReportToJsonLine(const RoundReport& report) {
  Json line;
  line["round"] = report.round;
  line["attempts"] = report.attempts;
  line["seconds"] = report.seconds;
  line["connected_trainers"] = report.connected_trainers;
  line["clients_per_round"] = report.clients_per_round;
  line["min_clients"] = report.min_clients;
  line["quorum"] = report.quorum;
  line["sat_out"] = report.sat_out;
  line["clients"] = Json::array();
  for (const ClientReport& client : report.clients) line["clients"].push_back(ClientJson(client));
  line["accepted"] = report.accepted;
  line["rejected"] = report.rejected;
  line["cells"] = Json::array();
  for (const CellState cell : report.cells) line["cells"].push_back(CellStateName(cell));
  line["reassigned"] = Json::array();
  for (const Reassignment& reassigned : report.reassigned) {
    line["reassigned"].push_back(ReassignmentJson(reassigned));
  }
  line["train_loss"] = report.train_loss;
  line["load"] = LoadJson(report.load);
  line["load_cv"] = report.load_cv;
  line["load_cv_floor"] = report.load_cv_floor;
  line["cumulative_load_cv"] = report.cumulative_load_cv;
  line["client_expert_information_nats"] = report.client_expert_information;
  line["consensus"] = report.consensus;
  line["alignment"] = AlignmentJson(report.plan);
  line["global_accuracy"] = ValueOrNull(report.global_accuracy);
  line["global_accuracy_reason"] = ReasonOrNull(report.global_accuracy);
  line["global_loss"] = ValueOrNull(report.global_loss);
  line["personalised_accuracy"] = ValueOrNull(report.personalised_accuracy);
  line["personalised_accuracy_reason"] = ReasonOrNull(report.personalised_accuracy);
  line["personalised_loss"] = ValueOrNull(report.personalised_loss);
  line["bytes_down"] = report.bytes_down;
  line["bytes_up"] = report.bytes_up;
  line["model_digest"] = report.model_digest;
  return line.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace fedmoe
