// What a coordinator's configuration resolves to.
#include "config/coordinator_config.h"

#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/config/load_yaml.h"

namespace fedmoe {
namespace {

using ::testing::ElementsAre;

CoordinatorConfig Load(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  Result<CoordinatorConfig> result = LoadCoordinator(yaml, overrides);
  EXPECT_TRUE(result.ok()) << result.status().message();
  return result.ok() ? *result : CoordinatorConfig{};
}

TEST(CoordinatorConfigTest, AKeyThatIsAbsentHasTheStructsDefault) {
  const CoordinatorConfig config = Load("model: {inputs: 3, classes: 2}\n");
  const CoordinatorConfig defaults;
  EXPECT_EQ(config.name, "run");
  EXPECT_EQ(config.run.rounds, defaults.run.rounds);
  EXPECT_EQ(config.run.participation.deadline_ms, 600'000);
  EXPECT_EQ(config.run.training.clip_norm, 1.0);
  EXPECT_EQ(config.run.alignment.strategy, AlignmentStrategy::kBalanced);
  EXPECT_EQ(config.server.address, "127.0.0.1:7070");
  EXPECT_EQ(config.storage.keep_versions, 3);
  EXPECT_TRUE(config.live_table);
  EXPECT_TRUE(config.fleet.empty());
  EXPECT_EQ(config.model.inputs, 3);
  EXPECT_EQ(config.model.classes, 2);
}

TEST(CoordinatorConfigTest, EveryTypeOfKeyIsReadIntoItsField) {
  const CoordinatorConfig config = Load(
      "name: a.b-1\n"
      "model: {gate: {mode: local, input: data}, expert_initialization: alike,\n"
      "        upcycle: {checkpoint: dense.safetensors, noise: 0.01}}\n"
      "run:\n"
      "  seed: 9223372036854775807\n"
      "  deadline_s: 1.5\n"
      "  clients: {too_small: reject}\n"
      "training:\n"
      "  optimizer: adamw\n"
      "  schedule: cosine\n"
      "  adam_epsilon: 1e-9\n"
      "  balance_lambda: 0.01\n"
      "  router_z_lambda: 0.001\n"
      "  selection_bias_rate: 0.02\n"
      "  gate_noise: 0.5\n"
      "  random_flip: true\n"
      "  random_crop: 4\n"
      "  random_shift: true\n"
      "  gate_learning_rate: 25\n"
      "  trunk_lambda: 0.5\n"
      "  max_batches: 12\n"
      "transfer: {up: {encoding: topk, top_k_fraction: 0.25, zstd: true},\n"
      "           down: {encoding: int4, zstd: true}}\n"
      "aggregation: {optimizer: fedyogi, expert_weighting: uniform, consensus: 0.5, "
      "consensus_information: 1,\n"
      "  rule: trimmed_mean, trim: 0.3, hostile: 0.4, clip_norm: 7}\n"
      "evaluation: {mode: clients}\n"
      "fitness: {signal: sum, claims: raw, trial_discount: 0.9}\n"
      "alignment:\n"
      "  exploration: {strategy: contextual, bonus: 0.25}\n"
      "  movement: {weight: 0.5, cost: bytes}\n"
      "storage: {directory: \"a b\"}\n"
      "log: {level: debug, live_table: false}\n"
      "fleet:\n");
  EXPECT_EQ(config.name, "a.b-1");
  EXPECT_EQ(config.model.gate_mode, GateMode::kLocal);
  EXPECT_EQ(config.model.gate_input, GateInput::kData);
  EXPECT_EQ(config.model.expert_initialization, ExpertInitialization::kAlike);
  EXPECT_EQ(config.run.seed, 9223372036854775807ULL);
  EXPECT_EQ(config.run.participation.deadline_ms, 1500);
  EXPECT_EQ(config.run.participation.too_small, TooSmallPolicy::kReject);
  EXPECT_EQ(config.upcycle.checkpoint, "dense.safetensors");
  EXPECT_EQ(config.upcycle.noise, 0.01);
  EXPECT_EQ(config.run.training.optimizer, LocalOptimizer::kAdamW);
  EXPECT_EQ(config.run.training.schedule, LearningRateSchedule::kCosine);
  EXPECT_EQ(config.run.training.adam_epsilon, 1e-9);
  EXPECT_EQ(config.run.training.balance_lambda, 0.01);
  EXPECT_EQ(config.run.training.router_z_lambda, 0.001);
  EXPECT_EQ(config.run.training.selection_bias_rate, 0.02);
  EXPECT_EQ(config.run.training.gate_noise, 0.5);
  EXPECT_TRUE(config.run.training.random_flip);
  EXPECT_EQ(config.run.training.random_crop, 4);
  EXPECT_TRUE(config.run.training.random_shift);
  EXPECT_EQ(config.run.training.gate_learning_rate, 25.0);
  EXPECT_EQ(config.run.training.trunk_lambda, 0.5);
  EXPECT_EQ(config.run.training.max_batches, 12);
  EXPECT_EQ(config.run.aggregation.consensus, 0.5);
  EXPECT_EQ(config.run.aggregation.consensus_information, 1.0);
  EXPECT_EQ(config.run.aggregation.rule, AggregationRule::kTrimmedMean);
  EXPECT_EQ(config.run.aggregation.trim, 0.3);
  EXPECT_EQ(config.run.aggregation.hostile, 0.4);
  EXPECT_EQ(config.run.aggregation.clip_norm, 7.0);
  EXPECT_EQ(config.run.training.upload.encoding, Encoding::kTopK);
  EXPECT_EQ(config.run.training.upload.top_k_fraction, 0.25);
  EXPECT_TRUE(config.run.training.upload.zstd);
  EXPECT_EQ(config.run.training.download,
            (DownloadOptions{.encoding = Encoding::kInt4, .zstd = true}));
  EXPECT_EQ(config.run.aggregation.optimizer, ServerOptimizer::kFedYogi);
  EXPECT_EQ(config.run.aggregation.expert_weighting, ExpertWeighting::kUniform);
  EXPECT_EQ(config.run.evaluation.mode, EvaluationMode::kClients);
  EXPECT_EQ(config.run.fitness.signal, FitnessSignal::kSum);
  EXPECT_EQ(config.run.fitness.claims, FitnessClaims::kRaw);
  EXPECT_EQ(config.run.fitness.trial_discount, 0.9);
  EXPECT_EQ(config.run.score.exploration.strategy, ExplorationStrategy::kContextual);
  EXPECT_EQ(config.run.score.exploration.bonus, 0.25);
  EXPECT_EQ(config.run.score.movement.weight, 0.5);
  EXPECT_EQ(config.run.score.movement.cost, MovementCost::kBytes);
  EXPECT_EQ(config.storage.directory, "a b");
  EXPECT_EQ(config.log_level, "debug");
  EXPECT_FALSE(config.live_table);
}

TEST(CoordinatorConfigTest, OverridesWinAndTheLastOfThemCounts) {
  const CoordinatorConfig config =
      Load("run:\n  rounds: 3\nfleet:\n",
           {"run.rounds=4", "run.rounds=5", "server.address=[::1]:0", "name='quoted'",
            "storage.directory=runs/a=b: c", "fleet.capacity.max_experts=[1, 2]"});
  EXPECT_EQ(config.run.rounds, 5);
  EXPECT_EQ(config.server.address, "[::1]:0");
  EXPECT_EQ(config.name, "quoted");
  EXPECT_EQ(config.storage.directory, "runs/a=b: c");
  EXPECT_EQ(config.fleet[1].capacity.max_experts, 2);
}

TEST(CoordinatorConfigTest, AnOverrideAloneCanAskForAFleet) {
  EXPECT_EQ(Load("", {"fleet.clients=3", "fleet.evaluators=0"}).fleet.size(), 3u);
}

TEST(CoordinatorConfigTest, AnOverrideOfNothingIsEmptyText) {
  EXPECT_EQ(Load("fleet:\nstorage:\n  directory: a\n", {"storage.directory="}).storage.directory,
            "");
}

TEST(FleetTest, AnEmptySectionIsTheDefaultFleet) {
  const CoordinatorConfig config = Load("fleet:\n");
  ASSERT_EQ(config.fleet.size(), 9u);
  EXPECT_EQ(config.fleet[0].name, "client-00");
  EXPECT_EQ(config.fleet[7].name, "client-07");
  EXPECT_EQ(config.fleet[8].name, "evaluator-00");
  EXPECT_EQ(config.fleet[8].role, ClientRole::kEvaluator);
  EXPECT_EQ(config.fleet[8].data.domains.examples, 2048);
}

TEST(FleetTest, EachClientGetsItsIndexAndItsTurnInTheLists) {
  const CoordinatorConfig config = Load(
      "log: {level: warning}\n"
      "server: {address: 127.0.0.2:9}\n"
      "fleet:\n"
      "  clients: 3\n"
      "  threads: 2\n"
      "  data: {domains: {mix: 0, examples: 100}}\n"
      "  test_examples: 50\n"
      "  capacity:\n"
      "    measure: false\n"
      "    max_experts: [1, 4]\n"
      "    memory_bytes: [1KiB, 2MiB, 3]\n"
      "    compute_gflops: 2.5\n"
      "    down_mbps: 8\n"
      "    up_mbps: [1, 2]\n");
  ASSERT_EQ(config.fleet.size(), 4u);
  for (int i = 0; i < 3; ++i) {
    const ClientConfig& client = config.fleet[i];
    EXPECT_EQ(client.role, ClientRole::kTrainer);
    EXPECT_EQ(client.coordinator, "127.0.0.2:9");
    EXPECT_EQ(client.state_directory, "");
    EXPECT_EQ(client.data.client_index, i);
    EXPECT_EQ(client.data.domains.examples, 100);
    EXPECT_EQ(client.threads, 2);
    EXPECT_FALSE(client.measure_capacity);
    EXPECT_EQ(client.log_level, "warning");
    EXPECT_EQ(client.capacity.compute_flops_per_s, 2.5e9);
    EXPECT_EQ(client.capacity.down_bytes_per_s, 1e6);
  }
  EXPECT_EQ(config.fleet[0].capacity.max_experts, 1);
  EXPECT_EQ(config.fleet[1].capacity.max_experts, 4);
  EXPECT_EQ(config.fleet[2].capacity.max_experts, 1);
  EXPECT_EQ(config.fleet[0].capacity.memory_bytes, 1024u);
  EXPECT_EQ(config.fleet[1].capacity.memory_bytes, 2u << 20);
  EXPECT_EQ(config.fleet[2].capacity.memory_bytes, 3u);
  EXPECT_EQ(config.fleet[1].capacity.up_bytes_per_s, 250'000.0);

  const ClientConfig& evaluator = config.fleet[3];
  EXPECT_EQ(evaluator.data.domains.examples, 50);
  EXPECT_EQ(evaluator.data.domains.mix, 0.0);
  EXPECT_EQ(evaluator.capacity.max_experts, 0);
  EXPECT_EQ(evaluator.capacity.memory_bytes, 0u);
  EXPECT_FALSE(evaluator.measure_capacity);
}

TEST(FleetTest, AnEvaluatorMeasuresNothingThoughTrainersDo) {
  const CoordinatorConfig config = Load("fleet: {clients: 1}\n");
  EXPECT_TRUE(config.fleet[0].measure_capacity);
  EXPECT_FALSE(config.fleet[1].measure_capacity);
}

TEST(FleetTest, APartitionHasAPartForEachClient) {
  const CoordinatorConfig config =
      Load("fleet:\n  clients: 5\n  data: {dataset: idx, partition: {kind: dirichlet}}\n");
  for (const ClientConfig& client : config.fleet) EXPECT_EQ(client.data.partition.clients, 5);
  EXPECT_EQ(config.fleet[4].data.client_index, 4);
}

TEST(FleetTest, NamesOfALargeFleetSortAsNumbers) {
  const CoordinatorConfig config = Load("fleet: {clients: 101, evaluators: 0}\n");
  EXPECT_EQ(config.fleet[7].name, "client-007");
  EXPECT_EQ(config.fleet[100].name, "client-100");
}

TEST(FleetTest, TheDatasetTellsTheModelItsInputsAndClasses) {
  CoordinatorConfig config = Load("fleet: {data: {domains: {dimensions: 20, classes: 5}}}\n");
  EXPECT_EQ(config.model.inputs, 20);
  EXPECT_EQ(config.model.classes, 5);
  config = Load("fleet: {data: {dataset: idx}}\n");
  EXPECT_EQ(config.model.inputs, 784);
  EXPECT_EQ(config.model.classes, 10);
  config = Load("model: {inputs: 100, classes: 47}\nfleet: {data: {dataset: idx}}\n");
  EXPECT_EQ(config.model.inputs, 100);
  EXPECT_EQ(config.model.classes, 47);
}

TEST(FleetTest, AClientsFileReadsBackToTheSameClient) {
  const CoordinatorConfig config =
      Load("server: {address: \"127.0.0.1:0\"}\nfleet: {clients: 2, capacity: {up_mbps: 3.7}}\n");
  for (const ClientConfig& client : config.fleet) {
    const std::string yaml = DumpClientConfig(client);
    const Result<ClientConfig> read = LoadClient(yaml, {"coordinator=127.0.0.1:4000"});
    ASSERT_TRUE(read.ok()) << read.status().message();
    EXPECT_EQ(DumpClientConfig(*read), ReplaceAll(yaml, "\"127.0.0.1:0\"", "\"127.0.0.1:4000\""));
  }
}

}  // namespace
}  // namespace fedmoe
