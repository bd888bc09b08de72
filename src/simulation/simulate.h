// One simulated run, from a resolved configuration to its run directory.
#pragma once

#include <mutex>
#include <string>

#include "common/result.h"
#include "config/coordinator_config.h"
#include "simulation/run_times.h"
#include "simulation/virtual_run.h"
#include "storage/run_directory.h"

namespace fedmoe {

// Passes requests to stop on to the run in hand, whichever that is. Thread-safe.
class StopSwitch {
 public:
  // The first finishes the round in hand, the second ends at once.
  void Request();
  bool requested() const;
  // The run that takes the requests from here on, also those made before; null for none.
  void Attach(VirtualRun* run);

 private:
  mutable std::mutex mutex_;
  VirtualRun* run_ = nullptr;
  int requests_ = 0;
};

enum class SimulationEnd {
  kCompleted,
  kFailed,
  kConfiguration,
  kDirectory,  // in use, or holds a run
  kData,
  kStopped,
};

struct SimulationOutcome {
  SimulationEnd end = SimulationEnd::kFailed;
  std::string error;  // where there was no run, or it could not be written
  RunSummary summary;
  RunTimes times;
};

struct SimulationJob {
  const CoordinatorConfig& config;
  std::string directory;  // made if need be; must hold no run
  int threads = 1;
  bool live_table = true;  // table and summary on standard output
};

SimulationOutcome Simulate(const SimulationJob& job, StopSwitch& stop);

}  // namespace fedmoe
