// The experiments' claims about their contenders, checked against the specs.
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "config/coordinator_config.h"
#include "federation/capacity.h"
#include "tests/config/load_yaml.h"

namespace fedmoe {
namespace {

// What a client of a configuration takes, with the experts that it may hold; 0 for an error.
double ClientBytes(const std::string& name, const std::vector<std::string>& overrides) {
  const std::string path = std::string(FEDMOE_SOURCE_DIR) + "/configs/experiments/" + name;
  const Result<CoordinatorConfig> config =
      LoadCoordinatorConfig({.path = path, .overrides = overrides});
  EXPECT_TRUE(config.ok()) << config.status().message();
  if (!config.ok()) return 0.0;
  const Result<ModelSpec> spec = BuildModelSpec(config->model);
  EXPECT_TRUE(spec.ok()) << spec.status().message();
  if (!spec.ok()) return 0.0;
  return PredictMemoryBytes(*spec, config->run.training, spec->experts > 0 ? 2 : 0);
}

// With the models of languages_dense.sweep.yaml and languages_wide.sweep.yaml, and those of
// languages_transformer.
TEST(ExperimentsTest, TheContendersOnTheLanguagesTakeTheSameMemory) {
  const double mlp = ClientBytes("languages.yaml", {});
  EXPECT_NEAR(mlp, 6.73e6, 0.01e6);
  EXPECT_NEAR(ClientBytes("languages.yaml", {"model.moe_layers=0", "model.dense_width=590"}), mlp,
              0.005 * mlp);
  EXPECT_NEAR(ClientBytes("languages.yaml",
                          {"model.moe_layers=0", "model.width=160", "model.dense_width=409"}),
              mlp, 0.005 * mlp);
  const double decoder = ClientBytes("languages_transformer.yaml", {});
  EXPECT_NEAR(decoder, 14.8e6, 0.05e6);
  EXPECT_NEAR(
      ClientBytes("languages_transformer.yaml", {"model.moe_layers=0", "model.dense_width=477"}),
      decoder, 0.005 * decoder);
  EXPECT_NEAR(ClientBytes("languages_transformer.yaml",
                          {"model.moe_layers=0", "model.width=80", "model.dense_width=318"}),
              decoder, 0.005 * decoder);
}

}  // namespace
}  // namespace fedmoe
