// scripts/fetch_data without a network: mirrors are folders, named by file:// addresses.
#include <array>
#include <cstdio>
#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include "tests/data/idx_files.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

using ::testing::HasSubstr;

struct Outcome {
  int code = -1;
  std::string output;
};

Outcome Fetch(const std::string& environment, const std::string& arguments) {
  const std::string command =
      environment + " '" FEDMOE_SOURCE_DIR "/scripts/fetch_data' " + arguments + " 2>&1";
  Outcome outcome;
  FILE* pipe = popen(command.c_str(), "r");
  std::array<char, 4096> buffer{};
  while (const std::size_t length = fread(buffer.data(), 1, buffer.size(), pipe)) {
    outcome.output.append(buffer.data(), length);
  }
  outcome.code = WEXITSTATUS(pclose(pipe));
  return outcome;
}

TEST(FetchDataTest, WithoutAMirrorItSaysSoAndLeavesNothing) {
  const TempDir folder;
  const Outcome outcome = Fetch("FEDMOE_MNIST_URL=file://" + folder.File("nowhere"),
                                "mnist --data-dir '" + folder.File("data") + "'");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.output,
              HasSubstr("fetch_data: no mirror gave train-images-idx3-ubyte.gz; without internet, "
                        "copy the four files of MNIST into " +
                        folder.File("data/mnist") +
                        ", or set FEDMOE_MNIST_URL to a mirror that this machine can reach\n"));
  EXPECT_FALSE(std::filesystem::exists(folder.File("data")));
}

TEST(FetchDataTest, WrongContentIsRefusedAndNotKept) {
  const TempDir folder;
  WriteBytes(folder.File("train-images-idx3-ubyte.gz"), Gzip("something else"));
  const Outcome outcome = Fetch("FEDMOE_MNIST_URL=file://" + folder.path(),
                                "mnist --data-dir '" + folder.File("data") + "'");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.output, HasSubstr("train-images-idx3-ubyte.gz: wrong content (SHA-256 "));
  EXPECT_FALSE(std::filesystem::exists(folder.File("data")));
}

TEST(FetchDataTest, WrongUsageIsExitCodeTwo) {
  EXPECT_EQ(Fetch("", "").code, 2);
  const Outcome outcome = Fetch("", "letters");
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.output, "fetch_data: unknown dataset letters; the only one is mnist\n");
  EXPECT_EQ(Fetch("", "--help").code, 0);
}

}  // namespace
}  // namespace fedmoe
