#include <string>
#include <vector>

#include "common/file_system.h"
#include "config/client_config.h"
#include "config/coordinator_config.h"
#include "tests/fuzz/fuzz_check.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/seeds.h"

namespace fedmoe {
namespace {

constexpr int kCoordinator = 0, kClient = 1;

std::string ConfigPath(const std::string& name) {
  return std::string(FEDMOE_SOURCE_DIR) + "/configs/" + name;
}

Seed Made(const std::string& name, int whose, const std::string& yaml,
          const std::vector<std::string>& overrides = {}) {
  SeedInput seed;
  seed.Byte(whose).Text(yaml);
  for (const std::string& override : overrides) seed.Text(override);
  return {name, seed.bytes()};
}

// Every key with its value, without the reference's comments.
std::vector<Seed> Resolved() {
  const auto coordinator =
      LoadCoordinatorConfig({.path = ConfigPath("reference.yaml"), .overrides = {}});
  FUZZ_CHECK(coordinator.ok(), coordinator.status().ToString());
  const auto client =
      LoadClientConfig({.path = ConfigPath("client_reference.yaml"), .overrides = {}});
  FUZZ_CHECK(client.ok(), client.status().ToString());
  return {Made("reference", kCoordinator, DumpCoordinatorConfig(*coordinator)),
          Made("client_reference", kClient, DumpClientConfig(*client))};
}

std::string Nested(int depth) {
  std::string yaml;
  for (int i = 0; i < depth; ++i) yaml += std::string(static_cast<std::size_t>(i), ' ') + "a:\n";
  return yaml;
}

// Many keys of one long list: what a small file can unfold to.
std::string Aliased(int keys, int items) {
  std::string yaml = "a: &a [";
  for (int i = 0; i < items; ++i) yaml += "1,";
  yaml += "]\n";
  for (int i = 0; i < keys; ++i) yaml += "k" + std::to_string(i) + ": *a\n";
  return yaml;
}

std::string Repeated(const std::string& text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

void AddBroken(std::vector<Seed>& seeds) {
  seeds.push_back(Made("empty", kCoordinator, ""));
  seeds.push_back(Made("bad_scalar", kCoordinator, "run"));
  seeds.push_back(Made("bad_two_documents", kCoordinator, "a: 1\n---\nb: 2\n"));
  seeds.push_back(Made("bad_comma_first", kCoordinator, ", x"));
  seeds.push_back(Made("bad_yaml", kCoordinator, "run: [1, {"));
  seeds.push_back(Made("bad_keys", kCoordinator,
                       "run.rounds: 3\n[1]: 2\nrun: 1\nrun: 2\nrunn: {rounds: 1}\nclients: 7\n"));
  seeds.push_back(Made("bad_values", kCoordinator,
                       "run: {rounds: many, seed: -1, deadline_s: [1], quorum: 2}\n"
                       "model: {inputs: ~, classes: {a: 1}, preset: moe_mpl, soup: nan}\n"
                       "log: {level: [[1]]}\n"));
  seeds.push_back(Made("bad_server", kCoordinator,
                       "model: {inputs: 2, classes: 2}\nserver: {address: 'host:99999', tls: "
                       "{key: k, client_ca: c, admin: ''}}\n"));
  seeds.push_back(Made("bad_client", kClient,
                       "name: a b\ncoordinator: x\nretry: {initial_s: 20}\ntls: {key: k, "
                       "server_name: n}\ntraining: {epochs: 1}\nmodel: 1\n"));
  seeds.push_back(Made("bad_bytes", kClient, "name: a\ncache_bytes: 99999999GiB\n"));
  seeds.push_back(Made("bad_overrides", kCoordinator, "model: {inputs: 2, classes: 2}\n",
                       {"run", "=1", "run.rounds='", "fleet.capacity.max_experts=[]", "log=x",
                        "run.clients.min=9", "run.clients.per_round=4"}));
  seeds.push_back(Made("deep", kCoordinator, Nested(20)));
  seeds.push_back(Made("deep_lists", kCoordinator, "a: " + Repeated("[", 2000)));
  seeds.push_back(Made("deep_maps", kCoordinator, Repeated("{a: ", 2000)));
  seeds.push_back(Made("aliases", kCoordinator, Aliased(2000, 4000)));
  seeds.push_back(Made("anchor_in_itself", kCoordinator, "a: &a {b: *a}\n"));
}

}  // namespace

std::vector<Seed> ConfigSeeds() {
  std::vector<Seed> seeds = Resolved();
  for (const char* name : {"quickstart", "domains", "mnist", "cifar10", "languages", "shakespeare",
                           "simulation_mnist"}) {
    const auto text = ReadFile(PosixFileSystem(), ConfigPath(std::string(name) + ".yaml"), 1 << 20);
    FUZZ_CHECK(text.ok(), text.status().ToString());
    seeds.push_back(Made(name, kCoordinator, *text));
  }
  seeds.push_back(Made("overrides", kCoordinator, "model: {inputs: 5, classes: 6}\n",
                       {"run.rounds=7", "name=\"a\\tb\"", "transfer.up.encoding=int8",
                        "aggregation.optimizer=fedadam", "server.poll_hold_s=0.5"}));
  seeds.push_back(Made("fleet", kCoordinator,
                       "fleet:\n  clients: 3\n  capacity: {max_experts: [1, 2, 4], memory_bytes: "
                       "[1MiB, 3KiB, 7], compute_gflops: [0.3, 7], measure: false}\n"));
  seeds.push_back(Made("client", kClient,
                       "name: a\ndata: {dataset: csv, path: \"/a \\\"b\\\"\"}\ncapacity: "
                       "{memory_bytes: 5MiB, up_mbps: 1.5}\n",
                       {"data.image.mean=[0.1, 0.2, 0.3]"}));
  AddBroken(seeds);
  return seeds;
}

}  // namespace fedmoe
