// The clients of a simulation: what a fleet of processes would be, without the processes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "common/file_system.h"
#include "common/result.h"
#include "config/coordinator_config.h"
#include "data/dataset.h"
#include "data/shared_data.h"
#include "federation/capacity.h"
#include "federation/model_spec.h"
#include "federation/task.h"
#include "simulation/availability.h"

namespace fedmoe {

// A trainer or an evaluator of the fleet section, under the name that its process would have.
// Light: no thread, no model, no examples.
struct VirtualClient {
  ClientId name;
  ClientRole role = ClientRole::kTrainer;
  int data_index = 0;       // trainers: their part of the data
  CapacityProfile profile;  // as declared, then the device's; with its number of examples
};

struct Population {
  std::vector<VirtualClient> clients;  // trainers first, by name, then evaluators
  int trainers = 0;
  std::unique_ptr<SharedData> data;
  std::optional<Dataset> test;  // where there is an evaluator
  Availability availability;    // of the trainers; evaluators are always there
};

// The population of `config`, whose fleet must not be empty. INVALID_ARGUMENT without one, and for
// a bad trace; what is wrong with the data comes from there.
Result<Population> LoadPopulation(const CoordinatorConfig& config);

}  // namespace fedmoe
