// Examples from a table: PATH/train.csv and PATH/test.csv.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "common/file_system.h"
#include "data/csv_file.h"
#include "data/loaders.h"
#include "data/split.h"

namespace fedmoe {
namespace {

struct Statistics {
  std::vector<double> mean;
  std::vector<double> deviation;  // 1 for a feature that never changes
};

// Of each feature over the examples `indices`.
Statistics Measure(const Dataset& data, std::span<const std::int64_t> indices) {
  const auto features = static_cast<std::size_t>(data.shape[0]);
  const auto count = static_cast<double>(indices.size());
  Statistics statistics{std::vector<double>(features, 0.0), std::vector<double>(features, 0.0)};
  const auto add = [&](std::vector<double>& sums, auto term) {
    for (const std::int64_t index : indices) {
      const float* row = data.values.data() + static_cast<std::size_t>(index) * features;
      for (std::size_t i = 0; i < features; ++i) sums[i] += term(i, static_cast<double>(row[i]));
    }
    for (double& sum : sums) sum /= count;
  };
  add(statistics.mean, [](std::size_t, double value) { return value; });
  add(statistics.deviation, [&](std::size_t i, double value) {
    const double off = value - statistics.mean[i];
    return off * off;
  });
  for (double& deviation : statistics.deviation) {
    deviation = deviation > 0.0 ? std::sqrt(deviation) : 1.0;
  }
  return statistics;
}

void Standardise(const Statistics& statistics, Dataset& data) {
  const std::size_t features = statistics.mean.size();
  for (std::size_t i = 0; i < data.values.size(); ++i) {
    const std::size_t feature = i % features;
    data.values[i] =
        static_cast<float>((static_cast<double>(data.values[i]) - statistics.mean[feature]) /
                           statistics.deviation[feature]);
  }
}

std::string TrainPath(const DataOptions& options) { return JoinPath(options.path, "train.csv"); }

Status CheckOptions(const DataOptions& options) {
  FEDMOE_RETURN_IF_ERROR(
      CheckPathGiven(options, "the folder of train.csv and test.csv for dataset csv"));
  if (options.csv.classes >= 0 && options.csv.classes <= 1 << 20) return Status::Ok();
  return InvalidArgument(
      fmt::format("data.csv.classes must be in 0 to 1048576 (got {})", options.csv.classes));
}

Result<CsvTable> Read(const std::string& path, const CsvOptions& options) {
  if (!PosixFileSystem().Exists(path)) return NotFound(path + ": no such file; set data.path");
  FEDMOE_ASSIGN_OR_RETURN(CsvTable table, ReadCsv(path, options.label));
  if (options.classes > 0 && table.max_label >= options.classes) {
    return InvalidArgument(fmt::format("{}: label {} is outside 0 to {} (data.csv.classes is {})",
                                       path, table.max_label, options.classes - 1,
                                       options.classes));
  }
  return table;
}

Dataset ToDataset(const DataOptions& options, CsvTable table) {
  Dataset data;
  data.name = options.path;
  data.shape = {static_cast<int>(table.features.size())};
  data.classes = options.csv.classes > 0 ? options.csv.classes : table.max_label + 1;
  data.values = std::move(table.values);
  data.labels = std::move(table.labels);
  return data;
}

}  // namespace

Result<LocalData> LoadLocalCsv(const DataOptions& options) {
  FEDMOE_RETURN_IF_ERROR(CheckOptions(options));
  FEDMOE_ASSIGN_OR_RETURN(CsvTable table, Read(TrainPath(options), options.csv));
  const Dataset whole = ToDataset(options, std::move(table));
  FEDMOE_ASSIGN_OR_RETURN(const Split split, SplitByLabels(whole.labels, whole.classes, options));
  LocalData data{Subset(whole, split.train), Subset(whole, split.holdout)};
  if (options.csv.standardise) {
    const Statistics statistics = Measure(whole, split.train);
    Standardise(statistics, data.train);
    Standardise(statistics, data.holdout);
  }
  return data;
}

Result<Dataset> LoadTestCsv(const DataOptions& options) {
  FEDMOE_RETURN_IF_ERROR(CheckOptions(options));
  const std::string test_path = JoinPath(options.path, "test.csv");
  FEDMOE_ASSIGN_OR_RETURN(CsvTable table, Read(test_path, options.csv));
  const std::vector<std::string> features = table.features;
  Dataset test = ToDataset(options, std::move(table));
  std::optional<Dataset> train;
  if (PosixFileSystem().Exists(TrainPath(options))) {
    FEDMOE_ASSIGN_OR_RETURN(CsvTable train_table, Read(TrainPath(options), options.csv));
    if (train_table.features != features) {
      return InvalidArgument(
          fmt::format("{}: the columns differ from those of {}", test_path, TrainPath(options)));
    }
    train = ToDataset(options, std::move(train_table));
    test.classes = std::max(test.classes, train->classes);
  }
  if (options.csv.standardise) {
    const Dataset& measured = train ? *train : test;
    Standardise(Measure(measured, AllIndices(measured.labels.size())), test);
  }
  return LimitTest(std::move(test), options, options.partition.seed);
}

}  // namespace fedmoe
