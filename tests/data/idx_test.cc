// The IDX reader: what it accepts, and every error word for word, from the plain file and from
// gzip.
#include "data/idx.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/data/idx_files.h"
#include "tests/data/print_status.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

using ::testing::ElementsAre;

// Runs each test on the plain file and on its gzip form: the same content gives the same answer
// under another name.
class IdxTest : public ::testing::TestWithParam<bool> {
 protected:
  // The path that is written, and that errors name.
  std::string PathOf(const std::string& name) const {
    return folder_.File(name) + (GetParam() ? ".gz" : "");
  }
  void Write(const std::string& name, const std::string& bytes) {
    WriteBytes(PathOf(name), GetParam() ? Gzip(bytes) : bytes);
  }
  Status ReadImages(const std::string& bytes) {
    Write("images", bytes);
    return ReadIdxImages(folder_.File("images")).status();
  }
  Status ReadLabels(const std::string& bytes) {
    Write("labels", bytes);
    return ReadIdxLabels(folder_.File("labels")).status();
  }

  TempDir folder_;
  const std::string images_ = PathOf("images");
  const std::string labels_ = PathOf("labels");
};

INSTANTIATE_TEST_SUITE_P(Forms, IdxTest, ::testing::Values(false, true),
                         [](const auto& param) { return param.param ? "Gzip" : "Plain"; });

TEST_P(IdxTest, ReadsImages) {
  Write("images", ImagesFile(2, 1, 3, "abcdef"));
  const auto images = ReadIdxImages(folder_.File("images"));
  ASSERT_TRUE(images.ok()) << images.status().ToString();
  EXPECT_EQ(images->count, 2);
  EXPECT_EQ(images->rows, 1);
  EXPECT_EQ(images->columns, 3);
  EXPECT_THAT(images->pixels, ElementsAre('a', 'b', 'c', 'd', 'e', 'f'));
}

TEST_P(IdxTest, ReadsLabels) {
  Write("labels", LabelsFile("\x05\x09\x04"));
  const auto labels = ReadIdxLabels(folder_.File("labels"));
  ASSERT_TRUE(labels.ok()) << labels.status().ToString();
  EXPECT_THAT(*labels, ElementsAre(5, 9, 4));
}

TEST_P(IdxTest, RefusesAFileThatEndsEarly) {
  EXPECT_EQ(ReadImages(ImagesFile(2, 1, 3, "abcde")),
            DataLoss(images_ + ": truncated: 21 bytes where the header says 22"));
  EXPECT_EQ(ReadLabels(Words({0x801, 4}) + "abc"),
            DataLoss(labels_ + ": truncated: 11 bytes where the header says 12"));
}

TEST_P(IdxTest, RefusesAFileThatEndsInsideItsHeader) {
  EXPECT_EQ(ReadImages(Words({0x803, 2})),
            DataLoss(images_ + ": truncated: 8 bytes where the header says 16"));
  EXPECT_EQ(ReadLabels(""), DataLoss(labels_ + ": truncated: 0 bytes where the header says 8"));
}

TEST_P(IdxTest, AShortFileThatClaimsMuchIsTruncatedAndNotAllocated) {
  EXPECT_EQ(ReadImages(ImagesFile(1 << 16, 128, 128, "abc")),
            DataLoss(images_ + ": truncated: 19 bytes where the header says 1073741840"));
}

TEST_P(IdxTest, RefusesBytesAfterTheEnd) {
  EXPECT_EQ(ReadImages(ImagesFile(2, 1, 3, "abcdefgh")),
            DataLoss(images_ + ": 2 bytes follow the 22 that the header says"));
  EXPECT_EQ(ReadLabels(Words({0x801, 1}) + std::string(70000, 'x')),
            DataLoss(labels_ + ": 69999 bytes follow the 9 that the header says"));
}

TEST_P(IdxTest, RefusesAnotherMagicNumber) {
  EXPECT_EQ(
      ReadImages(LabelsFile("abcdefgh")),
      InvalidArgument(images_ + ": wrong magic number 0x00000801 (want 0x00000803 for images)"));
  EXPECT_EQ(
      ReadLabels(ImagesFile(1, 1, 1, "a")),
      InvalidArgument(labels_ + ": wrong magic number 0x00000803 (want 0x00000801 for labels)"));
  EXPECT_EQ(
      ReadLabels("text"),
      InvalidArgument(labels_ + ": wrong magic number 0x74657874 (want 0x00000801 for labels)"));
}

TEST_P(IdxTest, RefusesAnEmptySet) {
  EXPECT_EQ(ReadImages(ImagesFile(0, 28, 28, "")),
            InvalidArgument(images_ + ": empty: the header says 0 examples"));
  EXPECT_EQ(ReadLabels(LabelsFile("")),
            InvalidArgument(labels_ + ": empty: the header says 0 examples"));
}

TEST_P(IdxTest, RefusesSidesOutOfRange) {
  EXPECT_EQ(ReadImages(ImagesFile(1, 0, 28, "")),
            InvalidArgument(images_ + ": 0x28 images are outside 1 to 4096 a side"));
  EXPECT_EQ(ReadImages(ImagesFile(1, 28, 4097, "")),
            InvalidArgument(images_ + ": 28x4097 images are outside 1 to 4096 a side"));
}

TEST_P(IdxTest, RefusesMoreThanOneGibibyte) {
  EXPECT_EQ(
      ReadImages(ImagesFile(65537, 128, 128, "")),
      InvalidArgument(images_ + ": the header says 1073758208 bytes of data, over the limit of "
                                "1073741824"));
  EXPECT_EQ(
      ReadLabels(Words({0x801, 0xffffffff})),
      InvalidArgument(labels_ + ": the header says 4294967295 bytes of data, over the limit of "
                                "1073741824"));
}

TEST(IdxPathTest, SaysHowToGetAMissingFile) {
  const TempDir folder;
  const std::string path = folder.File("images");
  EXPECT_EQ(ReadIdxImages(path).status(),
            NotFound(path + ": no such file (nor " + path +
                     ".gz); fetch it with scripts/fetch_data mnist, or set data.path"));
  EXPECT_EQ(ReadIdxLabels(path + ".gz").status(),
            NotFound(path + ".gz: no such file; fetch it with scripts/fetch_data mnist, or set "
                            "data.path"));
}

TEST(IdxPathTest, PrefersThePlainFile) {
  const TempDir folder;
  WriteBytes(folder.File("labels"), LabelsFile("\x01"));
  WriteBytes(folder.File("labels.gz"), Gzip(LabelsFile("\x02")));
  EXPECT_THAT(ReadIdxLabels(folder.File("labels")).value(), ElementsAre(1));
  EXPECT_THAT(ReadIdxLabels(folder.File("labels.gz")).value(), ElementsAre(2));
}

class DamagedGzipTest : public ::testing::Test {
 protected:
  Status Read(const std::string& bytes) {
    WriteBytes(path_, bytes);
    return ReadIdxLabels(folder_.File("labels")).status();
  }
  TempDir folder_;
  std::string path_ = folder_.File("labels.gz");
};

TEST_F(DamagedGzipTest, NamesWhatIsWrong) {
  const std::string whole = Gzip(LabelsFile("\x01\x02\x03"));
  EXPECT_EQ(Read("not gzip at all"),
            DataLoss(path_ + ": not gzip, or damaged: incorrect header check"));
  EXPECT_EQ(Read(""), DataLoss(path_ + ": not gzip, or damaged: the compressed data ends early"));
  EXPECT_EQ(Read(whole.substr(0, whole.size() - 3)),
            DataLoss(path_ + ": not gzip, or damaged: the compressed data ends early"));
  EXPECT_EQ(Read(whole + "junk"),
            DataLoss(path_ + ": not gzip, or damaged: incorrect header check"));
  std::string wrong_checksum = whole;
  wrong_checksum[whole.size() - 8] ^= 1;
  EXPECT_EQ(Read(wrong_checksum), DataLoss(path_ + ": not gzip, or damaged: incorrect data check"));
}

TEST_F(DamagedGzipTest, SeveralMembersAreOneFile) {
  const std::string bytes = LabelsFile("\x01\x02\x03");
  EXPECT_TRUE(Read(Gzip(bytes.substr(0, 5)) + Gzip(bytes.substr(5))).ok());
}

TEST(CheckIdxLabelsTest, NamesTheFirstLabelOutOfRange) {
  const std::vector<std::uint8_t> labels = {0, 9, 10, 255};
  EXPECT_EQ(CheckIdxLabels(labels, 10, "d/labels"),
            InvalidArgument("d/labels: label 10 of example 2 is outside 0 to 9"));
  EXPECT_TRUE(CheckIdxLabels(labels, 256, "d/labels").ok());
}

}  // namespace
}  // namespace fedmoe
