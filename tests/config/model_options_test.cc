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

// Every option away from its default, so that one which did not travel would be missed.
TEST(ModelOptionsText, CarriesEveryOption) {
  ModelOptions options;
  options.preset = "moe_transformer";
  options.inputs = 24;
  options.classes = 9;
  options.width = 48;
  options.depth = 3;
  options.heads = 4;
  options.moe_layers = 2;
  options.dense_width = 20;
  options.expert_width = 12;
  options.experts = 6;
  options.top_k = 3;
  options.expert_activation = ExpertActivation::kSwiGlu;
  options.shared_expert_width = 10;
  options.zero_experts = 1;
  options.copy_experts = 2;
  options.constant_experts = 3;
  options.gate_mode = GateMode::kSharedRows;
  options.gate_input = GateInput::kSequence;
  options.gate_normalisation = GateNormalisation::kPopulation;
  options.soup = 0.1;
  options.selection_bias = true;
  options.expert_initialization = ExpertInitialization::kAlike;
  const std::map<std::string, std::string> text = ModelOptionsText(options);
  const std::map<std::string, std::string> defaults = ModelOptionsText(ModelOptions());
  EXPECT_EQ(text.size(), 24U);
  EXPECT_EQ(text.at("soup"), "0.1");
  for (const auto& [key, value] : text) {
    const bool not_its_own =
        key == "channels" || key == "embedding" || key == "gate.post_hoc_batches";
    EXPECT_EQ(value == defaults.at(key), not_its_own) << key;
  }
  EXPECT_EQ(text.at("expert_activation"), "swiglu");
  options.post_hoc_batches = 7;
  EXPECT_EQ(ModelOptionsText(options).at("gate.post_hoc_batches"), "7");
  options.post_hoc_batches = 0;
  EXPECT_EQ(text.at("gate.input"), "sequence");
  EXPECT_EQ(text.at("gate.selection_bias"), "true");
  EXPECT_EQ(text.at("zero_computation.constant"), "3");
  const Result<ModelOptions> received = ParseModelOptions("moe_transformer", text);
  ASSERT_TRUE(received.ok()) << received.status().ToString();
  EXPECT_EQ(ModelOptionsText(*received), text);
  EXPECT_EQ(SpecDigest(*BuildModelSpec(*received)), SpecDigest(*BuildModelSpec(options)));
}

TEST(ModelOptionsText, NamesWhatThisBuildDoesNotKnow) {
  std::map<std::string, std::string> options = ModelOptionsText(Unusual());
  options["deepness"] = "2";
  EXPECT_EQ(
      ParseModelOptions("moe_mlp", options).status().message(),
      "model.deepness is not known to this build; run the same version of fedmoe on both sides");
  options.erase("deepness");
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
