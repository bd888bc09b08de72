#include "config/client_config.h"

#include <fmt/format.h>

#include "config/common_keys.h"
#include "config/schema.h"

namespace fedmoe {
namespace {

// Binds every key of a client's configuration to `config`, which must outlive the schema.
Schema ClientSchema(ClientConfig& config) {
  Schema schema;
  const SchemaSection root = schema.Root();
  AddName(root, config.name);
  root.Choice<ClientRole>(
      "role", config.role,
      {{"trainer", ClientRole::kTrainer}, {"evaluator", ClientRole::kEvaluator}});
  AddAddress(root, "coordinator", config.coordinator);
  root.Text("state_directory", config.state_directory);
  AddDataKeys(root.In("data"), config.data, DataOf::kClient);

  const SchemaSection capacity = root.In("capacity");
  capacity.Boolean("measure", config.measure_capacity);
  capacity.Bytes("memory_bytes", config.capacity.memory_bytes);
  capacity.Number("compute_gflops", config.capacity.compute_flops_per_s, {0.0, kMaxRate},
                  kFlopsPerGigaflop);
  capacity.Number("down_mbps", config.capacity.down_bytes_per_s, {0.0, kMaxRate}, kBytesPerMegabit);
  capacity.Number("up_mbps", config.capacity.up_bytes_per_s, {0.0, kMaxRate}, kBytesPerMegabit);
  capacity.Integer("max_experts", config.capacity.max_experts, {0, kMaxExpertsKey});

  AddDevice(root, config.device);
  root.Integer("threads", config.threads, {1, kMaxThreads});
  root.Bytes("cache_bytes", config.cache_bytes);
  const SchemaSection retry = root.In("retry");
  retry.Seconds("initial_s", config.retry_initial_ms, {0.001, 3600.0});
  retry.Seconds("max_s", config.retry_max_ms, {0.001, 86'400.0});
  retry.Seconds("limit_s", config.retry_limit_ms, {0.0, 31'536'000.0});
  const SchemaSection tls = root.In("tls");
  tls.Text("ca", config.tls.ca);
  tls.Text("certificate", config.tls.certificate);
  tls.Text("key", config.tls.key);
  tls.Text("server_name", config.tls.server_name);
  AddLogLevel(root.In("log"), config.log_level);

  schema.Hint("training", "training options come from the coordinator with each task");
  for (const char* section : {"model", "run", "alignment", "fitness", "aggregation", "evaluation",
                              "server", "storage", "fleet"}) {
    schema.Hint(section, "it belongs to the coordinator's configuration");
  }
  return schema;
}

void CheckClient(const ClientConfig& config, ReadKeys& keys) {
  keys.Require("name", fmt::format("{}; unique in the run", kNameRule));
  if (PortOf(config.coordinator) == 0) {
    keys.Complain({"coordinator"}, fmt::format("coordinator must name a port of 1 to 65535 (got "
                                               "'{}')",
                                               config.coordinator));
  }
  if (config.retry_initial_ms > config.retry_max_ms) {
    keys.Complain({"retry.initial_s", "retry.max_s"},
                  fmt::format("retry.initial_s must be at most retry.max_s (got {:g} > {:g})",
                              static_cast<double>(config.retry_initial_ms) / 1000.0,
                              static_cast<double>(config.retry_max_ms) / 1000.0));
  }
  const ClientTlsOptions& tls = config.tls;
  if (tls.certificate.empty() != tls.key.empty()) {
    keys.Complain({"tls.certificate", "tls.key"},
                  "tls.certificate and tls.key must be given together");
  }
  if (!tls.enabled() && !tls.certificate.empty()) {
    keys.Complain(
        {"tls.certificate"},
        "tls.certificate needs tls.ca, by which the coordinator's certificate is checked");
  }
  if (!tls.enabled() && !tls.server_name.empty()) {
    keys.Complain({"tls.server_name"}, "tls.server_name needs tls.ca: without it there is no TLS");
  }
  CheckData(config.data, "data.", keys);
}

}  // namespace

Result<ClientConfig> LoadClientConfig(const ConfigSource& source) {
  FEDMOE_ASSIGN_OR_RETURN(const ConfigDocument document, ReadConfigDocument(source));
  ClientConfig config;
  ReadKeys keys = ClientSchema(config).Read(document);
  CheckClient(config, keys);
  FEDMOE_RETURN_IF_ERROR(JoinErrors(std::move(keys.errors)));
  return config;
}

std::string DumpClientConfig(const ClientConfig& config) {
  ClientConfig copy = config;
  return ClientSchema(copy).Write();
}

}  // namespace fedmoe
