// scripts/fetch_data without a network: mirrors are folders, named by file:// addresses.
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include "tests/data/idx_files.h"
#include "tests/data/image_files.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

using ::testing::HasSubstr;

struct Outcome {
  int code = -1;
  std::string output;
};

Outcome Output(const std::string& command) {
  Outcome outcome;
  FILE* pipe = popen(command.c_str(), "r");
  std::array<char, 4096> buffer{};
  while (const std::size_t length = fread(buffer.data(), 1, buffer.size(), pipe)) {
    outcome.output.append(buffer.data(), length);
  }
  outcome.code = WEXITSTATUS(pclose(pipe));
  return outcome;
}

Outcome Fetch(const std::string& environment, const std::string& arguments) {
  return Output(environment + " '" FEDMOE_SOURCE_DIR "/scripts/fetch_data' " + arguments + " 2>&1");
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

TEST(FetchDataTest, LanguagesAreCopiedFromTheFolderOfDatasetsAndKept) {
  const TempDir folder;
  for (const char* language : {"de", "en", "es", "fr", "it", "nl", "pl", "pt_BR"}) {
    for (const char* part : {"train", "test"}) {
      WriteInFolders(folder.File(std::string("from/languages/") + language + "." + part + ".txt"),
                     language);
    }
  }
  const std::string environment = "FEDMOE_DATA_DIR='" + folder.File("from") + "'";
  const std::string arguments = "languages --data-dir '" + folder.File("data") + "'";
  Outcome outcome = Fetch(environment, arguments);
  EXPECT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_TRUE(std::filesystem::exists(folder.File("data/languages/pt_BR.test.txt")));
  outcome = Fetch(environment, arguments);
  EXPECT_EQ(outcome.output, "The languages are already in " + folder.File("data/languages") +
                                ", all sixteen files; nothing to do.\n");
}

TEST(FetchDataTest, AnArchiveWithoutTheImagesOfCifarIsRefusedAndNotKept) {
  const TempDir folder;
  WriteInFolders(folder.File("from/cifar10/train/cat/0001.jpg"), "x");
  const std::string from = folder.File("from/cifar10");
  ASSERT_EQ(
      std::system(("tar -cJf '" + from + "/cifar10-jpeg.tar.xz' -C '" + from + "' train").c_str()),
      0);
  const Outcome outcome = Fetch("FEDMOE_DATA_DIR='" + folder.File("from") + "'",
                                "cifar10 --data-dir '" + folder.File("data") + "'");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.output, HasSubstr("has 1 images in train/ and test/, where CIFAR-10 has "
                                        "60000\n"));
  EXPECT_FALSE(std::filesystem::exists(folder.File("data")));
}

TEST(FetchDataTest, ManualPagesBecomePlainText) {
  const TempDir folder;
  const std::string page =
      ".TH A 1\n.\\\" no text\n.SH NAME\na \\- does \\fBall\\fR\n.PP\n.BR b (1)\nit\\(aqs "
      "\\[u00E9]\n.TS\nl l.\n.TE\n.B \"two words\"\n";
  const std::string expected = "NAME\na - does all\nb(1)\nit's \xc3\xa9\ntwo words\n";
  const std::string command =
      "PYTHONDONTWRITEBYTECODE=1 python3 -c 'import sys; sys.path.insert(0, \"" FEDMOE_SOURCE_DIR
      "/scripts/lib\"); import roff_text; "
      "sys.stdout.write(roff_text.page_text(open(sys.argv[1]).read()))' '" +
      folder.File("a.1") + "'";
  WriteBytes(folder.File("a.1"), page);
  EXPECT_EQ(Output(command).output, expected);
}

TEST(FetchDataTest, WrongUsageIsExitCodeTwo) {
  EXPECT_EQ(Fetch("", "").code, 2);
  const Outcome outcome = Fetch("", "letters");
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.output,
            "fetch_data: unknown dataset letters; known: mnist, cifar10, shakespeare, languages\n");
  EXPECT_EQ(Fetch("", "--help").code, 0);
}

}  // namespace
}  // namespace fedmoe
