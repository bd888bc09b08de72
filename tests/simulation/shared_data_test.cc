// What clients in one process share is what each alone would load.
#include "data/shared_data.h"

#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "simulation/population.h"
#include "simulation/trainer_cache.h"
#include "tests/config/load_yaml.h"
#include "tests/data/idx_files.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

void ExpectSame(const Dataset& shared, const Dataset& own) {
  EXPECT_EQ(shared.name, own.name);
  EXPECT_EQ(shared.shape, own.shape);
  EXPECT_EQ(shared.classes, own.classes);
  EXPECT_EQ(shared.pixels, own.pixels);
  EXPECT_EQ(shared.values, own.values);
  EXPECT_EQ(shared.labels, own.labels);
  EXPECT_EQ(shared.domains, own.domains);
  EXPECT_EQ(shared.mean, own.mean);
}

// For each of `clients`, shared beside alone.
void ExpectAsAlone(DataOptions options, int clients) {
  if (options.partition.kind != PartitionKind::kNone) options.partition.clients = clients;
  const auto shared = SharedData::Load(options, clients);
  ASSERT_TRUE(shared.ok()) << shared.status().message();
  for (int client = 0; client < clients; ++client) {
    options.client_index = client;
    const auto alone = LoadLocalData(options);
    const auto own = (*shared)->ClientData(client);
    ASSERT_TRUE(alone.ok() && own.ok());
    ExpectSame(own->train, alone->train);
    ExpectSame(own->holdout, alone->holdout);
    const std::int64_t known = (*shared)->TrainExamples(client);
    EXPECT_TRUE(known == alone->train.size() ||
                (known == -1 && options.dataset == DatasetKind::kCsv))
        << known;
  }
}

// 60 images of 2x3 pixels, no two alike.
void WriteIdx(const TempDir& directory) {
  std::string pixels, labels;
  for (int i = 0; i < 60; ++i) {
    for (int p = 0; p < 6; ++p) pixels += static_cast<char>(i * 4 + p % 4);
    labels += static_cast<char>(i * 7 % 10);
  }
  WriteBytes(directory.File("train-images-idx3-ubyte"), ImagesFile(60, 2, 3, pixels));
  WriteBytes(directory.File("train-labels-idx1-ubyte"), LabelsFile(labels));
}

TEST(SharedDataTest, GeneratedDomains) {
  ExpectAsAlone({.domains = {.domains = 3, .examples = 40}, .max_examples = 25}, 4);
}

TEST(SharedDataTest, EveryPartitionOfImages) {
  TempDir directory;
  WriteIdx(directory);
  for (const PartitionKind kind : {PartitionKind::kNone, PartitionKind::kIid,
                                   PartitionKind::kClassesPerClient, PartitionKind::kDirichlet}) {
    SCOPED_TRACE(static_cast<int>(kind));
    DataOptions options{.dataset = DatasetKind::kIdx, .path = directory.path()};
    options.partition.kind = kind;
    options.partition.min_examples = 4;
    options.partition.seed = 3;
    ExpectAsAlone(options, 5);
    options.max_examples = 5;
    options.holdout_fraction = 0.4;
    ExpectAsAlone(options, 5);
  }
}

TEST(SharedDataTest, ATableStandardisedByEachClient) {
  TempDir directory;
  std::ofstream file(directory.File("train.csv"));
  file << "a,b,y\n";
  for (int i = 0; i < 40; ++i) file << i * i << "," << -i << "," << i % 3 << "\n";
  file.close();
  DataOptions options{.dataset = DatasetKind::kCsv, .path = directory.path()};
  options.partition.kind = PartitionKind::kIid;
  ExpectAsAlone(options, 3);
}

TEST(SharedDataTest, WhatIsWrongIsSaidBeforeAnyClientIsAsked) {
  DataOptions options{.dataset = DatasetKind::kIdx, .path = "/nowhere"};
  options.partition = {.kind = PartitionKind::kIid, .clients = 2};
  EXPECT_EQ(SharedData::Load(options, 2).status().code(), StatusCode::kNotFound);
  options.dataset = DatasetKind::kCsv;
  EXPECT_EQ(SharedData::Load(options, 2).status().code(), StatusCode::kNotFound);
}

TEST(PopulationTest, HasTheNamesCapacitiesAndExamplesOfTheFleet) {
  const auto config = LoadCoordinator(
      "fleet:\n"
      "  clients: 3\n"
      "  data: {domains: {examples: 20}}\n"
      "  capacity: {measure: false, max_experts: [1, 2]}\n"
      "simulation: {devices: {phone: 1}}\n");
  ASSERT_TRUE(config.ok()) << config.status().message();
  const auto population = LoadPopulation(*config);
  ASSERT_TRUE(population.ok()) << population.status().message();
  ASSERT_EQ(population->clients.size(), 4u);
  EXPECT_EQ(population->trainers, 3);
  EXPECT_EQ(population->clients[2].name, "client-02");
  EXPECT_EQ(population->clients[2].data_index, 2);
  EXPECT_EQ(population->clients[1].profile.max_experts, 2);
  EXPECT_EQ(population->clients[2].profile.max_experts, 1);
  EXPECT_EQ(population->clients[2].profile.examples, 16);
  EXPECT_EQ(population->clients[2].profile.device, "phone");
  EXPECT_EQ(population->clients[3].name, "evaluator-00");
  EXPECT_EQ(population->clients[3].role, ClientRole::kEvaluator);
  EXPECT_EQ(population->clients[3].profile.device, "");
  EXPECT_TRUE(population->test.has_value());
}

class TrainerCacheTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto config =
        LoadCoordinator("fleet: {clients: 3, evaluators: 0, data: {domains: {examples: 20}}}\n");
    ASSERT_TRUE(config.ok()) << config.status().message();
    auto population = LoadPopulation(*config);
    auto spec = BuildModelSpec(config->model);
    ASSERT_TRUE(population.ok() && spec.ok());
    population_ = std::move(*population);
    spec_ = std::move(*spec);
  }
  // 20 examples of 32 features, a float and a byte each.
  static constexpr std::uint64_t kBytes = 20 * 32 * 5;

  Population population_;
  ModelSpec spec_;
};

TEST_F(TrainerCacheTest, TheLeastRecentlyGivenGoesFirst) {
  TrainerCache cache(population_, spec_, {.seed = 1, .max_bytes = 2 * kBytes});
  const LocalTrainer* first[3];
  for (std::size_t client = 0; client < 3; ++client) {
    auto held = cache.Take(client);
    ASSERT_TRUE(held.ok()) << held.status().message();
    EXPECT_EQ(held->bytes, kBytes);
    EXPECT_EQ(held->trainer->examples(), 16);
    first[client] = held->trainer.get();
    cache.Give(client, std::move(*held));
  }
  auto third = cache.Take(2);
  auto second = cache.Take(1);
  EXPECT_EQ(third->trainer.get(), first[2]);
  EXPECT_EQ(second->trainer.get(), first[1]);
  // Taken twice at once: two trainers, of which one stays.
  auto beside = cache.Take(1);
  EXPECT_NE(beside->trainer.get(), second->trainer.get());
  const LocalTrainer* kept = second->trainer.get();
  cache.Give(1, std::move(*second));
  cache.Give(1, std::move(*beside));
  EXPECT_EQ(cache.Take(1)->trainer.get(), kept);
}

TEST_F(TrainerCacheTest, WhatDoesNotFitIsNotKept) {
  TrainerCache cache(population_, spec_, {.seed = 1, .max_bytes = kBytes - 1});
  auto held = cache.Take(0);
  ASSERT_TRUE(held.ok());
  cache.Give(0, std::move(*held));
  EXPECT_TRUE(cache.Take(0).ok());
}

TEST_F(TrainerCacheTest, DataThatDoNotFitTheModelAreRefused) {
  population_.clients[0].role = ClientRole::kTrainer;
  ModelSpec other = spec_;
  other.options["inputs"] = "5";
  TrainerCache cache(population_, other, {.seed = 1, .max_bytes = kBytes});
  EXPECT_EQ(cache.Take(0).status().message(),
            "data 'domains' has 32 features and 8 classes, the model takes 5 and 8");
}

}  // namespace
}  // namespace fedmoe
