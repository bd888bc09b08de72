// How a node gets its own examples, from small IDX files and from `domains`.
#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/dataset.h"
#include "tests/data/idx_files.h"
#include "tests/data/print_status.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

using ::testing::ElementsAre;

// `examples` images of 1x2: image i is (i, label), its label i mod 10, so that a pixel tells which
// example it came from.
void WriteSet(const TempDir& folder, const std::string& prefix, int examples) {
  std::string pixels, labels;
  for (int i = 0; i < examples; ++i) {
    pixels += static_cast<char>(i);
    pixels += static_cast<char>(i % 10);
    labels += static_cast<char>(i % 10);
  }
  WriteBytes(folder.File(prefix + "-images-idx3-ubyte"),
             ImagesFile(static_cast<std::uint32_t>(examples), 1, 2, pixels));
  WriteBytes(folder.File(prefix + "-labels-idx1-ubyte.gz"), Gzip(LabelsFile(labels)));
}

class LoadIdxTest : public ::testing::Test {
 protected:
  void SetUp() override {
    WriteSet(folder_, "train", 100);
    WriteSet(folder_, "t10k", 30);
    options_.dataset = DatasetKind::kIdx;
    options_.path = folder_.path();
    options_.partition.min_examples = 1;
  }
  std::string Labels(const std::string& prefix) const {
    return folder_.File(prefix + "-labels-idx1-ubyte");
  }

  TempDir folder_;
  DataOptions options_;
};

// The examples' numbers, from their first pixels; checks that each kept its own label.
std::vector<int> Numbers(const Dataset& dataset) {
  std::vector<int> numbers;
  for (std::int64_t i = 0; i < dataset.size(); ++i) {
    numbers.push_back(dataset.pixels[static_cast<std::size_t>(2 * i)]);
    EXPECT_EQ(dataset.labels[static_cast<std::size_t>(i)], numbers.back() % 10);
  }
  return numbers;
}

std::vector<int> Sorted(std::vector<int> values, const std::vector<int>& more) {
  values.insert(values.end(), more.begin(), more.end());
  std::sort(values.begin(), values.end());
  return values;
}

TEST_F(LoadIdxTest, WithoutAPartitionTheWholeFilesAreTheNodes) {
  const auto data = LoadLocalData(options_);
  ASSERT_TRUE(data.ok()) << data.status().ToString();
  EXPECT_EQ(data->train.size(), 80);
  EXPECT_EQ(data->holdout.size(), 20);
  EXPECT_THAT(data->train.shape, ElementsAre(1, 1, 2));
  EXPECT_EQ(data->train.classes, 10);
  EXPECT_EQ(data->train.name, folder_.path());
  const auto all = Sorted(Numbers(data->train), Numbers(data->holdout));
  for (int i = 0; i < 100; ++i) EXPECT_EQ(all[static_cast<std::size_t>(i)], i);
}

TEST_F(LoadIdxTest, ClientsOfAPartitionShareOutTheWholeSet) {
  options_.partition.kind = PartitionKind::kIid;
  options_.partition.clients = 3;
  std::vector<int> all;
  for (options_.client_index = 0; options_.client_index < 3; ++options_.client_index) {
    const auto data = LoadLocalData(options_);
    ASSERT_TRUE(data.ok()) << data.status().ToString();
    EXPECT_EQ(data->holdout.size(), 7);
    all = Sorted(Sorted(all, Numbers(data->train)), Numbers(data->holdout));
  }
  ASSERT_EQ(all.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(all[static_cast<std::size_t>(i)], i);
}

TEST_F(LoadIdxTest, TheSplitIsAFunctionOfTheOptions) {
  const auto first = LoadLocalData(options_);
  const auto again = LoadLocalData(options_);
  EXPECT_EQ(Numbers(first->holdout), Numbers(again->holdout));
  options_.partition.seed = 2;
  EXPECT_NE(Numbers(first->holdout), Numbers(LoadLocalData(options_)->holdout));
  options_.partition.seed = 1;
  options_.client_index = 1;
  EXPECT_NE(Numbers(first->holdout), Numbers(LoadLocalData(options_)->holdout));
}

TEST_F(LoadIdxTest, WithoutHoldoutAllIsForTraining) {
  options_.holdout_fraction = 0.0;
  const auto data = LoadLocalData(options_);
  EXPECT_EQ(data->train.size(), 100);
  EXPECT_EQ(data->holdout.size(), 0);
  EXPECT_THAT(data->holdout.shape, ElementsAre(1, 1, 2));
}

TEST_F(LoadIdxTest, TheTestSetIsTheT10kFilesWhole) {
  const auto test = LoadTestData(options_);
  ASSERT_TRUE(test.ok()) << test.status().ToString();
  EXPECT_EQ(test->size(), 30);
  EXPECT_EQ(Numbers(*test)[29], 29);
}

TEST_F(LoadIdxTest, PixelsAreNormalisedByMnistsMeanAndDeviation) {
  const auto test = LoadTestData(options_);
  std::vector<float> features(2);
  test->CopyExample(29, features);
  EXPECT_FLOAT_EQ(features[0], (29.0f / 255.0f - 0.1307f) / 0.3081f);
  EXPECT_FLOAT_EQ(features[1], (9.0f / 255.0f - 0.1307f) / 0.3081f);
}

TEST_F(LoadIdxTest, RefusesLabelsAndImagesThatDoNotMatch) {
  WriteBytes(Labels("train") + ".gz", Gzip(LabelsFile(std::string(99, '\1'))));
  EXPECT_EQ(LoadLocalData(options_).status(),
            InvalidArgument(Labels("train") + ": 99 labels for 100 images"));
  WriteBytes(Labels("t10k") + ".gz", Gzip(LabelsFile(std::string(31, '\1'))));
  EXPECT_EQ(LoadTestData(options_).status(),
            InvalidArgument(Labels("t10k") + ": 31 labels for 30 images"));
}

TEST_F(LoadIdxTest, RefusesALabelOutOfRange) {
  WriteBytes(Labels("train") + ".gz", Gzip(LabelsFile(std::string(99, '\1') + "\x0a")));
  EXPECT_EQ(LoadLocalData(options_).status(),
            InvalidArgument(Labels("train") + ": label 10 of example 99 is outside 0 to 9"));
}

TEST_F(LoadIdxTest, RefusesAMissingFile) {
  std::filesystem::remove(Labels("train") + ".gz");
  EXPECT_EQ(LoadLocalData(options_).status(),
            NotFound(Labels("train") + ": no such file (nor " + Labels("train") +
                     ".gz); fetch it with scripts/fetch_data mnist, or set data.path"));
  options_.path.clear();
  const Status no_path =
      InvalidArgument("data.path must name the folder of the IDX files for dataset idx (got \"\")");
  EXPECT_EQ(LoadLocalData(options_).status(), no_path);
  EXPECT_EQ(LoadTestData(options_).status(), no_path);
}

TEST_F(LoadIdxTest, RefusesOptionsOutOfRange) {
  options_.client_index = -1;
  EXPECT_EQ(LoadLocalData(options_).status(),
            InvalidArgument("data.client_index must be at least 0 (got -1)"));
  options_.client_index = 5;
  options_.partition.kind = PartitionKind::kIid;
  options_.partition.clients = 4;
  EXPECT_EQ(LoadLocalData(options_).status(),
            InvalidArgument("data.client_index must be below data.partition.clients (got 5 >= 4)"));
  options_.holdout_fraction = 0.95;
  EXPECT_EQ(LoadLocalData(options_).status(),
            InvalidArgument("data.holdout_fraction must be in 0 to 0.9 (got 0.95)"));
}

TEST_F(LoadIdxTest, RefusesAHoldoutThatLeavesNothingToTrainOn) {
  WriteSet(folder_, "train", 1);
  options_.holdout_fraction = 0.5;
  EXPECT_EQ(LoadLocalData(options_).status(),
            InvalidArgument("data.holdout_fraction 0.5 leaves none of client 0's 1 examples to "
                            "train on"));
}

TEST(LoadDomainsTest, SplitsTheClientsOwnExamples) {
  DataOptions options;
  options.client_index = 3;
  const auto data = LoadLocalData(options);
  ASSERT_TRUE(data.ok()) << data.status().ToString();
  EXPECT_EQ(data->train.size(), 410);
  EXPECT_EQ(data->holdout.size(), 102);
  EXPECT_EQ(data->train.values.size(), 410u * 32);
  EXPECT_EQ(data->train.domains.size(), 410u);
  EXPECT_EQ(data->holdout.labels, LoadLocalData(options)->holdout.labels);
  EXPECT_EQ(LoadTestData(options)->size(), 512);
}

TEST(LoadDomainsTest, RefusesAPartitionAndOptionsOutOfRange) {
  DataOptions options;
  options.partition.kind = PartitionKind::kDirichlet;
  EXPECT_EQ(LoadLocalData(options).status(),
            InvalidArgument("data.partition.kind must be none for dataset domains, which generates "
                            "each client's own examples"));
  options.partition.kind = PartitionKind::kNone;
  options.domains.classes = 1;
  const Status out_of_range = InvalidArgument("data.domains.classes must be in 2 to 1024 (got 1)");
  EXPECT_EQ(LoadLocalData(options).status(), out_of_range);
  EXPECT_EQ(LoadTestData(options).status(), out_of_range);
}

TEST(SubsetTest, KeepsTheGivenOrderAndAllFields) {
  Dataset source;
  source.name = "x";
  source.shape = {2};
  source.classes = 3;
  source.values = {0, 1, 10, 11, 20, 21};
  source.labels = {0, 1, 2};
  source.domains = {5, 6, 7};
  const std::vector<std::int64_t> indices = {2, 0};
  const Dataset part = Subset(source, indices);
  EXPECT_EQ(part.name, "x");
  EXPECT_EQ(part.classes, 3);
  EXPECT_THAT(part.values, ElementsAre(20, 21, 0, 1));
  EXPECT_THAT(part.labels, ElementsAre(2, 0));
  EXPECT_THAT(part.domains, ElementsAre(7, 5));
  EXPECT_TRUE(part.pixels.empty());
  std::vector<float> features(2);
  part.CopyExample(0, features);
  EXPECT_THAT(features, ElementsAre(20, 21));
}

}  // namespace
}  // namespace fedmoe
