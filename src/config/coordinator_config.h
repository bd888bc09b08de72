// The coordinator's configuration: YAML -> Config -> the options structs of the floors below.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/durability.h"
#include "common/result.h"
#include "common/tls_options.h"
#include "config/client_config.h"
#include "config/config_source.h"
#include "config/simulation_config.h"
#include "federation/round_machine.h"
#include "federation/upcycle_options.h"
#include "moe/model_options.h"

namespace fedmoe {

struct ServerOptions {
  std::string address =
      "127.0.0.1:7070";                // port 0: any free one, written to <run directory>/address
  Milliseconds poll_hold_ms = 30'000;  // how long an unanswered NextTask is held
  Milliseconds heartbeat_interval_ms = 5'000;
  int max_clients = 1'000;  // registered at once; more are turned away
  int max_connections = 0;  // open at once; more are refused. 0: by max_clients
  int worker_threads = 2;
  // Without TLS: listen beyond this machine, too.
  bool allow_plaintext = false;
  ServerTlsOptions tls;
};

struct StorageOptions {
  std::string directory;  // the run directory; empty: runs/<run.name>
  int keep_versions = 3;  // checkpoints kept, the last among them; 0 keeps all
  Durability durability = Durability::kFull;
};

struct CoordinatorConfig {
  std::string name = "run";
  ModelOptions model;
  UpcycleOptions upcycle;  // model.upcycle; clients need not know it
  RunOptions run;          // without `spec`: built from `model`
  ServerOptions server;
  StorageOptions storage;
  std::string log_level = "info";
  bool live_table = true;
  // The local fleet, resolved to one configuration a client, trainers first, then evaluators. Empty
  // without a `fleet` section.
  std::vector<ClientConfig> fleet;
  SimulationOptions simulation;  // of that fleet; for fedmoe-simulate alone
};

// Reads, checks and resolves. All errors at once, one a line, in file order, then by --set order:
//   "configs/x.yaml:12: run.clients.min must be <= ... (got 9 > 4)", "--set model.top_k=x: ...".
// Unknown keys are errors with the nearest known key.
Result<CoordinatorConfig> LoadCoordinatorConfig(const ConfigSource& source);

// The resolved configuration, every key present, as YAML that LoadCoordinatorConfig reads back to
// the same struct.
std::string DumpCoordinatorConfig(const CoordinatorConfig& config);

// The keys of two resolved configurations that differ and may not differ across a resume, one a
// line: "model.experts: 8 in the run, 16 now". Empty if a resume is allowed. server.*, log.*,
// simulation.*, storage.directory, storage.durability and run.rounds may change.
std::vector<std::string> ResumeConflicts(const std::string& stored_yaml,
                                         const std::string& new_yaml);

}  // namespace fedmoe
