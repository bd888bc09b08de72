// Image folders and the binary files of CIFAR, written small.
#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/batch.h"
#include "data/dataset.h"
#include "tests/data/image_files.h"
#include "tests/data/print_status.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

class ImageFolderTest : public ::testing::Test {
 protected:
  // Six training images of two classes, two test images; image i is all of grey i.
  void SetUp() override {
    for (int i = 0; i < 6; ++i) Write("train", i % 2 == 0 ? "cat" : "ant", i);
    Write("test", "ant", 101);
    Write("test", "cat", 102);
    options_.dataset = DatasetKind::kImageFolder;
    options_.path = folder_.path();
    options_.image.channels = 1;
    options_.holdout_fraction = 0.0;
    options_.partition.min_examples = 1;
  }
  void Write(const std::string& part, const std::string& name, int grey) const {
    const bool png = grey % 3 != 0;
    WriteInFolders(
        File(part + "/" + name + "/" + std::to_string(grey) + (png ? ".png" : ".JPG")),
        png ? GreyPng(4, 4, static_cast<std::uint8_t>(grey))
            : Jpeg(4, 4, 1, std::vector<std::uint8_t>(16, static_cast<std::uint8_t>(grey)), 100));
  }
  std::string File(const std::string& name) const { return folder_.File(name); }
  Status LocalError() const { return LoadLocalData(options_).status(); }

  TempDir folder_;
  DataOptions options_;
};

// The first pixel of each example.
std::vector<int> Greys(const Dataset& data) {
  std::vector<int> greys;
  const auto elements = static_cast<std::size_t>(data.ExampleElements());
  for (std::size_t i = 0; i < data.pixels.size(); i += elements) greys.push_back(data.pixels[i]);
  return greys;
}

TEST_F(ImageFolderTest, ClassesAreTheSortedFolders) {
  const auto data = LoadLocalData(options_);
  ASSERT_TRUE(data.ok()) << data.status().ToString();
  EXPECT_EQ(data->train.name, folder_.path());
  EXPECT_EQ(data->train.classes, 2);
  EXPECT_THAT(data->train.shape, ElementsAre(1, 4, 4));
  EXPECT_THAT(data->train.labels, ElementsAre(0, 0, 0, 1, 1, 1));
  EXPECT_THAT(Greys(data->train), ElementsAre(1, 3, 5, 0, 2, 4));
  EXPECT_TRUE(data->train.files.empty());
  const auto test = LoadTestData(options_);
  ASSERT_TRUE(test.ok()) << test.status().ToString();
  EXPECT_THAT(test->labels, ElementsAre(0, 1));
  EXPECT_THAT(Greys(*test), ElementsAre(101, 102));
}

TEST_F(ImageFolderTest, ImagesAreFittedToTheSizeAskedFor) {
  options_.image.size = 2;
  options_.image.channels = 3;
  options_.image.mean = {0.1, 0.2, 0.3};
  options_.image.deviation = {0.5};
  const auto data = LoadLocalData(options_);
  ASSERT_TRUE(data.ok()) << data.status().ToString();
  EXPECT_THAT(data->train.shape, ElementsAre(3, 2, 2));
  EXPECT_THAT(data->train.mean, ElementsAre(0.1f, 0.2f, 0.3f));
  EXPECT_THAT(data->train.deviation, ElementsAre(0.5f, 0.5f, 0.5f));
  std::vector<float> features(12);
  data->train.CopyExample(5, features);
  EXPECT_FLOAT_EQ(features[0], (4.0f / 255.0f - 0.1f) / 0.5f);
  EXPECT_FLOAT_EQ(features[11], (4.0f / 255.0f - 0.3f) / 0.5f);
}

TEST_F(ImageFolderTest, WithoutASizeTheFirstTrainingImageGivesIt) {
  WriteInFolders(File("test/ant/0.png"), GreyPng(9, 5, 7));
  const auto test = LoadTestData(options_);
  ASSERT_TRUE(test.ok()) << test.status().ToString();
  EXPECT_THAT(test->shape, ElementsAre(1, 4, 4));
  EXPECT_THAT(Greys(*test), ElementsAre(7, 101, 102));
}

TEST_F(ImageFolderTest, ImagesThatTakeTooMuchMemoryAreDecodedInTheBatch) {
  const auto decoded = LoadLocalData(options_);
  options_.image.memory_bytes = 95;  // 6 * 16 bytes
  const auto on_demand = LoadLocalData(options_);
  ASSERT_TRUE(on_demand.ok()) << on_demand.status().ToString();
  EXPECT_TRUE(on_demand->train.pixels.empty());
  EXPECT_EQ(on_demand->train.files.size(), 6u);
  const std::vector<std::int64_t> all = {0, 1, 2, 3, 4, 5};
  ExampleBatch expected, batch;
  ASSERT_TRUE(MakeBatch(decoded->train, all, {}, 0, expected).ok());
  ASSERT_TRUE(MakeBatch(on_demand->train, all, {}, 0, batch).ok());
  EXPECT_EQ(batch.features, expected.features);
  EXPECT_EQ(batch.labels, expected.labels);

  WriteBytes(on_demand->train.files[4], "no image");
  EXPECT_EQ(MakeBatch(on_demand->train, all, {}, 0, batch),
            InvalidArgument(on_demand->train.files[4] + ": neither JPEG nor PNG"));
}

TEST_F(ImageFolderTest, APartitionAndTheHoldoutShareOutTheImages) {
  options_.partition.kind = PartitionKind::kIid;
  options_.partition.clients = 2;
  options_.holdout_fraction = 0.34;
  std::vector<int> all;
  for (options_.client_index = 0; options_.client_index < 2; ++options_.client_index) {
    const auto data = LoadLocalData(options_);
    ASSERT_TRUE(data.ok()) << data.status().ToString();
    EXPECT_EQ(data->train.size(), 2);
    EXPECT_EQ(data->holdout.size(), 1);
    for (const int grey : Greys(data->train)) all.push_back(grey);
    for (const int grey : Greys(data->holdout)) all.push_back(grey);
  }
  std::sort(all.begin(), all.end());
  EXPECT_THAT(all, ElementsAre(0, 1, 2, 3, 4, 5));
}

TEST_F(ImageFolderTest, MaxExamplesDrawsTheSameFewEachTime) {
  options_.max_examples = 3;
  const auto data = LoadLocalData(options_);
  ASSERT_TRUE(data.ok()) << data.status().ToString();
  EXPECT_EQ(data->train.size(), 3);
  EXPECT_EQ(Greys(data->train), Greys(LoadLocalData(options_)->train));
  options_.max_examples = 1;
  EXPECT_EQ(LoadTestData(options_)->size(), 1);
  options_.max_test_examples = 2;
  EXPECT_EQ(LoadTestData(options_)->size(), 2);
}

TEST_F(ImageFolderTest, AListOfClassesNumbersThoseThatANodeLacks) {
  WriteBytes(File("classes.txt"), "ant\nbee\r\ncat\n");
  const auto data = LoadLocalData(options_);
  ASSERT_TRUE(data.ok()) << data.status().ToString();
  EXPECT_EQ(data->train.classes, 3);
  EXPECT_THAT(data->train.labels, ElementsAre(0, 0, 0, 2, 2, 2));
  WriteBytes(File("classes.txt"), "\n");
  EXPECT_EQ(LocalError(),
            InvalidArgument(File("classes.txt") + ": empty: it should name a class a line"));
}

TEST_F(ImageFolderTest, NamesTheFirstDamagedImage) {
  WriteBytes(File("train/cat/2.png"), "text");
  WriteBytes(File("train/cat/4.png"), GreyPng(4, 4, 4).substr(0, 20));
  EXPECT_EQ(LocalError(), InvalidArgument(File("train/cat/2.png") + ": neither JPEG nor PNG"));
}

TEST_F(ImageFolderTest, RefusesAnEmptyClass) {
  WriteInFolders(File("train/bee/notes.txt"), "no image");
  EXPECT_EQ(LocalError(),
            InvalidArgument(File("train/bee") +
                            ": no images (.jpg, .jpeg or .png) in this class folder"));
}

TEST_F(ImageFolderTest, RefusesATestClassThatTrainingLacks) {
  Write("test", "dog", 5);
  EXPECT_EQ(LoadTestData(options_).status(),
            InvalidArgument(File("test/dog") + ": not one of the classes ant, cat"));
}

TEST_F(ImageFolderTest, RefusesAFolderThatIsNone) {
  std::filesystem::remove_all(File("train"));
  EXPECT_EQ(LocalError(),
            NotFound(File("train") + ": no such folder; an image folder has train/<class>/ and "
                                     "test/<class>/ in it"));
  WriteInFolders(File("train/1.png"), GreyPng(4, 4, 1));
  EXPECT_EQ(LocalError(), InvalidArgument(File("train") + ": no class folders; images belong in " +
                                          File("train") + "/<class>/"));
  options_.path = File("none");
  EXPECT_EQ(LocalError(),
            NotFound(File("none") +
                     ": no such folder; fetch CIFAR-10 with ./scripts/fetch_data cifar10, or set "
                     "data.path"));
  options_.path = "";
  EXPECT_EQ(LocalError(), InvalidArgument("data.path must name the folder of train/ and test/ for "
                                          "dataset image_folder (got \"\")"));
}

TEST_F(ImageFolderTest, SaysWhatToDoAboutAnArchive) {
  std::filesystem::remove_all(File("train"));
  WriteBytes(File("cifar10-jpeg.tar.xz"), "x");
  EXPECT_EQ(LocalError(),
            FailedPrecondition(
                folder_.path() +
                ": holds an archive, cifar10-jpeg.tar.xz, and no images; run ./scripts/fetch_data "
                "cifar10, which unpacks CIFAR-10 into data/cifar10, and set data.path to the "
                "unpacked folder"));
}

TEST_F(ImageFolderTest, RefusesOptionsOutOfRange) {
  options_.image.channels = 2;
  EXPECT_EQ(LocalError(), InvalidArgument("data.image.channels must be 1 or 3 (got 2)"));
  options_.image.channels = 3;
  options_.image.size = -1;
  EXPECT_EQ(LocalError(), InvalidArgument("data.image.size must be in 0 to 16384 (got -1)"));
  options_.image.size = 4;
  options_.image.mean = {0.1, 0.2};
  EXPECT_EQ(LocalError(), InvalidArgument("data.image.mean must have 1 or 3 values (got 2)"));
  options_.image.mean = {0.5};
  options_.image.deviation = {0.0};
  EXPECT_EQ(LocalError(), InvalidArgument("data.image.deviation must be above 0 (got 0)"));
}

class CifarTest : public ::testing::Test {
 protected:
  void SetUp() override {
    options_.dataset = DatasetKind::kCifarBinary;
    options_.path = folder_.path();
    options_.holdout_fraction = 0.0;
  }
  static std::string Record(const std::string& labels, int value) {
    return labels + std::string(3072, static_cast<char>(value));
  }
  void WriteTen() const {
    for (int i = 1; i <= 5; ++i) {
      WriteBytes(File("data_batch_" + std::to_string(i) + ".bin"),
                 Record(std::string(1, static_cast<char>(i)), i) + Record("\x09", 100 + i));
    }
    WriteBytes(File("test_batch.bin"), Record("\x03", 200));
  }
  std::string File(const std::string& name) const { return folder_.File(name); }

  TempDir folder_;
  DataOptions options_;
};

TEST_F(CifarTest, ReadsTheFiveBatchesOfCifar10InOrder) {
  WriteTen();
  const auto data = LoadLocalData(options_);
  ASSERT_TRUE(data.ok()) << data.status().ToString();
  EXPECT_THAT(data->train.shape, ElementsAre(3, 32, 32));
  EXPECT_EQ(data->train.classes, 10);
  EXPECT_THAT(data->train.labels, ElementsAre(1, 9, 2, 9, 3, 9, 4, 9, 5, 9));
  EXPECT_THAT(Greys(data->train), ElementsAre(1, 101, 2, 102, 3, 103, 4, 104, 5, 105));
  const auto test = LoadTestData(options_);
  ASSERT_TRUE(test.ok()) << test.status().ToString();
  EXPECT_THAT(test->labels, ElementsAre(3));
  EXPECT_THAT(test->pixels, Each(200));
}

TEST_F(CifarTest, ReadsTheFineLabelsOfCifar100) {
  WriteBytes(File("train.bin"), Record("\x05\x63", 8) + Record("\x05\x07", 9));
  WriteBytes(File("test.bin"), Record(std::string("\x01\x00", 2), 1));
  const auto data = LoadLocalData(options_);
  ASSERT_TRUE(data.ok()) << data.status().ToString();
  EXPECT_EQ(data->train.classes, 100);
  EXPECT_THAT(data->train.labels, ElementsAre(99, 7));
  EXPECT_THAT(Greys(data->train), ElementsAre(8, 9));
  EXPECT_THAT(LoadTestData(options_)->labels, ElementsAre(0));
}

TEST_F(CifarTest, RefusesFilesThatAreMissingOrMalformed) {
  WriteTen();
  WriteBytes(File("data_batch_4.bin"), std::string(3072, '\1'));
  EXPECT_EQ(LoadLocalData(options_).status(),
            DataLoss(File("data_batch_4.bin") +
                     ": 3072 bytes are not one or more records of 3073 (CIFAR-10)"));
  WriteBytes(File("data_batch_4.bin"), "");
  EXPECT_EQ(LoadLocalData(options_).status(),
            DataLoss(File("data_batch_4.bin") +
                     ": 0 bytes are not one or more records of 3073 (CIFAR-10)"));
  WriteBytes(File("data_batch_4.bin"), Record("\x01", 1) + Record("\x0a", 1));
  EXPECT_EQ(
      LoadLocalData(options_).status(),
      InvalidArgument(File("data_batch_4.bin") + ": label 10 of example 1 is outside 0 to 9"));
  std::filesystem::remove(File("data_batch_4.bin"));
  EXPECT_EQ(LoadLocalData(options_).status(),
            NotFound(File("data_batch_4.bin") +
                     ": no such file; fetch CIFAR-10 with ./scripts/fetch_data cifar10, or set "
                     "data.path"));
  options_.dataset = DatasetKind::kImageFolder;
  EXPECT_EQ(LoadLocalData(options_).status(),
            FailedPrecondition(folder_.path() +
                               ": holds data_batch_1.bin and no images; set data.dataset to "
                               "cifar_binary"));
}

}  // namespace
}  // namespace fedmoe
