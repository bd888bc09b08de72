// A run that starts from a dense checkpoint.
#include <cstring>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/safetensors.h"
#include "tests/coordinator/fleet.h"

namespace fedmoe {
namespace {

using ::testing::HasSubstr;

// Name, shape, values of what the fleet's model would be with one FFN.
struct DenseTensor {
  const char* name;
  std::vector<std::int64_t> shape;
  float start;
};

const std::vector<DenseTensor> kDense = {{"trunk.weight", {4, 3}, 1.0F},
                                         {"ffn.weight", {5, 4}, 0.5F},
                                         {"ffn.bias", {3}, -1.0F},
                                         {"head.bias", {5}, 2.0F}};

// The value at i is start + i / 64.
std::vector<float> ValuesOf(const DenseTensor& tensor) {
  std::int64_t count = 1;
  for (const std::int64_t extent : tensor.shape) count *= extent;
  std::vector<float> values;
  for (std::int64_t i = 0; i < count; ++i) {
    values.push_back(tensor.start + static_cast<float>(i) / 64.0F);
  }
  return values;
}

void WriteDense(const std::string& path) {
  std::vector<TensorInfo> infos;
  for (const DenseTensor& tensor : kDense) {
    infos.push_back({.name = tensor.name, .shape = tensor.shape});
  }
  std::string bytes = SafetensorsHeader(infos, {});
  for (const DenseTensor& tensor : kDense) {
    const std::vector<float> values = ValuesOf(tensor);
    bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  }
  std::ofstream(path, std::ios::binary) << bytes;
}

// By plain text: the values that a block of the fleet's model starts from.
std::vector<float> InitialOf(const ParameterBlock& block, std::uint64_t seed) {
  std::string source = block.name;
  if (block.owner == BlockOwner::kExpert) source = "ffn" + source.substr(source.rfind('.'));
  for (const DenseTensor& tensor : kDense) {
    if (source == tensor.name) return ValuesOf(tensor);
  }
  std::vector<float> values(static_cast<std::size_t>(block.ElementCount()));
  InitializeBlock(block, seed, values);
  return values;
}

TEST(UpcyclingRunTest, TrainsFromTheDenseModel) {
  TempDir dense;
  CoreOptions options = FleetOptions();
  options.upcycle.checkpoint = dense.File("dense.safetensors");
  WriteDense(options.upcycle.checkpoint);
  Fleet fleet(options);
  const RunSummary summary = fleet.RunToEnd();
  EXPECT_EQ(summary.status, "completed") << summary.detail;
  EXPECT_EQ(summary.model_digest, ReferenceDigest(options, fleet.ledger, InitialOf));
  EXPECT_NE(summary.model_digest, ReferenceDigest(options, fleet.ledger));
}

TEST(UpcyclingRunTest, ARunThatGoesOnDoesNotReadTheCheckpointAgain) {
  TempDir dense;
  CoreOptions options = FleetOptions();
  options.upcycle.checkpoint = dense.File("dense.safetensors");
  WriteDense(options.upcycle.checkpoint);
  const Digest digest = Sha256Of(ReadAll(options.upcycle.checkpoint));
  Fleet fleet(options);
  EXPECT_OK(fleet.coordinator.Start());
  fleet.coordinator.Kill();
  EXPECT_OK(PosixFileSystem().Remove(options.upcycle.checkpoint));
  const RunSummary summary = fleet.RunToEnd();
  EXPECT_EQ(summary.status, "completed") << summary.detail;
  EXPECT_EQ(summary.model_digest, ReferenceDigest(options, fleet.ledger, InitialOf));
  fleet.CrashClients();
  fleet.coordinator.Kill();
  const auto journal = Journal::Open(fleet.Path("journal.sqlite"));
  ASSERT_OK(journal.status());
  EXPECT_EQ((*journal)->Fact("upcycle_digest").value(), digest);
}

TEST(UpcyclingRunTest, DoesNotStartFromACheckpointThatDoesNotFit) {
  TempDir dense;
  CoreOptions options = FleetOptions();
  options.upcycle.checkpoint = dense.File("dense.safetensors");
  WriteDense(options.upcycle.checkpoint);
  options.run.spec.blocks[0].shape = {3, 4};
  Fleet fleet(options);
  EXPECT_THAT(fleet.coordinator.Start().ToString(),
              HasSubstr("tensor 'trunk.weight' is [4, 3], block 'trunk.weight' is [3, 4]"));
}

}  // namespace
}  // namespace fedmoe
