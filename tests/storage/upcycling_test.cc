// The initial model from a dense checkpoint: what each block starts from, and every complaint.
#include "storage/upcycling.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/counter_rng.h"
#include "tests/storage/storage_support.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

ParameterBlock Block(std::string name, std::vector<std::int64_t> shape,
                     BlockOwner owner = BlockOwner::kTrunk, ExpertIndex expert = -1) {
  ParameterBlock block{.name = std::move(name), .shape = std::move(shape), .owner = owner};
  block.expert = expert;
  block.merge = owner == BlockOwner::kExpert ? MergeRule::kByTokens : MergeRule::kByExamples;
  block.initializer = Initializer::kNormal;
  block.scale = 0.5;
  block.init_key = block.name;
  return block;
}

// A dense layer and a gated MoE layer of two experts, whose FFNs have a "gate.weight" of their own.
ModelSpec Spec() {
  ModelSpec spec{.preset = "test", .experts = 2, .top_k = 1};
  spec.blocks.push_back(Block("blocks.0.ffn.gate.weight", {2, 2}));
  spec.blocks.push_back(Block("blocks.1.gate.weight", {2, 3}));
  spec.blocks.push_back(Block("blocks.1.gate.bias", {2}));
  spec.blocks.push_back(Block("blocks.1.gate.mean", {3}));
  for (const ExpertIndex expert : {0, 1}) {
    const std::string prefix = "blocks.1.experts." + std::to_string(expert) + ".";
    spec.blocks.push_back(Block(prefix + "gate.weight", {1, 2}, BlockOwner::kExpert, expert));
    spec.blocks.push_back(Block(prefix + "up.weight", {2, 1}, BlockOwner::kExpert, expert));
  }
  spec.blocks.push_back(Block("blocks.1.constants.0.value", {2}));
  spec.blocks.push_back(Block("mine", {9}, BlockOwner::kClient));
  spec.blocks.push_back(Block("head.bias", {3}));
  return spec;
}

struct Tensor {
  std::string name;
  std::vector<std::int64_t> shape;
  std::vector<float> values;
};

std::vector<Tensor> DenseModel() {
  return {{"blocks.0.ffn.gate.weight", {2, 2}, {1, 2, 3, 4}},
          {"blocks.1.ffn.gate.weight", {1, 2}, {5, 6}},
          {"blocks.1.ffn.up.weight", {2, 1}, {-7, 8}},
          {"head.bias", {3}, {0.5F, 0.25F, 0.125F}}};
}

class UpcyclingTest : public ::testing::Test {
 protected:
  void Write(const std::vector<Tensor>& tensors) {
    std::vector<TensorInfo> infos;
    for (const Tensor& tensor : tensors) {
      infos.push_back({.name = tensor.name, .shape = tensor.shape});
    }
    std::string bytes = SafetensorsHeader(infos, {});
    for (const Tensor& tensor : tensors) {
      bytes.append(reinterpret_cast<const char*>(tensor.values.data()),
                   tensor.values.size() * sizeof(float));
    }
    WriteAll(path_, bytes);
  }
  // One tensor "w" of two-byte values.
  void WriteWords(const std::string& dtype, const std::vector<std::uint16_t>& words) {
    std::vector<TensorInfo> infos{
        {.name = "w", .dtype = dtype, .shape = {static_cast<std::int64_t>(words.size())}}};
    std::string bytes = SafetensorsHeader(infos, {});
    bytes.append(reinterpret_cast<const char*>(words.data()), words.size() * 2);
    WriteAll(path_, bytes);
  }
  Result<Upcycling> Open(const ModelSpec& spec, double noise = 0.0) {
    return Upcycling::Open(PosixFileSystem(), {.checkpoint = path_, .noise = noise}, spec);
  }
  static std::vector<float> Values(Upcycling& upcycling, const ParameterBlock& block,
                                   std::uint64_t seed = 3) {
    std::vector<float> values;
    EXPECT_OK(upcycling.WriteBlock(block, seed, [&](std::span<const float> piece) {
      values.insert(values.end(), piece.begin(), piece.end());
      return Status::Ok();
    }));
    return values;
  }
  std::string Refusal(const ModelSpec& spec) {
    const Result<Upcycling> upcycling = Open(spec);
    return upcycling.ok() ? "accepted" : upcycling.status().ToString();
  }

  TempDir directory_;
  const std::string path_ = directory_.File("dense.safetensors");
};

TEST_F(UpcyclingTest, ExpertsAreCopiesOfTheFfnAndTheRestOfTheTensorOfItsName) {
  Write(DenseModel());
  const ModelSpec spec = Spec();
  Result<Upcycling> upcycling = Open(spec);
  ASSERT_OK(upcycling.status());
  const auto values = [&](const std::string& name) {
    return Values(*upcycling, spec.blocks[static_cast<std::size_t>(spec.Find(name))]);
  };
  EXPECT_THAT(values("blocks.0.ffn.gate.weight"), ElementsAre(1, 2, 3, 4));
  for (const char* expert : {"0", "1"}) {
    const std::string prefix = std::string("blocks.1.experts.") + expert;
    EXPECT_THAT(values(prefix + ".gate.weight"), ElementsAre(5, 6)) << "of the FFN, no router";
    EXPECT_THAT(values(prefix + ".up.weight"), ElementsAre(-7, 8));
  }
  EXPECT_THAT(values("head.bias"), ElementsAre(0.5F, 0.25F, 0.125F));
  EXPECT_TRUE(upcycling->unused().empty());
  EXPECT_EQ(upcycling->digest(), Sha256Of(ReadAll(path_)));
}

TEST_F(UpcyclingTest, TheRouterStartsAsUsual) {
  Write(DenseModel());
  const ModelSpec spec = Spec();
  Result<Upcycling> upcycling = Open(spec);
  ASSERT_OK(upcycling.status());
  for (const char* name : {"blocks.1.gate.weight", "blocks.1.gate.bias", "blocks.1.gate.mean",
                           "blocks.1.constants.0.value"}) {
    const ParameterBlock& block = spec.blocks[static_cast<std::size_t>(spec.Find(name))];
    std::vector<float> usual(static_cast<std::size_t>(block.ElementCount()));
    InitializeBlock(block, 3, usual);
    EXPECT_EQ(Values(*upcycling, block), usual) << name;
    EXPECT_NE(Values(*upcycling, block, 4), usual) << name << " depends on the seed";
  }
}

TEST_F(UpcyclingTest, TakesExpertsWithoutAPrefix) {
  Write({{"ffn.up.weight", {2}, {1, 2}}});
  ModelSpec spec{.experts = 1, .top_k = 1};
  spec.blocks = {Block("experts.0.up.weight", {2}, BlockOwner::kExpert, 0),
                 Block("gate.weight", {1, 2})};
  Result<Upcycling> upcycling = Open(spec);
  ASSERT_OK(upcycling.status());
  EXPECT_THAT(Values(*upcycling, spec.blocks[0]), ElementsAre(1, 2));
}

TEST_F(UpcyclingTest, NamesTensorsThatNothingStartsFrom) {
  std::vector<Tensor> tensors = DenseModel();
  tensors.push_back({"z.weight", {1}, {1}});
  tensors.push_back({"a.weight", {1}, {1}});
  Write(tensors);
  const Result<Upcycling> upcycling = Open(Spec());
  ASSERT_OK(upcycling.status());
  EXPECT_THAT(upcycling->unused(), ElementsAre("a.weight", "z.weight"));
}

// Values of deviation 2 about a mean of 10, in two pieces of reading.
TEST_F(UpcyclingTest, NoiseDiffersByExpertAndHasTheBlocksScale) {
  const std::int64_t count = 300'000;
  std::vector<float> dense;
  for (std::int64_t i = 0; i < count; ++i) dense.push_back(i % 2 == 0 ? 8.0F : 12.0F);
  Write({{"ffn.weight", {count}, dense}, {"head", {2}, {1, 3}}});
  ModelSpec spec{.experts = 2, .top_k = 1};
  spec.blocks = {Block("experts.0.weight", {count}, BlockOwner::kExpert, 0),
                 Block("experts.1.weight", {count}, BlockOwner::kExpert, 1), Block("head", {2})};
  Result<Upcycling> upcycling = Open(spec, 0.05);
  ASSERT_OK(upcycling.status());
  const std::vector<float> first = Values(*upcycling, spec.blocks[0]);
  const std::vector<float> second = Values(*upcycling, spec.blocks[1]);
  ASSERT_EQ(first.size(), dense.size());
  double sum = 0.0, squares = 0.0, together = 0.0;
  for (std::size_t i = 0; i < dense.size(); ++i) {
    const double a = first[i] - dense[i];
    const double b = second[i] - dense[i];
    sum += a;
    squares += a * a;
    together += a * b;
  }
  // Deviation 0.05 * 2; of 300,000 draws the mean deviates by 1.8e-4, the mean square by 2.6e-5,
  // the mean product by 1.8e-5: six of each.
  const double n = static_cast<double>(count);
  EXPECT_NEAR(sum / n, 0.0, 1.1e-3);
  EXPECT_NEAR(squares / n, 0.01, 1.6e-4);
  EXPECT_NEAR(together / n, 0.0, 1.1e-4) << "each expert has its own";
  EXPECT_EQ(Values(*upcycling, spec.blocks[0]), first) << "a function of seed and block";
  EXPECT_NE(Values(*upcycling, spec.blocks[0], 4), first);
  EXPECT_THAT(Values(*upcycling, spec.blocks[2]), ElementsAre(1, 3)) << "experts only";
}

TEST_F(UpcyclingTest, ABlockWithoutSpreadHasNoNoise) {
  Write({{"ffn.bias", {2}, {0, 0}}});
  ModelSpec spec{.experts = 1, .top_k = 1};
  spec.blocks = {Block("experts.0.bias", {2}, BlockOwner::kExpert, 0)};
  Result<Upcycling> upcycling = Open(spec, 1.0);
  ASSERT_OK(upcycling.status());
  EXPECT_THAT(Values(*upcycling, spec.blocks[0]), Each(0.0F));
}

TEST_F(UpcyclingTest, ReadsHalfPrecision) {
  const ModelSpec spec{.blocks = {Block("w", {6})}};
  WriteWords("F16", {0x3c00, 0xc000, 0x3555, 0x0001, 0x8000, 0x7bff});
  Result<Upcycling> half = Open(spec);
  ASSERT_OK(half.status());
  const std::vector<float> values = Values(*half, spec.blocks[0]);
  EXPECT_THAT(values,
              ElementsAre(1.0F, -2.0F, 0.333251953125F, std::ldexp(1.0F, -24), 0.0F, 65504.0F));
  EXPECT_TRUE(std::signbit(values[4]));
  WriteWords("BF16", {0x3f80, 0xc000, 0x3eab, 0x0001, 0x8000, 0x7f7f});
  Result<Upcycling> brain = Open(spec);
  ASSERT_OK(brain.status());
  EXPECT_THAT(Values(*brain, spec.blocks[0]),
              ElementsAre(1.0F, -2.0F, 0.333984375F, std::bit_cast<float>(0x00010000U), -0.0F,
                          std::bit_cast<float>(0x7f7f0000U)));
}

TEST_F(UpcyclingTest, TellsEverythingThatDoesNotFitAtOnce) {
  Write({{"blocks.0.ffn.gate.weight", {2, 2}, {1, 2, 3, 4}},
         {"blocks.1.ffn.up.weight", {1, 2}, {-7, 8}},
         {"head.bias", {2}, {1, 2}}});
  EXPECT_EQ(Refusal(Spec()),
            "INVALID_ARGUMENT: " + path_ +
                ": has no tensor 'blocks.1.ffn.gate.weight' for block "
                "'blocks.1.experts.0.gate.weight': give the checkpoint of a dense model that is "
                "otherwise the same, exported with scripts/read_checkpoint --export\n" +
                path_ +
                ": tensor 'blocks.1.ffn.up.weight' is [1, 2], block 'blocks.1.experts.0.up.weight' "
                "is [2, 1]: give the model the dense model's widths, and its experts those of its "
                "FFN\n" +
                path_ +
                ": tensor 'head.bias' is [2], block 'head.bias' is [3]: give the model the dense "
                "model's widths, and its experts those of its FFN");
}

TEST_F(UpcyclingTest, TellsTenThingsAndHowManyMore) {
  Write({});
  ModelSpec spec;
  for (int i = 0; i < 12; ++i) spec.blocks.push_back(Block("b" + std::to_string(i), {1}));
  const std::string refusal = Refusal(spec);
  EXPECT_EQ(std::count(refusal.begin(), refusal.end(), '\n'), 10);
  EXPECT_THAT(refusal, ::testing::EndsWith("\nand 2 more like these"));
}

TEST_F(UpcyclingTest, RefusesADtypeThatIsNoneOfAModels) {
  WriteWords("I16", {1, 2});
  EXPECT_EQ(Refusal({.blocks = {Block("w", {2})}}),
            "INVALID_ARGUMENT: " + path_ +
                ": tensor 'w' for block 'w' is I16, must be F32, BF16 or F16: convert it");
}

TEST_F(UpcyclingTest, RefusesExpertsWhoseNamesSayNoFfn) {
  Write({});
  ModelSpec spec{.experts = 1, .top_k = 1};
  spec.blocks = {Block("myexperts.0.w", {2}, BlockOwner::kExpert, 0)};
  EXPECT_EQ(Refusal(spec),
            "INVALID_ARGUMENT: block 'myexperts.0.w' of an expert is not named "
            "PREFIXexperts.N.REST, so no tensor of a dense model answers to it; leave "
            "model.upcycle.checkpoint empty");
}

TEST_F(UpcyclingTest, RefusesValuesThatAreNotFinite) {
  Write({{"w", {2}, {1, std::numeric_limits<float>::infinity()}}});
  const ModelSpec spec{.blocks = {Block("w", {2})}};
  Result<Upcycling> upcycling = Open(spec);
  ASSERT_OK(upcycling.status());
  EXPECT_EQ(upcycling->WriteBlock(spec.blocks[0], 1, [](auto) { return Status::Ok(); }).ToString(),
            "INVALID_ARGUMENT: " + path_ +
                ": tensor 'w' has a value that is not finite: give another checkpoint");
}

TEST_F(UpcyclingTest, NamesAFileThatIsNotThereOrNotWhole) {
  EXPECT_EQ(Refusal(Spec()), "NOT_FOUND: open " + path_ + ": No such file or directory");
  WriteAll(path_, "short");
  EXPECT_EQ(Refusal(Spec()),
            "DATA_LOSS: " + path_ + ": is shorter than the 8 bytes of a header length");
}

}  // namespace
}  // namespace fedmoe
