#include <utility>

#include <nlohmann/json.hpp>

#include "coordinator/core.h"

namespace fedmoe {

std::string CoordinatorCore::StatusJson() const {
  nlohmann::ordered_json clients = nlohmann::ordered_json::array();
  for (const auto& [id, client] : state_.clients) {
    clients.push_back({{"client", id},
                       {"role", client.role == ClientRole::kTrainer ? "trainer" : "evaluator"},
                       {"connected", client.connected},
                       {"heard_s_ago", static_cast<double>(Now() - client.last_heard_ms) / 1000.0},
                       {"experts_capacity", client.capacity.experts},
                       {"capacity_reason", CapacityReasonName(client.capacity.reason)},
                       {"experts", client.experts},
                       {"rounds_merged", client.rounds_merged}});
  }
  nlohmann::ordered_json cells = nlohmann::ordered_json::array();
  for (const CellState cell : state_.cells) cells.push_back(CellStateName(cell));
  std::map<std::string, int> tasks;
  for (const auto& [id, task] : state_.tasks) {
    static constexpr const char* kNames[] = {"open", "accepted", "rejected", "lost", "expired"};
    ++tasks[kNames[static_cast<int>(task.status)]];
  }
  const auto optional = [](const std::optional<double>& value) {
    return value ? nlohmann::json(*value) : nlohmann::json();
  };
  const nlohmann::ordered_json status = {
      {"run", options_.run_name},
      {"run_id", run_id_},
      {"directory", directory_.path()},
      {"status", RunStatusName(state_.status)},
      {"detail", state_.status_detail},
      {"phase", PhaseName(state_.phase)},
      {"version", state_.version},
      {"rounds", options_.run.rounds},
      {"round", state_.round},
      {"attempt", state_.attempt},
      {"cells", std::move(cells)},
      {"tasks", tasks},
      {"model_digest", ModelDigest(state_.shards)},
      {"global_accuracy", optional(summary_.final_accuracy)},
      {"personalised_accuracy", optional(summary_.personalised_accuracy)},
      {"load_cv", summary_.load_cv},
      {"bytes_down", bytes_down_.load()},
      {"bytes_up", bytes_up_.load()},
      {"clients", std::move(clients)}};
  // A path may be anything but UTF-8.
  return status.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace fedmoe
