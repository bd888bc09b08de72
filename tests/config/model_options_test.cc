#include "moe/model_options.h"

#include <gtest/gtest.h>

namespace fedmoe {
namespace {

ModelOptions Unusual() {
  ModelOptions options;
  options.inputs = 784;
  options.classes = 10;
  options.width = 96;
  options.expert_width = 48;
  options.experts = 5;
  options.top_k = 3;
  options.gate_mode = GateMode::kSharedRows;
  options.gate_input = GateInput::kData;
  options.expert_initialization = ExpertInitialization::kAlike;
  return options;
}

TEST(ModelOptionsText, GivesTheSameSpecBackOnTheOtherSide) {
  const Result<ModelSpec> sent = BuildModelSpec(Unusual());
  ASSERT_TRUE(sent.ok());
  const Result<ModelOptions> received = ParseModelOptions(sent->preset, sent->options);
  ASSERT_TRUE(received.ok()) << received.status().ToString();
  const Result<ModelSpec> rebuilt = BuildModelSpec(*received);
  ASSERT_TRUE(rebuilt.ok());
  EXPECT_EQ(SpecDigest(*rebuilt), SpecDigest(*sent));
  EXPECT_NE(SpecDigest(*rebuilt), SpecDigest(*BuildModelSpec(ModelOptions{})));
}

TEST(ModelOptionsText, NamesWhatThisBuildDoesNotKnow) {
  std::map<std::string, std::string> options = ModelOptionsText(Unusual());
  options["depth"] = "2";
  EXPECT_EQ(ParseModelOptions("moe_mlp", options).status().message(),
            "model.depth is not known to this build; run the same version of fedmoe on both sides");
  options.erase("depth");
  options["width"] = "96x";
  EXPECT_EQ(ParseModelOptions("moe_mlp", options).status().message(),
            "model.width: '96x' is not a whole number");
  options["width"] = "96";
  options["gate.mode"] = "oracle";
  EXPECT_EQ(ParseModelOptions("moe_mlp", options).status().message(),
            "model.gate.mode: 'oracle' is not known to this build");
  options.erase("gate.mode");
  EXPECT_EQ(ParseModelOptions("moe_mlp", options).status().message(),
            "model.gate.mode is missing from the coordinator's description of the model");
}

}  // namespace
}  // namespace fedmoe
