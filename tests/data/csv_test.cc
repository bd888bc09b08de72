// Tables, written small.
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/csv_file.h"
#include "data/dataset.h"
#include "tests/data/idx_files.h"
#include "tests/data/print_status.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatEq;
using ::testing::Pointwise;

class CsvTest : public ::testing::Test {
 protected:
  CsvTest() {
    options_.dataset = DatasetKind::kCsv;
    options_.path = folder_.path();
    options_.holdout_fraction = 0.0;
  }
  std::string File(const std::string& name) const { return folder_.File(name); }
  void Train(const std::string& text) const { WriteBytes(File("train.csv"), text); }
  Result<CsvTable> Read(const std::string& text, const std::string& label = "") const {
    Train(text);
    return ReadCsv(File("train.csv"), label);
  }
  // What is wrong with a file, without its path: ":2: ...".
  std::string Wrong(const std::string& text, const std::string& label = "") const {
    const Status status = Read(text, label).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_TRUE(status.message().starts_with(File("train.csv")));
    return status.message().substr(std::min(status.message().size(), File("train.csv").size()));
  }

  TempDir folder_;
  DataOptions options_;
};

TEST_F(CsvTest, ReadsNumbersAndTakesTheLastColumnAsTheLabel) {
  const auto table = Read("a,b,kind\n1,-2.5,0\n1e3,+4,2\n");
  ASSERT_TRUE(table.ok()) << table.status().ToString();
  EXPECT_THAT(table->features, ElementsAre("a", "b"));
  EXPECT_THAT(table->values, ElementsAre(1.0f, -2.5f, 1000.0f, 4.0f));
  EXPECT_THAT(table->labels, ElementsAre(0, 2));
  EXPECT_EQ(table->max_label, 2);
}

TEST_F(CsvTest, TakesTheColumnNamedAsTheLabel) {
  const auto table = Read("kind,a,b\n3,1,2\n", "kind");
  ASSERT_TRUE(table.ok()) << table.status().ToString();
  EXPECT_THAT(table->features, ElementsAre("a", "b"));
  EXPECT_THAT(table->values, ElementsAre(1.0f, 2.0f));
  EXPECT_THAT(table->labels, ElementsAre(3));
}

TEST_F(CsvTest, ReadsQuotesSpacesEmptyLinesAndLineEndsOfEverySystem) {
  const auto table =
      Read("\xef\xbb\xbf\"a, \"\"first\"\"\",\"b\nb\", kind \r\n\r\n\"1\", 2 ,\"1\"\r\n\n3,4,0");
  ASSERT_TRUE(table.ok()) << table.status().ToString();
  EXPECT_THAT(table->features, ElementsAre("a, \"first\"", "b\nb"));
  EXPECT_THAT(table->values, ElementsAre(1.0f, 2.0f, 3.0f, 4.0f));
  EXPECT_THAT(table->labels, ElementsAre(1, 0));
}

TEST_F(CsvTest, NamesTheLineAndTheColumnThatAreWrong) {
  EXPECT_EQ(Wrong(""), ": empty: the first row should name the columns");
  EXPECT_EQ(Wrong("a,kind\n"), ": no rows after the header");
  EXPECT_EQ(Wrong("kind\n1\n"), ":1: only one column: there should be features beside the label");
  EXPECT_EQ(Wrong("a,kind\n1,0\n", "sort"),
            ":1: no column 'sort' for the label; the header has a, kind");
  EXPECT_EQ(Wrong("a,b,kind\n1,2,0\n\n1,2\n"), ":4: 2 fields where the header has 3");
  EXPECT_EQ(Wrong("a,kind\n1,0\n1,2,0\n"), ":3: 3 fields where the header has 2");
  EXPECT_EQ(Wrong("a,kind\n\"1\n\",0\nten,0\n"),
            ":2: column 'a' must be a finite number (got '1?')");
  EXPECT_EQ(Wrong("a,kind\n1,0\nten,0\n"), ":3: column 'a' must be a finite number (got 'ten')");
  EXPECT_EQ(Wrong("a,kind\n,0\n"), ":2: column 'a' must be a finite number (got '')");
  EXPECT_EQ(Wrong("a,kind\nnan,0\n"), ":2: column 'a' must be a finite number (got 'nan')");
  EXPECT_EQ(Wrong("a,kind\n1e39,0\n"), ":2: column 'a' must be a finite number (got '1e39')");
  EXPECT_EQ(Wrong("a,kind\n1,1.5\n"),
            ":2: label 'kind' must be a whole number from 0 to 1048575 (got '1.5')");
  EXPECT_EQ(Wrong("a,kind\n1,-1\n"),
            ":2: label 'kind' must be a whole number from 0 to 1048575 (got '-1')");
  EXPECT_EQ(Wrong("a,kind\n1,0\n\"1,0\n"), ":3: a quoted field does not end");
  EXPECT_EQ(Wrong("a,kind\n\"1\"2,0\n"), ":2: text follows the end of a quoted field");
  EXPECT_EQ(Wrong("a,kind\n" + std::string(100, 'x') + ",0\n"),
            ":2: column 'a' must be a finite number (got '" + std::string(40, 'x') + "...')");
}

TEST_F(CsvTest, FeaturesAreStandardisedOverTheNodesOwnTrainingPart) {
  std::string text = "a,b,kind\n";
  for (int i = 0; i < 20; ++i) text += std::to_string(i * i) + ",7," + std::to_string(i % 2) + "\n";
  Train(text);
  options_.holdout_fraction = 0.25;
  options_.partition = {.kind = PartitionKind::kIid, .clients = 2, .min_examples = 1};
  options_.csv.standardise = false;
  const auto raw = LoadLocalData(options_);
  options_.csv.standardise = true;
  const auto data = LoadLocalData(options_);
  ASSERT_TRUE(data.ok()) << data.status().ToString();
  ASSERT_EQ(data->train.size(), 7);
  ASSERT_EQ(data->holdout.size(), 3);
  double sum = 0.0, squares = 0.0, raw_sum = 0.0;
  for (std::size_t i = 0; i < 14; i += 2) {
    sum += data->train.values[i];
    squares += data->train.values[i] * data->train.values[i];
    raw_sum += raw->train.values[i];
    EXPECT_EQ(data->train.values[i + 1], 0.0f);  // never changes
  }
  EXPECT_NEAR(sum, 0.0, 1e-5);
  EXPECT_NEAR(squares / 7, 1.0, 1e-5);
  // The hold-out with the same two numbers.
  const double slope = (data->train.values[2] - data->train.values[0]) /
                       (raw->train.values[2] - raw->train.values[0]);
  for (std::size_t i = 0; i < 6; i += 2) {
    EXPECT_NEAR(data->holdout.values[i], (raw->holdout.values[i] - raw_sum / 7) * slope, 1e-4);
  }
}

TEST_F(CsvTest, TheTestSetIsStandardisedByTheTrainingFileWhereItIsThere) {
  Train("a,kind\n0,0\n10,3\n");
  WriteBytes(File("test.csv"), "a,kind\n5,1\n20,0\n");
  const auto test = LoadTestData(options_);
  ASSERT_TRUE(test.ok()) << test.status().ToString();
  EXPECT_THAT(test->values, Pointwise(FloatEq(), {0.0f, 3.0f}));
  EXPECT_EQ(test->classes, 4);
  std::filesystem::remove(File("train.csv"));
  EXPECT_THAT(LoadTestData(options_)->values, Pointwise(FloatEq(), {-1.0f, 1.0f}));
  Train("b,kind\n0,0\n");
  EXPECT_EQ(LoadTestData(options_).status(),
            InvalidArgument(File("test.csv") + ": the columns differ from those of " +
                            File("train.csv")));
}

TEST_F(CsvTest, ClassesAreAsSetOrTheGreatestLabelAndOne) {
  Train("a,kind\n0,0\n10,3\n");
  EXPECT_EQ(LoadLocalData(options_)->train.classes, 4);
  options_.csv.classes = 7;
  EXPECT_EQ(LoadLocalData(options_)->train.classes, 7);
  options_.csv.classes = 3;
  EXPECT_EQ(
      LoadLocalData(options_).status(),
      InvalidArgument(File("train.csv") + ": label 3 is outside 0 to 2 (data.csv.classes is 3)"));
}

TEST_F(CsvTest, RefusesAMissingFile) {
  EXPECT_EQ(LoadLocalData(options_).status(),
            NotFound(File("train.csv") + ": no such file; set data.path"));
  options_.path = "";
  EXPECT_EQ(LoadTestData(options_).status(),
            InvalidArgument("data.path must name the folder of train.csv and test.csv for dataset "
                            "csv (got \"\")"));
}

}  // namespace
}  // namespace fedmoe
