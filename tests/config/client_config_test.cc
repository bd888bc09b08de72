// A client's configuration: defaults, types, errors.
#include "config/client_config.h"

#include <string>

#include <gtest/gtest.h>

#include "tests/config/load_yaml.h"

namespace fedmoe {
namespace {

TEST(ClientConfigTest, ANameIsAllThatIsRequired) {
  const Result<ClientConfig> config = LoadClient("name: edge-1\n");
  ASSERT_TRUE(config.ok()) << config.status().message();
  EXPECT_EQ(config->name, "edge-1");
  EXPECT_EQ(config->role, ClientRole::kTrainer);
  EXPECT_EQ(config->coordinator, "127.0.0.1:7070");
  EXPECT_TRUE(config->measure_capacity);
  EXPECT_EQ(config->cache_bytes, 1ULL << 30);
  EXPECT_EQ(config->retry_initial_ms, 200);
  EXPECT_EQ(config->retry_limit_ms, 0);
}

TEST(ClientConfigTest, EveryTypeOfKeyIsReadIntoItsField) {
  const Result<ClientConfig> config = LoadClient(
      "name: e\n"
      "role: evaluator\n"
      "coordinator: host.example:1\n"
      "data: {dataset: idx, path: data/mnist, client_index: 3,\n"
      "       partition: {kind: classes_per_client, clients: 4}, domains: {variant: hidden}}\n"
      "capacity: {memory_bytes: 512MiB, compute_gflops: 1.5, down_mbps: 100, up_mbps: 10,\n"
      "           max_experts: 2, measure: false}\n"
      "device: cuda:0\n"
      "threads: 4\n"
      "cache_bytes: 4096\n"
      "retry: {initial_s: 0.1, max_s: 2, limit_s: 60}\n"
      "log: {level: off}\n");
  ASSERT_TRUE(config.ok()) << config.status().message();
  EXPECT_EQ(config->role, ClientRole::kEvaluator);
  EXPECT_EQ(config->data.dataset, DatasetKind::kIdx);
  EXPECT_EQ(config->data.path, "data/mnist");
  EXPECT_EQ(config->data.client_index, 3);
  EXPECT_EQ(config->data.partition.kind, PartitionKind::kClassesPerClient);
  EXPECT_EQ(config->data.domains.variant, DomainsVariant::kHidden);
  EXPECT_EQ(config->capacity.memory_bytes, 512ULL << 20);
  EXPECT_EQ(config->capacity.compute_flops_per_s, 1.5e9);
  EXPECT_EQ(config->capacity.down_bytes_per_s, 12.5e6);
  EXPECT_EQ(config->capacity.up_bytes_per_s, 1.25e6);
  EXPECT_EQ(config->capacity.max_experts, 2);
  EXPECT_FALSE(config->measure_capacity);
  EXPECT_EQ(config->device, "cuda:0");
  EXPECT_EQ(config->threads, 4);
  EXPECT_EQ(config->cache_bytes, 4096u);
  EXPECT_EQ(config->retry_initial_ms, 100);
  EXPECT_EQ(config->retry_max_ms, 2000);
  EXPECT_EQ(config->retry_limit_ms, 60'000);
  EXPECT_EQ(config->log_level, "off");
}

TEST(ClientConfigTest, BytesAreWholeAndBounded) {
  EXPECT_EQ(ClientErrors("name: a\ncache_bytes: 3MB\n"),
            "x.yaml:2: cache_bytes must be a whole number of bytes, or of KiB, MiB or GiB (got "
            "'3MB')");
  EXPECT_EQ(ClientErrors("name: a\ncache_bytes: 18446744073709551615GiB\n"),
            "x.yaml:2: cache_bytes must be at most 1048576GiB (got 18446744073709551615GiB)");
}

TEST(ClientConfigTest, ADeviceIsTheProcessorOrOneOfCudas) {
  EXPECT_EQ(ClientErrors("name: a\ndevice: cuda\n"), "accepted");
  EXPECT_EQ(ClientErrors("name: a\ndevice: gpu:0\n"),
            "x.yaml:2: device must be cpu, cuda or cuda:N with N of 0 to 99 (got 'gpu:0')");
}

TEST(ClientConfigTest, AMissingNameIsAnError) {
  EXPECT_EQ(ClientErrors("threads: 2\n"),
            "x.yaml: missing key 'name' (1 to 64 characters of A-Z, a-z, 0-9, '.', '_' and '-', "
            "the first no dot; unique in the run)");
  EXPECT_EQ(ClientErrors("", {"name=a"}), "accepted");
}

TEST(ClientConfigTest, TrainingOptionsAreTheCoordinators) {
  EXPECT_EQ(ClientErrors("name: a\nthreads: 1\n\ntraining:\n  learning_rate: 1\n"),
            "x.yaml:4: unknown key 'training' (training options come from the coordinator with "
            "each task)");
  EXPECT_EQ(ClientErrors("name: a\nmodel:\n  experts: 1\n"),
            "x.yaml:2: unknown key 'model' (it belongs to the coordinator's configuration)");
}

TEST(ClientConfigTest, KeysThatContradictEachOtherAreErrors) {
  EXPECT_EQ(ClientErrors("name: a\ncoordinator: localhost:0\n"),
            "x.yaml:2: coordinator must name a port of 1 to 65535 (got 'localhost:0')");
  EXPECT_EQ(ClientErrors("name: a\nretry:\n  max_s: 0.1\n"),
            "x.yaml:3: retry.initial_s must be at most retry.max_s (got 0.2 > 0.1)");
  EXPECT_EQ(ClientErrors("name: a\ntls:\n  ca: c.pem\n  key: k.pem\n"),
            "x.yaml:4: tls.certificate and tls.key must be given together");
  EXPECT_EQ(
      ClientErrors("name: a\ntls:\n  certificate: c.pem\n  key: k.pem\n"),
      "x.yaml:3: tls.certificate needs tls.ca, by which the coordinator's certificate is checked");
  EXPECT_EQ(ClientErrors("name: a\ndata:\n  dataset: idx\n  client_index: 4\n"
                         "  partition: {kind: iid, clients: 4}\n"),
            "x.yaml:4: data.client_index must be below data.partition.clients (got 4 >= 4)");
}

TEST(ClientConfigTest, APortGivenByOverrideReplacesPortZero) {
  EXPECT_EQ(ClientErrors("name: a\ncoordinator: localhost:0\n", {"coordinator=localhost:4"}),
            "accepted");
}

}  // namespace
}  // namespace fedmoe
