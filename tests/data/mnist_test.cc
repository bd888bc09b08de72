// The real MNIST, where it is there: the reader and the normalisation on the files that users have.
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/dataset.h"

namespace fedmoe {
namespace {

std::string MnistFolder() {
  const char* folder = std::getenv("FEDMOE_DATA_DIR");
  const std::string data = folder != nullptr ? folder : FEDMOE_SOURCE_DIR "/../shared/data";
  return data + "/mnist";
}

bool HasMnist() {
  const std::string path = MnistFolder() + "/train-images-idx3-ubyte";
  return std::filesystem::exists(path) || std::filesystem::exists(path + ".gz");
}

#define SKIP_WITHOUT_MNIST()                                                                  \
  if (!HasMnist()) {                                                                          \
    GTEST_SKIP() << "no MNIST in " << MnistFolder() << "; scripts/fetch_data mnist gets it, " \
                 << "FEDMOE_DATA_DIR names its parent";                                       \
  }

TEST(MnistTest, IsWhatThePublishedNumbersSay) {
  SKIP_WITHOUT_MNIST();
  DataOptions options;
  options.dataset = DatasetKind::kIdx;
  options.path = MnistFolder();
  options.holdout_fraction = 0.0;
  const auto data = LoadLocalData(options);
  ASSERT_TRUE(data.ok()) << data.status().ToString();
  const Dataset& train = data->train;
  ASSERT_EQ(train.size(), 60000);
  EXPECT_THAT(train.shape, ::testing::ElementsAre(1, 28, 28));
  EXPECT_THAT(std::vector<int>(train.labels.begin(), train.labels.begin() + 5),
              ::testing::ElementsAre(5, 0, 4, 1, 9));
  double sum = 0.0, squares = 0.0;
  for (const std::uint8_t pixel : train.pixels) {
    const double value = pixel / 255.0;
    sum += value;
    squares += value * value;
  }
  const double mean = sum / static_cast<double>(train.pixels.size());
  EXPECT_NEAR(mean, 0.1307, 5e-5);
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(train.pixels.size()) - mean * mean), 0.3081,
              5e-5);
  EXPECT_THAT(train.mean, ::testing::ElementsAre(0.1307f));
  EXPECT_THAT(train.deviation, ::testing::ElementsAre(0.3081f));
}

TEST(MnistTest, ADirichletClientGetsItsShareAndTheEvaluatorTenThousand) {
  SKIP_WITHOUT_MNIST();
  DataOptions options;
  options.dataset = DatasetKind::kIdx;
  options.path = MnistFolder();
  options.partition = {.kind = PartitionKind::kDirichlet, .clients = 16, .alpha = 0.3};
  options.client_index = 15;
  const auto data = LoadLocalData(options);
  ASSERT_TRUE(data.ok()) << data.status().ToString();
  EXPECT_GE(data->train.size() + data->holdout.size(), 10);
  EXPECT_LT(data->train.size() + data->holdout.size(), 30000);
  const auto test = LoadTestData(options);
  ASSERT_TRUE(test.ok()) << test.status().ToString();
  EXPECT_EQ(test->size(), 10000);
}

}  // namespace
}  // namespace fedmoe
