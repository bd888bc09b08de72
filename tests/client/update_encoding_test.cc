#include "client/update_encoding.h"

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace fedmoe {
namespace {

constexpr int kTrunk = 0;
constexpr int kBias = 1;
constexpr int kFirstExpert = 2;

// A trunk of 100 values, a bias of one, and three experts of 40 values each.
ModelSpec Spec() {
  ModelSpec spec;
  spec.experts = 3;
  spec.blocks.push_back({.name = "trunk.weight", .shape = {10, 10}});
  spec.blocks.push_back({.name = "trunk.bias", .shape = {1}});
  for (int e = 0; e < 3; ++e) {
    spec.blocks.push_back({.name = "experts." + std::to_string(e),
                           .shape = {40},
                           .owner = BlockOwner::kExpert,
                           .expert = e});
  }
  return spec;
}

TaskAssignment Task(const UploadOptions& upload, std::vector<ExpertIndex> experts = {0},
                    RoundNumber round = 1) {
  TaskAssignment task{.task = 5, .client = "ann", .round = round, .experts = experts, .seed = 3};
  task.training.upload = upload;
  return task;
}

std::vector<std::byte> Bytes(const std::string& text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

std::vector<float> Ramp(std::size_t count, float scale) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = scale * static_cast<float>(i + 1);
  return values;
}

// A result with the trunk and the experts given.
TrainResult Trained(const std::vector<int>& experts, float scale = 1.0F) {
  TrainResult result;
  result.feedback.examples = 7;
  result.blocks.push_back({kTrunk, Ramp(100, scale)});
  result.blocks.push_back({kBias, {0.5F}});
  for (const int e : experts) result.blocks.push_back({kFirstExpert + e, Ramp(40, scale)});
  result.state = Bytes("gate");
  return result;
}

std::vector<float> Sent(const PreparedUpdate::Block& block) {
  if (block.encoded.payload.empty()) return block.delta;
  EXPECT_EQ(block.encoded.compression, Compression::kNone);
  std::vector<float> values(block.encoded.elements);
  const EncodedValues encoded{block.encoded.encoding, 0, block.encoded.elements,
                              block.encoded.payload};
  EXPECT_TRUE(DecodeValues(encoded, 0, values).ok());
  return values;
}

std::string TrainersPart(const TaskAssignment& task, std::span<const std::byte> state) {
  const auto part = TrainerState(task, state).value();
  return {reinterpret_cast<const char*>(part.data()), part.size()};
}

constexpr UploadOptions kTopTenth{.encoding = Encoding::kTopK, .top_k_fraction = 0.1};

TEST(PrepareUpdate, LeavesFloat32AsItIs) {
  const PreparedUpdate update = PrepareUpdate(Task({}), Spec(), {}, Trained({0})).value();
  EXPECT_EQ(update.feedback.examples, 7);
  ASSERT_EQ(update.blocks.size(), 3U);
  EXPECT_EQ(update.blocks[0].delta, Ramp(100, 1.0F));
  EXPECT_EQ(update.Outgoing()[0].encoded, nullptr);
  EXPECT_EQ(update.state, Bytes("gate")) << "the state is the trainer's own";
}

TEST(PrepareUpdate, IsAPureFunctionOfTheTaskAndItsResult) {
  const TaskAssignment task = Task({.encoding = Encoding::kInt8});
  const auto payload = [&](const TaskAssignment& of) {
    return PrepareUpdate(of, Spec(), {}, Trained({0}))->blocks[0].encoded.payload;
  };
  EXPECT_EQ(payload(task), payload(task));
  TaskAssignment other = task;
  other.round = 2;
  EXPECT_NE(payload(task), payload(other)) << "another round draws anew";
  other = task;
  other.client = "bob";
  EXPECT_NE(payload(task), payload(other));
  other = task;
  other.seed = 4;
  EXPECT_NE(payload(task), payload(other));
  other = task;
  other.attempt = 2;
  EXPECT_EQ(payload(task), payload(other)) << "the same work done again";
}

TEST(PrepareUpdate, CompressesWhereItIsAskedTo) {
  TrainResult result = Trained({});
  result.blocks[0].delta.assign(100, 0.25F);
  const PreparedUpdate update = PrepareUpdate(Task({.zstd = true}), Spec(), {}, result).value();
  EXPECT_EQ(update.blocks[0].encoded.encoding, Encoding::kFloat32);
  EXPECT_EQ(update.blocks[0].encoded.compression, Compression::kZstd);
  EXPECT_EQ(update.blocks[1].encoded.compression, Compression::kNone) << "4 bytes do not shrink";
}

TEST(PrepareUpdate, SendsTheRestOfTopKLater) {
  const ModelSpec spec = Spec();
  const TaskAssignment task = Task(kTopTenth);
  std::vector<double> sent(100, 0.0);
  std::vector<std::byte> state;
  constexpr int kRounds = 30;
  for (int round = 1; round <= kRounds; ++round) {
    PreparedUpdate update =
        PrepareUpdate(Task(kTopTenth, {0}, round), spec, state, Trained({0})).value();
    EXPECT_EQ(update.blocks[0].encoded.payload.size(), 80U) << "10 of 100 values";
    EXPECT_EQ(update.blocks[1].delta, std::vector<float>{0.5F}) << "one value is sent as it is";
    const std::vector<float> values = Sent(update.blocks[0]);
    for (std::size_t i = 0; i < 100; ++i) sent[i] += values[i];
    state = std::move(update.state);
    EXPECT_EQ(TrainersPart(task, state), "gate");
  }
  // What is missing of each element is its residual: less than a few rounds' worth.
  for (std::size_t i = 0; i < 100; ++i) {
    const double all = kRounds * static_cast<double>(i + 1);
    EXPECT_LE(sent[i], all * 1.000001);
    EXPECT_GE(sent[i], all - 1100.0) << i;
  }
  EXPECT_GT(sent[0] + sent[20], 0.0);
}

TEST(PrepareUpdate, KeepsTheResidualOfAnExpertWithoutTokens) {
  const ModelSpec spec = Spec();
  const std::vector<std::byte> first =
      PrepareUpdate(Task(kTopTenth, {0, 1}), spec, {}, Trained({0, 1}))->state;
  // Round 2: expert 1 is held and gets no token. Round 3: it does again, with nothing new.
  const std::vector<std::byte> second =
      PrepareUpdate(Task(kTopTenth, {0, 1}, 2), spec, first, Trained({0}))->state;
  TrainResult nothing = Trained({1}, 0.0F);
  const PreparedUpdate third =
      PrepareUpdate(Task(kTopTenth, {1}, 3), spec, second, nothing).value();
  std::vector<float> expected(40, 0.0F);
  for (std::size_t i = 32; i < 36; ++i) expected[i] = static_cast<float>(i + 1);
  EXPECT_EQ(Sent(third.blocks[2]), expected) << "the four greatest after the first four";
}

TEST(PrepareUpdate, DropsTheResidualOfAnExpertThatIsNoLongerHeld) {
  const ModelSpec spec = Spec();
  const std::vector<std::byte> first =
      PrepareUpdate(Task(kTopTenth, {0, 1}), spec, {}, Trained({0, 1}))->state;
  const std::vector<std::byte> second =
      PrepareUpdate(Task(kTopTenth, {0}, 2), spec, first, Trained({0}))->state;
  EXPECT_EQ(second.size(), first.size() - 12 - 40 * sizeof(float));
  const PreparedUpdate third =
      PrepareUpdate(Task(kTopTenth, {1}, 3), spec, second, Trained({1}, 0.0F)).value();
  EXPECT_EQ(Sent(third.blocks[2]), std::vector<float>(40, 0.0F));
}

// The first task of the attempt has sent the residual, and its state is the one that counts.
TEST(PrepareUpdate, ASecondTaskTakesNoResidualAndLeavesNoState) {
  const ModelSpec spec = Spec();
  const std::vector<std::byte> state =
      PrepareUpdate(Task(kTopTenth, {0, 1}), spec, {}, Trained({0, 1}))->state;
  TaskAssignment second = Task(kTopTenth, {1}, 2);
  second.follows = 1;
  const PreparedUpdate update = PrepareUpdate(second, spec, state, Trained({1}, 0.0F)).value();
  EXPECT_EQ(Sent(update.blocks[2]), std::vector<float>(40, 0.0F));
  EXPECT_TRUE(update.state.empty());
}

TEST(PrepareUpdate, NamesTheBlockThatIsNotFinite) {
  TrainResult result = Trained({});
  result.blocks[0].delta[17] = std::nanf("");
  EXPECT_EQ(
      PrepareUpdate(Task({.encoding = Encoding::kInt8}), Spec(), {}, result).status().ToString(),
      "OUT_OF_RANGE: block 'trunk.weight': element 17 is NaN");
}

TEST(PrepareUpdate, RefusesStateThatDoesNotFitTheModel) {
  const ModelSpec spec = Spec();
  const TaskAssignment task = Task(kTopTenth);
  std::vector<std::byte> state = PrepareUpdate(task, spec, {}, Trained({0}))->state;
  const auto fault = [&] {
    return PrepareUpdate(task, spec, state, Trained({0})).status().ToString();
  };
  EXPECT_EQ(fault(), "OK");
  const std::uint32_t wrong = 7;
  std::memcpy(state.data() + 8 + 4, &wrong, sizeof(wrong));
  EXPECT_EQ(fault(),
            "DATA_LOSS: the client state's residual of parameter 7 does not fit the model");
  state.resize(10);
  EXPECT_EQ(fault(), "DATA_LOSS: the client state ends early");
  EXPECT_EQ(TrainerState(task, state).status().ToString(),
            "DATA_LOSS: the client state ends early");
}

}  // namespace
}  // namespace fedmoe
