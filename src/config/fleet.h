// The `fleet` section: a local fleet of clients described at once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/client_config.h"
#include "config/schema.h"
#include "data/data_options.h"

namespace fedmoe {

// Lists hold at least one value and are repeated over the clients.
struct FleetOptions {
  int clients = 8;  // trainers
  int evaluators = 1;
  int threads = 1;  // of each client
  DataOptions data;
  int test_examples = 2048;  // domains: size of an evaluator's test set
  bool measure_capacity = true;
  std::vector<int> max_experts = {0};
  std::vector<std::uint64_t> memory_bytes = {0};
  std::vector<double> compute_flops_per_s = {0.0};
  std::vector<double> down_bytes_per_s = {0.0};
  std::vector<double> up_bytes_per_s = {0.0};
};

void AddFleetKeys(const SchemaSection& section, FleetOptions& fleet);

// One configuration a client: trainers "client-00" on, then evaluators "evaluator-00" on. An
// evaluator holds every expert, so it declares no capacity and measures none.
std::vector<ClientConfig> ResolveFleet(const FleetOptions& fleet, const std::string& address,
                                       const std::string& log_level);

// The section that resolves to `clients`; what ResolveFleet made, in the shortest lists.
FleetOptions DescribeFleet(const std::vector<ClientConfig>& clients);

}  // namespace fedmoe
