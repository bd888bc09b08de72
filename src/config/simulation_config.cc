#include "config/simulation_config.h"

#include "config/common_keys.h"

namespace fedmoe {

void AddSimulationKeys(const SchemaSection& section, SimulationOptions& simulation) {
  AddDevice(section, simulation.device);
  constexpr NumberRange kShare = {.least = 0.0, .most = 1e6};
  const SchemaSection devices = section.In("devices");
  devices.Number("phone", simulation.devices.phone, kShare);
  devices.Number("single_board_computer", simulation.devices.single_board_computer, kShare);
  devices.Number("laptop", simulation.devices.laptop, kShare);
  devices.Number("gpu_server", simulation.devices.gpu_server, kShare);
  section.Choice<AvailabilityKind>("availability", simulation.availability,
                                   {{"always", AvailabilityKind::kAlways},
                                    {"daily", AvailabilityKind::kDaily},
                                    {"trace", AvailabilityKind::kTrace}});
  section.Number("online_share", simulation.online_share,
                 {.least = 0.0, .most = 1.0, .above_least = true});
  section.Text("trace", simulation.trace);
  section.Number("dropout", simulation.dropout, {.least = 0.0, .most = 1.0, .below_most = true});
}

void CheckSimulation(const SimulationOptions& simulation, bool deterministic, ReadKeys& keys) {
  const bool by_trace = simulation.availability == AvailabilityKind::kTrace;
  if (by_trace && simulation.trace.empty()) {
    keys.Complain({"simulation.trace", "simulation.availability"},
                  "simulation.trace must name a file for simulation.availability trace");
  }
  if (!by_trace && !simulation.trace.empty()) {
    keys.Complain({"simulation.trace", "simulation.availability"},
                  "simulation.trace is for simulation.availability trace alone");
  }
  if (!deterministic) return;
  if (simulation.availability != AvailabilityKind::kAlways) {
    keys.Complain({"simulation.availability", "run.deterministic"},
                  "run.deterministic needs every client in every round: set "
                  "simulation.availability to always");
  }
  if (simulation.dropout > 0.0) {
    keys.Complain({"simulation.dropout", "run.deterministic"},
                  "run.deterministic needs every client's update: set simulation.dropout to 0");
  }
}

}  // namespace fedmoe
