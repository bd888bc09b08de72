// Which changes of the configuration a resumed run refuses.
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "config/coordinator_config.h"
#include "tests/config/load_yaml.h"

namespace fedmoe {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::string Resolved(const std::vector<std::string>& overrides) {
  const Result<CoordinatorConfig> config = LoadCoordinator("fleet:\n", overrides);
  EXPECT_TRUE(config.ok()) << config.status().message();
  return config.ok() ? DumpCoordinatorConfig(*config) : "";
}

TEST(ResumeConflictsTest, TheSameConfigurationHasNone) {
  EXPECT_THAT(ResumeConflicts(Resolved({}), Resolved({})), IsEmpty());
}

TEST(ResumeConflictsTest, WhatDoesNotTouchTheResultMayChange) {
  EXPECT_THAT(ResumeConflicts(Resolved({}),
                              Resolved({"server.address=0.0.0.0:1", "server.allow_plaintext=true",
                                        "server.worker_threads=8", "log.level=debug",
                                        "log.live_table=false", "storage.directory=elsewhere",
                                        "run.rounds=99", "simulation.dropout=0.5"})),
              IsEmpty());
}

TEST(ResumeConflictsTest, EveryOtherDifferenceIsNamedWithBothValues) {
  EXPECT_THAT(
      ResumeConflicts(
          Resolved({"model.experts=8", "run.seed=1"}),
          Resolved({"model.experts=16", "run.seed=2", "run.rounds=3", "storage.keep_versions=9",
                    "fleet.capacity.max_experts=[1, 2]", "fleet.data.path=there"})),
      ElementsAre("model.experts: 8 in the run, 16 now", "run.seed: 1 in the run, 2 now",
                  "storage.keep_versions: 3 in the run, 9 now",
                  "fleet.data.path: \"\" in the run, there now",
                  "fleet.capacity.max_experts: 0 in the run, [1, 2] now"));
}

TEST(ResumeConflictsTest, KeysOfOneSideOnlyAreNamed) {
  EXPECT_THAT(ResumeConflicts("a: {b: 1}\nc: 2\n", "c: 2\nd: 3\n"),
              ElementsAre("a.b: 1 in the run, absent now", "d: absent in the run, 3 now"));
}

TEST(ResumeConflictsTest, TextThatIsNotYamlIsAConflict) {
  EXPECT_THAT(ResumeConflicts("a: [\n", "a: 1\n"),
              ElementsAre("the run's configuration: configuration:2:1: not valid YAML: end of "
                          "sequence flow not found"));
  EXPECT_THAT(ResumeConflicts("a: 1\n", "a: 1\na: 2\n"),
              ElementsAre("the new configuration: configuration:2: duplicate key 'a' (first in "
                          "line 1)"));
}

}  // namespace
}  // namespace fedmoe
