// The `simulation` section: what fedmoe-simulate adds to the configuration of a fleet. The other
// programs read it and pass over it.
#pragma once

#include <string>

#include "config/schema.h"

namespace fedmoe {

// Shares of the population, in any unit. All 0: no client has a device of a built-in kind.
struct DeviceShares {
  double phone = 0.0;
  double single_board_computer = 0.0;
  double laptop = 0.0;
  double gpu_server = 0.0;
};

enum class AvailabilityKind {
  kAlways,
  kDaily,  // each client for one stretch of every simulated day
  kTrace,  // as a file says
};

struct SimulationOptions {
  std::string device = "cpu";  // where virtual clients compute: cpu, cuda or cuda:N
  DeviceShares devices;
  AvailabilityKind availability = AvailabilityKind::kAlways;
  double online_share = 0.5;  // daily: of each day
  std::string trace;          // trace: a CSV file, client,start_s,end_s
  double dropout = 0.0;       // probability that a client does not finish a training task
};

void AddSimulationKeys(const SchemaSection& section, SimulationOptions& simulation);

// What spans keys.
void CheckSimulation(const SimulationOptions& simulation, bool deterministic, ReadKeys& keys);

}  // namespace fedmoe
