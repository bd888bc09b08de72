// Our checkpoints, read by scripts/read_checkpoint: Python and numpy, none of our code.
#include <array>
#include <cstdio>
#include <filesystem>

#include <gtest/gtest.h>
#include <sys/wait.h>

#include "storage/safetensors.h"
#include "storage/shard_store.h"
#include "storage/upcycling.h"
#include "tests/storage/storage_support.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

struct Outcome {
  int exit_code = -1;
  std::string output;  // standard output and error
};

Outcome RunScript(const std::string& arguments) {
  const std::string command = FEDMOE_SOURCE_DIR "/scripts/read_checkpoint " + arguments + " 2>&1";
  FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return {};
  Outcome outcome;
  std::array<char, 4096> buffer;
  while (const std::size_t count = std::fread(buffer.data(), 1, buffer.size(), pipe)) {
    outcome.output.append(buffer.data(), count);
  }
  const int status = ::pclose(pipe);
  outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return outcome;
}

class ReadCheckpoint : public ::testing::Test {
 protected:
  void SetUp() override {
    store_ = ShardStore::Open(PosixFileSystem(), path_ + "/checkpoints", spec_).value();
    base_ = store_->Stage(0, nullptr, AllShards(spec_, 0.0f, 2)).value();
    ASSERT_OK(store_->Commit(base_));
    next_ = store_->Stage(1, &base_, {RampContent(spec_, 2, 40.0f, 2)}).value();
    ASSERT_OK(store_->Commit(next_));
  }

  ModelSpec spec_ = SmallSpec();
  TempDir directory_;
  // As Python prints it: without doubled slashes.
  std::string path_ = std::filesystem::path(directory_.path()).lexically_normal().string();
  std::unique_ptr<ShardStore> store_;
  Manifest base_, next_;
};

TEST_F(ReadCheckpoint, ListsTheNewestVersionAndVerifiesIt) {
  const Outcome outcome = RunScript(path_);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_TRUE(outcome.output.starts_with("version 1: 4 shards verified, model " +
                                         next_.model_digest + "\n"))
      << outcome.output;
  // 40 to 43, from version 1's file; 100 to 103, from version 0's.
  const auto line = [&](const std::string& name) {
    const std::size_t begin = outcome.output.find("\n" + name + " ") + 1;
    return outcome.output.substr(begin, outcome.output.find('\n', begin) - begin);
  };
  EXPECT_EQ(
      line("experts.1.weight"),
      "experts.1.weight                         [2, 2]           mean +41.500000 std 1.118034");
  EXPECT_EQ(
      line("experts.0.weight"),
      "experts.0.weight                         [2, 2]           mean +101.500000 std 1.118034");
}

TEST_F(ReadCheckpoint, PrintsATensorOfAnOlderVersion) {
  const Outcome outcome = RunScript(path_ + " --version 0 --tensor experts.1.weight");
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_NE(outcome.output.find("[[200. 201.]\n [202. 203.]]\n"), std::string::npos)
      << outcome.output;
}

TEST_F(ReadCheckpoint, ReadsTheFilesAlone) {
  const Outcome outcome = RunScript(path_ + "/checkpoints/000001.moments.safetensors");
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_TRUE(outcome.output.starts_with("first.experts.1.weight ")) << outcome.output;
}

TEST_F(ReadCheckpoint, ExportsOneFile) {
  const std::string merged = directory_.File("merged.safetensors");
  const Outcome outcome = RunScript(path_ + " --export " + merged);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  const auto file = OpenFile(merged);
  const SafetensorsFile content = ReadSafetensorsHeader(*file, merged).value();
  EXPECT_EQ(content.tensors.size(), 8u);
  for (const TensorInfo& tensor : content.tensors) {
    const int block = spec_.Find(tensor.name);
    ASSERT_GE(block, 0) << tensor.name;
    EXPECT_EQ(tensor.shape, spec_.blocks[static_cast<std::size_t>(block)].shape);
    if (tensor.name != "experts.1.bias") continue;
    EXPECT_EQ(FloatsOf((*file->Map(tensor.offset, tensor.bytes))->bytes()), Ramp(1, 44.0f));
  }
}

TEST_F(ReadCheckpoint, ExportsWhatAModelIsUpcycledFrom) {
  const std::string merged = directory_.File("merged.safetensors");
  ASSERT_EQ(RunScript(path_ + " --export " + merged).exit_code, 0);
  ModelSpec spec;
  spec.blocks = {{.name = "trunk.weight", .shape = {2, 3}}, {.name = "head.bias", .shape = {2}}};
  Result<Upcycling> upcycling =
      Upcycling::Open(PosixFileSystem(), {.checkpoint = merged, .noise = 0.0}, spec);
  ASSERT_OK(upcycling.status());
  EXPECT_EQ(upcycling->unused().size(), 6u) << "the experts'";
  std::vector<float> values;
  ASSERT_OK(upcycling->WriteBlock(spec.blocks[0], 1, [&](std::span<const float> piece) {
    values.insert(values.end(), piece.begin(), piece.end());
    return Status::Ok();
  }));
  const auto file = OpenFile(merged);
  const SafetensorsFile content = ReadSafetensorsHeader(*file, merged).value();
  EXPECT_EQ(content.tensors[0].name, "trunk.weight");
  EXPECT_EQ(values, FloatsOf((*file->Map(content.tensors[0].offset, 24))->bytes()));
}

TEST_F(ReadCheckpoint, FailsOnADigestThatDiffers) {
  const std::string file = path_ + "/checkpoints/000000.safetensors";
  std::string content = ReadAll(file);
  content[base_.shards[3].offset] ^= 1;
  WriteAll(file, content);
  const Outcome outcome = RunScript(path_);
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_EQ(outcome.output,
            "read_checkpoint: " + file + ": shard expert.2 does not have its digest\n");
}

TEST_F(ReadCheckpoint, SaysWhatIsNotThere) {
  const Outcome version = RunScript(path_ + " --version 9");
  EXPECT_EQ(version.exit_code, 1);
  EXPECT_EQ(version.output,
            "read_checkpoint: " + path_ + "/checkpoints/000009.json: no such file\n");
  const Outcome tensor = RunScript(path_ + " --tensor nothing");
  EXPECT_EQ(tensor.exit_code, 1);
  EXPECT_NE(tensor.output.find("read_checkpoint: " + path_ + ": no tensor nothing\n"),
            std::string::npos);
}

}  // namespace
}  // namespace fedmoe
