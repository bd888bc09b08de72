// A client daemon's configuration. Training hyperparameters are not here: they come with the task.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/result.h"
#include "common/tls_options.h"
#include "config/config_source.h"
#include "data/data_options.h"
#include "federation/capacity.h"
#include "federation/task.h"

namespace fedmoe {

struct ClientConfig {
  std::string name;  // required; unique in the run
  ClientRole role = ClientRole::kTrainer;
  std::string coordinator = "127.0.0.1:7070";
  std::string state_directory;  // instance key and client state; empty: .fedmoe/<name>
  DataOptions data;
  // Declared capacity: a field that is 0 here is measured (unless capacity.measure is false).
  CapacityProfile capacity;
  bool measure_capacity = true;
  std::string device = "cpu";  // cpu, cuda or cuda:N
  int threads = 1;
  std::uint64_t cache_bytes = 1ULL << 30;  // shard cache
  Milliseconds retry_initial_ms = 200;  // backoff while the coordinator cannot be reached, doubled
                                        // with jitter up to the maximum
  Milliseconds retry_max_ms = 10'000;
  Milliseconds retry_limit_ms =
      0;  // give up (exit code 5) after so long without a coordinator; 0: never
  ClientTlsOptions tls;
  std::string log_level = "info";
};

// As LoadCoordinatorConfig.
Result<ClientConfig> LoadClientConfig(const ConfigSource& source);
std::string DumpClientConfig(const ClientConfig& config);

}  // namespace fedmoe
