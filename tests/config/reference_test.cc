// The files under configs/: the references hold every key with its default, the others load.
#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "config/client_config.h"
#include "config/coordinator_config.h"
#include "config/document.h"
#include "tests/config/load_yaml.h"

namespace fedmoe {
namespace {

const std::string kConfigs = std::string(FEDMOE_SOURCE_DIR) + "/configs/";

std::string ReadText(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

std::vector<std::string> KeysOf(const std::string& yaml) {
  const auto flat = FlattenYaml(yaml);
  EXPECT_TRUE(flat.ok()) << flat.status().message();
  std::vector<std::string> keys;
  if (flat.ok()) {
    for (const auto& [key, value] : *flat) keys.push_back(key);
  }
  return keys;
}

CoordinatorConfig LoadFile(const std::string& name) {
  const Result<CoordinatorConfig> config =
      LoadCoordinatorConfig({.path = kConfigs + name, .overrides = {}});
  EXPECT_TRUE(config.ok()) << config.status().message();
  return config.ok() ? *config : CoordinatorConfig{};
}

// Each line with a key must end in a comment, or be followed by a comment line or a section's keys.
void ExpectEveryKeyIsDocumented(const std::string& yaml) {
  std::istringstream lines(yaml);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t first = line.find_first_not_of(' ');
    const bool is_key = first != std::string::npos && line[first] != '#';
    const bool is_section = is_key && line.find(": ") == std::string::npos;
    if (is_key && !is_section) {
      EXPECT_NE(line.find(" # "), std::string::npos) << "no comment on: " << line;
    }
  }
}

TEST(ReferenceTest, TheCoordinatorsReferenceHoldsEveryKeyInOrder) {
  const std::string text = ReadText(kConfigs + "reference.yaml");
  EXPECT_EQ(KeysOf(text), KeysOf(DumpCoordinatorConfig(LoadFile("reference.yaml"))));
  ExpectEveryKeyIsDocumented(text);
}

TEST(ReferenceTest, TheCoordinatorsReferenceShowsTheDefaults) {
  const Result<CoordinatorConfig> defaults = LoadCoordinator("fleet:\n");
  ASSERT_TRUE(defaults.ok()) << defaults.status().message();
  EXPECT_EQ(DumpCoordinatorConfig(LoadFile("reference.yaml")), DumpCoordinatorConfig(*defaults));
}

TEST(ReferenceTest, WithoutAFleetTheDefaultsAreTheStructs) {
  const CoordinatorConfig structs;
  const Result<CoordinatorConfig> loaded = LoadCoordinator("model: {inputs: 32, classes: 8}\n");
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  EXPECT_EQ(DumpCoordinatorConfig(*loaded), DumpCoordinatorConfig(structs));
}

TEST(ReferenceTest, TheClientsReferenceHoldsEveryKeyInOrder) {
  const std::string text = ReadText(kConfigs + "client_reference.yaml");
  EXPECT_EQ(KeysOf(text), KeysOf(DumpClientConfig(ClientConfig{})));
  ExpectEveryKeyIsDocumented(text);
}

TEST(ReferenceTest, TheClientsReferenceShowsTheDefaults) {
  const Result<ClientConfig> loaded =
      LoadClientConfig({.path = kConfigs + "client_reference.yaml", .overrides = {}});
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  ClientConfig defaults;
  defaults.name = loaded->name;  // required: it has no default
  EXPECT_EQ(DumpClientConfig(*loaded), DumpClientConfig(defaults));
}

TEST(ReferenceTest, EachDefaultThatACommentStatesIsTheValueShown) {
  for (const char* name : {"reference.yaml", "client_reference.yaml"}) {
    std::istringstream lines(ReadText(kConfigs + name));
    int checked = 0;
    for (std::string line; std::getline(lines, line);) {
      const std::size_t comment = line.find(" # ");
      const std::size_t stated = line.find("Default: ");
      const std::size_t colon = line.find(": ");
      if (comment == std::string::npos || stated == std::string::npos || colon > comment) continue;
      std::string value = line.substr(colon + 2, comment - colon - 2);
      value.resize(value.find_last_not_of(' ') + 1);
      if (value == "\"\"") value = "empty";
      if (value == "1.0e-8") value = "1e-8";
      std::string text = line.substr(stated + 9);
      text = text.substr(0, text.find(' '));
      if (text == "the") continue;  // "the fleet's dataset's"
      EXPECT_EQ(text, value) << name << ": " << line;
      ++checked;
    }
    EXPECT_GT(checked, 20) << name;
  }
}

TEST(ConfigsTest, TheQuickstartIsAsItsIssueSays) {
  const CoordinatorConfig config = LoadFile("quickstart.yaml");
  EXPECT_TRUE(config.run.deterministic);
  EXPECT_EQ(config.model.experts, 8);
  EXPECT_EQ(config.run.participation.min_clients, 8);
  ASSERT_EQ(config.fleet.size(), 9u);
  EXPECT_EQ(config.fleet[3].capacity.max_experts, 4);
  EXPECT_EQ(config.fleet[4].capacity.max_experts, 1);
  EXPECT_FALSE(config.fleet[0].measure_capacity);
  EXPECT_EQ(config.fleet[8].role, ClientRole::kEvaluator);
}

TEST(ConfigsTest, MnistIsSplitOverSixteenClientsWithAtMostThreeExperts) {
  const CoordinatorConfig config = LoadFile("mnist.yaml");
  EXPECT_EQ(config.model.inputs, 784);
  EXPECT_EQ(config.run.rounds, 50);
  ASSERT_EQ(config.fleet.size(), 17u);
  int most = 0;
  for (int i = 0; i < 16; ++i) {
    const ClientConfig& client = config.fleet[i];
    EXPECT_EQ(client.data.dataset, DatasetKind::kIdx);
    EXPECT_EQ(client.data.partition.kind, PartitionKind::kDirichlet);
    EXPECT_EQ(client.data.partition.clients, 16);
    EXPECT_EQ(client.data.partition.alpha, 0.3);
    EXPECT_GE(client.capacity.max_experts, 1);
    most = std::max(most, client.capacity.max_experts);
  }
  EXPECT_EQ(most, 3);
}

TEST(ConfigsTest, DomainsGivesEachClientOneDomain) {
  const CoordinatorConfig config = LoadFile("domains.yaml");
  EXPECT_TRUE(config.run.deterministic);
  EXPECT_EQ(config.run.rounds, 40);
  EXPECT_EQ(config.run.participation.min_clients, 16);
  ASSERT_EQ(config.fleet.size(), 17u);
  EXPECT_EQ(config.fleet[0].data.domains.mix, 0.0);
  // Of which 512 are left to train on.
  EXPECT_EQ(config.fleet[0].data.domains.examples, 640);
  EXPECT_EQ(config.fleet[0].data.holdout_fraction, 0.2);
  EXPECT_EQ(config.fleet[2].capacity.max_experts, 3);
}

}  // namespace
}  // namespace fedmoe
