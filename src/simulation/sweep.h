// Running a sweep: cell by cell, each in a run directory of its own, and one table of results.
#pragma once

#include <string>
#include <vector>

#include "common/result.h"
#include "simulation/simulate.h"
#include "simulation/sweep_file.h"

namespace fedmoe {

struct SweepJob {
  std::string path;               // of the sweep's file
  std::string directory;          // holds a folder a cell, and results.csv
  std::vector<std::string> sets;  // of the command line
  int threads = 1;
};

struct SweepOutcome {
  SimulationEnd end = SimulationEnd::kCompleted;
  std::string error;  // why nothing was run, or not all
};

// A cell that is completed under the same configuration is not run again; one that is there but not
// completed begins anew. results.csv is written after every cell. kFailed if a cell failed; the
// others are run all the same. A line on standard output a cell, with the time left. Configurations
// are all read before the first run.
SweepOutcome RunSweep(const SweepJob& job, StopSwitch& stop);

}  // namespace fedmoe
