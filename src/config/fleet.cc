#include "config/fleet.h"

#include <algorithm>
#include <cstddef>

#include <fmt/format.h>

#include "config/common_keys.h"

namespace fedmoe {
namespace {

template <typename T>
T Cyclic(const std::vector<T>& values, int index) {
  return values[static_cast<std::size_t>(index) % values.size()];
}

// The shortest list that, repeated, is `values`.
template <typename T>
std::vector<T> Shortest(const std::vector<T>& values) {
  for (std::size_t period = 1; period < values.size(); ++period) {
    bool repeats = true;
    for (std::size_t i = period; i < values.size(); ++i) {
      repeats = repeats && values[i] == values[i % period];
    }
    if (repeats) return {values.begin(), values.begin() + static_cast<std::ptrdiff_t>(period)};
  }
  return values;
}

// "client-07": two digits, more where a larger fleet needs them, so that names sort as numbers.
std::string NumberedName(const char* role, int index, int count) {
  const std::size_t digits = std::max<std::size_t>(2, std::to_string(count - 1).size());
  return fmt::format("{}-{:0{}}", role, index, digits);
}

}  // namespace

void AddFleetKeys(const SchemaSection& section, FleetOptions& fleet) {
  section.Integer("clients", fleet.clients, {1, 1000});
  section.Integer("evaluators", fleet.evaluators, {0, 16});
  section.Integer("threads", fleet.threads, {1, kMaxThreads});
  AddDataKeys(section.In("data"), fleet.data, DataOf::kFleet);
  section.Integer("test_examples", fleet.test_examples, {1, 10'000'000});
  const SchemaSection capacity = section.In("capacity");
  capacity.Boolean("measure", fleet.measure_capacity);
  capacity.Integers("max_experts", fleet.max_experts, {0, kMaxExpertsKey});
  capacity.ByteCounts("memory_bytes", fleet.memory_bytes);
  capacity.Numbers("compute_gflops", fleet.compute_flops_per_s, {0.0, kMaxRate}, kFlopsPerGigaflop);
  capacity.Numbers("down_mbps", fleet.down_bytes_per_s, {0.0, kMaxRate}, kBytesPerMegabit);
  capacity.Numbers("up_mbps", fleet.up_bytes_per_s, {0.0, kMaxRate}, kBytesPerMegabit);
}

std::vector<ClientConfig> ResolveFleet(const FleetOptions& fleet, const std::string& address,
                                       const std::string& log_level) {
  ClientConfig common;
  common.coordinator = address;
  common.data = fleet.data;
  if (fleet.data.partition.kind != PartitionKind::kNone) {
    common.data.partition.clients = fleet.clients;
  }
  common.threads = fleet.threads;
  common.log_level = log_level;

  std::vector<ClientConfig> clients;
  for (int i = 0; i < fleet.clients; ++i) {
    ClientConfig client = common;
    client.name = NumberedName("client", i, fleet.clients);
    client.data.client_index = i;
    client.measure_capacity = fleet.measure_capacity;
    client.capacity.max_experts = Cyclic(fleet.max_experts, i);
    client.capacity.memory_bytes = Cyclic(fleet.memory_bytes, i);
    client.capacity.compute_flops_per_s = Cyclic(fleet.compute_flops_per_s, i);
    client.capacity.down_bytes_per_s = Cyclic(fleet.down_bytes_per_s, i);
    client.capacity.up_bytes_per_s = Cyclic(fleet.up_bytes_per_s, i);
    clients.push_back(std::move(client));
  }
  for (int i = 0; i < fleet.evaluators; ++i) {
    ClientConfig evaluator = common;
    evaluator.name = NumberedName("evaluator", i, fleet.evaluators);
    evaluator.role = ClientRole::kEvaluator;
    evaluator.measure_capacity = false;
    evaluator.data.domains.examples = fleet.test_examples;
    clients.push_back(std::move(evaluator));
  }
  return clients;
}

FleetOptions DescribeFleet(const std::vector<ClientConfig>& clients) {
  FleetOptions fleet;
  FleetOptions lists;
  lists.max_experts.clear();
  lists.memory_bytes.clear();
  lists.compute_flops_per_s.clear();
  lists.down_bytes_per_s.clear();
  lists.up_bytes_per_s.clear();
  fleet.clients = 0;
  fleet.evaluators = 0;
  for (const ClientConfig& client : clients) {
    if (client.role == ClientRole::kEvaluator) {
      ++fleet.evaluators;
      fleet.test_examples = client.data.domains.examples;
      continue;
    }
    if (fleet.clients == 0) {
      fleet.threads = client.threads;
      fleet.data = client.data;
      fleet.measure_capacity = client.measure_capacity;
    }
    ++fleet.clients;
    lists.max_experts.push_back(client.capacity.max_experts);
    lists.memory_bytes.push_back(client.capacity.memory_bytes);
    lists.compute_flops_per_s.push_back(client.capacity.compute_flops_per_s);
    lists.down_bytes_per_s.push_back(client.capacity.down_bytes_per_s);
    lists.up_bytes_per_s.push_back(client.capacity.up_bytes_per_s);
  }
  fleet.max_experts = Shortest(lists.max_experts);
  fleet.memory_bytes = Shortest(lists.memory_bytes);
  fleet.compute_flops_per_s = Shortest(lists.compute_flops_per_s);
  fleet.down_bytes_per_s = Shortest(lists.down_bytes_per_s);
  fleet.up_bytes_per_s = Shortest(lists.up_bytes_per_s);
  return fleet;
}

}  // namespace fedmoe
