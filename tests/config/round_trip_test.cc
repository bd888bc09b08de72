// Load(Dump(x)) is x, for configurations with every key drawn at random.
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "common/counter_rng.h"
#include "config/client_config.h"
#include "config/coordinator_config.h"
#include "config/document.h"
#include "tests/config/load_yaml.h"

namespace fedmoe {
namespace {

constexpr std::uint64_t kSeed = 7;

// Values that the loader may or may not take for a key; what it refuses keeps its old value.
std::string AnyValue(CounterRng& rng) {
  static const std::vector<std::string> words = {"true",      "false",
                                                 "none",      "full",
                                                 "static",    "greedy",
                                                 "local",     "shared_rows",
                                                 "data",      "alike",
                                                 "reject",    "adamw",
                                                 "cosine",    "fedadam",
                                                 "uniform",   "clients",
                                                 "debug",     "idx",
                                                 "hidden",    "concept",
                                                 "dirichlet", "iid",
                                                 "loss",      "sum",
                                                 "evaluator", "a \"quoted\\\" path\t",
                                                 "host:80",   "[1, 2, 3]",
                                                 "[0.3, 7]",  "5MiB"};
  switch (rng.NextBelow(4)) {
    case 0:
      return words[rng.NextBelow(words.size())];
    case 1:
      return std::to_string(rng.NextBelow(12));
    case 2:
      return std::to_string(rng.NextUniform());
    default:
      return std::to_string(rng.NextBelow(1'000'000'000));
  }
}

// Overrides that are accepted together, grown one by one from random keys and values.
template <typename Config>
std::vector<std::string> AcceptedOverrides(const std::string& base, const std::string& dump,
                                           Result<Config> (*load)(const ConfigSource&),
                                           CounterRng& rng) {
  TempDir directory;
  ConfigSource source{.path = directory.File("x.yaml"), .overrides = {}};
  std::ofstream(source.path) << base;
  const auto keys = FlattenYaml(dump);
  EXPECT_TRUE(keys.ok());
  for (int i = 0; keys.ok() && i < 150; ++i) {
    const std::string& key = (*keys)[rng.NextBelow(keys->size())].first;
    source.overrides.push_back(key + "=" + AnyValue(rng));
    if (!load(source).ok()) source.overrides.pop_back();
  }
  return source.overrides;
}

TEST(RoundTripTest, ACoordinatorsDumpReadsBackToItself) {
  for (std::uint64_t trial = 0; trial < 8; ++trial) {
    SCOPED_TRACE("seed " + std::to_string(kSeed) + ", trial " + std::to_string(trial));
    CounterRng rng(MixKey({kSeed, trial}));
    const std::string base = trial % 2 == 0 ? "fleet: {capacity: {measure: false}}\n"
                                            : "model: {inputs: 5, classes: 6}\n";
    const std::string defaults = DumpCoordinatorConfig(*LoadCoordinator(base));
    const auto overrides = AcceptedOverrides(base, defaults, LoadCoordinatorConfig, rng);
    EXPECT_GT(overrides.size(), 10u);
    const Result<CoordinatorConfig> config = LoadCoordinator(base, overrides);
    ASSERT_TRUE(config.ok());
    const std::string dump = DumpCoordinatorConfig(*config);
    EXPECT_NE(dump, defaults);
    const Result<CoordinatorConfig> again = LoadCoordinator(dump);
    ASSERT_TRUE(again.ok()) << again.status().message() << "\n" << dump;
    EXPECT_EQ(DumpCoordinatorConfig(*again), dump);
    ASSERT_EQ(again->fleet.size(), config->fleet.size());
    for (std::size_t i = 0; i < config->fleet.size(); ++i) {
      EXPECT_EQ(DumpClientConfig(again->fleet[i]), DumpClientConfig(config->fleet[i]));
    }
  }
}

TEST(RoundTripTest, AClientsDumpReadsBackToItself) {
  for (std::uint64_t trial = 0; trial < 8; ++trial) {
    SCOPED_TRACE("seed " + std::to_string(kSeed) + ", trial " + std::to_string(trial));
    CounterRng rng(MixKey({kSeed, 100 + trial}));
    const std::string defaults = DumpClientConfig(*LoadClient("name: a\n"));
    const auto overrides = AcceptedOverrides("name: a\n", defaults, LoadClientConfig, rng);
    EXPECT_GT(overrides.size(), 10u);
    const Result<ClientConfig> config = LoadClient("name: a\n", overrides);
    ASSERT_TRUE(config.ok());
    const std::string dump = DumpClientConfig(*config);
    EXPECT_NE(dump, defaults);
    const Result<ClientConfig> again = LoadClient(dump);
    ASSERT_TRUE(again.ok()) << again.status().message() << "\n" << dump;
    EXPECT_EQ(DumpClientConfig(*again), dump);
  }
}

TEST(RoundTripTest, TextOfAnyKindSurvives) {
  ClientConfig config;
  config.name = "a";
  config.state_directory = "a \"b\" \\ 'c' # d: [e]\n\t\x7f\xc3\xa9 ~";
  config.data.path = "true";
  const Result<ClientConfig> read = LoadClient(DumpClientConfig(config));
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(read->state_directory, config.state_directory);
  EXPECT_EQ(read->data.path, "true");
}

}  // namespace
}  // namespace fedmoe
