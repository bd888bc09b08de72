// The keys of `data`: what they set, what they refuse, and what a fleet's dataset tells the model.
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "config/client_config.h"
#include "config/coordinator_config.h"
#include "tests/config/load_yaml.h"

namespace fedmoe {
namespace {

using ::testing::ElementsAre;
using ::testing::StartsWith;

ModelOptions ModelFor(const std::string& yaml) {
  const Result<CoordinatorConfig> config = LoadCoordinator(yaml);
  EXPECT_TRUE(config.ok()) << config.status().message();
  return config.ok() ? config->model : ModelOptions{};
}

TEST(DataKeysTest, OfAnImageFolder) {
  const Result<ClientConfig> config = LoadClient(
      "name: a\n"
      "data:\n"
      "  dataset: image_folder\n"
      "  max_examples: 1000\n"
      "  image: {size: 32, channels: 3, mean: [0.4914, 0.4822, 0.4465],\n"
      "          deviation: [0.2470, 0.2435, 0.2616], memory_bytes: 64MiB}\n");
  ASSERT_TRUE(config.ok()) << config.status().message();
  EXPECT_EQ(config->data.dataset, DatasetKind::kImageFolder);
  EXPECT_EQ(config->data.max_examples, 1000);
  EXPECT_EQ(config->data.image.size, 32);
  EXPECT_THAT(config->data.image.mean, ElementsAre(0.4914, 0.4822, 0.4465));
  EXPECT_THAT(config->data.image.deviation, ElementsAre(0.2470, 0.2435, 0.2616));
  EXPECT_EQ(config->data.image.memory_bytes, 64u << 20);
}

TEST(DataKeysTest, OfATable) {
  const Result<ClientConfig> config = LoadClient(
      "name: a\n"
      "data: {dataset: csv, csv: {label: kind, classes: 3, standardise: false}}\n");
  ASSERT_TRUE(config.ok()) << config.status().message();
  EXPECT_EQ(config->data.dataset, DatasetKind::kCsv);
  EXPECT_EQ(config->data.csv.label, "kind");
  EXPECT_EQ(config->data.csv.classes, 3);
  EXPECT_FALSE(config->data.csv.standardise);
}

TEST(DataKeysTest, OfText) {
  const Result<ClientConfig> config = LoadClient(
      "name: a\n"
      "data:\n"
      "  dataset: text\n"
      "  client_index: 4\n"
      "  text: {context: 128, alphabet: latin, test_fraction: 0.2}\n"
      "  partition: {kind: speakers, clients: 5}\n");
  ASSERT_TRUE(config.ok()) << config.status().message();
  EXPECT_EQ(config->data.dataset, DatasetKind::kText);
  EXPECT_EQ(config->data.text.context, 128);
  EXPECT_EQ(config->data.text.alphabet, TextAlphabet::kLatin);
  EXPECT_EQ(config->data.text.test_fraction, 0.2);
  EXPECT_EQ(config->data.partition.kind, PartitionKind::kSpeakers);
}

TEST(DataKeysTest, RefusesWhatTheDatasetHasNoUseFor) {
  EXPECT_EQ(ClientErrors("name: a\ndata:\n  dataset: text\n  partition:\n    kind: dirichlet\n"),
            "x.yaml:5: data.partition.kind must be none, iid, files or speakers for the dataset "
            "text, which has no labels to split by");
  EXPECT_EQ(ClientErrors("name: a\ndata:\n  dataset: csv\n  partition:\n    kind: files\n"),
            "x.yaml:5: data.partition.kind may be files or speakers for the dataset text alone");
  EXPECT_EQ(ClientErrors("name: a\ndata:\n  dataset: csv\n  client_index: 4\n"
                         "  partition: {kind: iid, clients: 4}\n"),
            "x.yaml:4: data.client_index must be below data.partition.clients (got 4 >= 4)");
}

TEST(DataKeysTest, RefusesImageOptionsThatDoNotMatch) {
  EXPECT_EQ(ClientErrors("name: a\ndata:\n  image:\n    channels: 2\n"),
            "x.yaml:4: data.image.channels must be 1 or 3 (got 2)");
  EXPECT_EQ(ClientErrors("name: a\ndata:\n  image:\n    mean: [0.5, 0.5]\n"),
            "x.yaml:4: data.image.mean must have one value, or one for each of 3 channels (got 2)");
  EXPECT_EQ(ClientErrors("name: a\ndata:\n  image:\n    channels: 1\n    deviation: [1, 1, 1]\n"),
            "x.yaml:5: data.image.deviation must have one value, or one for each of 1 channels "
            "(got 3)");
  EXPECT_EQ(ClientErrors("name: a\ndata:\n  image:\n    deviation: 0\n"),
            "x.yaml:4: data.image.deviation must be above 0 and at most 1000 (got 0)");
  EXPECT_THAT(ClientErrors("name: a\ndata:\n  text:\n    alphabet: utf8\n"),
              StartsWith("x.yaml:4: data.text.alphabet must be one of ascii, latin, bytes"));
}

TEST(DataKeysTest, AFleetsDatasetTellsTheModelItsInputsAndClasses) {
  ModelOptions model = ModelFor("fleet: {data: {dataset: text, text: {context: 80}}}\n");
  EXPECT_EQ(model.inputs, 80);
  EXPECT_EQ(model.classes, 128);
  model =
      ModelFor("model: {classes: 10}\nfleet: {data: {dataset: image_folder, image: {size: 32}}}\n");
  EXPECT_EQ(model.inputs, 3072);
  model = ModelFor("model: {classes: 100}\nfleet: {data: {dataset: cifar_binary}}\n");
  EXPECT_EQ(model.inputs, 3072);
  model = ModelFor("model: {inputs: 4}\nfleet: {data: {dataset: csv, csv: {classes: 3}}}\n");
  EXPECT_EQ(model.classes, 3);
}

TEST(DataKeysTest, AModelThatDoesNotFitTheDatasetIsRefused) {
  EXPECT_EQ(CoordinatorErrors("fleet: {data: {dataset: csv}}\n"),
            "x.yaml: missing key 'model.inputs' (features of an example; here the files decide)\n"
            "x.yaml: missing key 'model.classes' (labels in use; here the files decide)");
  EXPECT_EQ(CoordinatorErrors("fleet: {data: {dataset: cifar_binary}}\n"),
            "x.yaml: missing key 'model.classes' (labels in use; here the files decide)");
  EXPECT_EQ(CoordinatorErrors("model:\n  inputs: 80\nfleet: {data: {dataset: text}}\n"),
            "x.yaml:2: model.inputs must be 64, as the options of fleet.data say (got 80)");
  EXPECT_EQ(CoordinatorErrors("model:\n  classes: 65\nfleet: {data: {dataset: text}}\n"),
            "x.yaml:2: model.classes must be 128, the ids of fleet.data.text.alphabet (got 65)");
}

}  // namespace
}  // namespace fedmoe
