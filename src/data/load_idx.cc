// Examples from IDX files.
#include <utility>

#include <fmt/format.h>

#include "common/file_system.h"
#include "data/idx.h"
#include "data/loaders.h"
#include "data/split.h"

namespace fedmoe {
namespace {

constexpr int kIdxClasses = 10;
// MNIST's pixels, as a fraction of 255, over its training set.
constexpr float kMnistMean = 0.1307f;
constexpr float kMnistDeviation = 0.3081f;
constexpr const char* kWhatPathNames = "the folder of the IDX files for dataset idx";

Result<std::vector<std::uint8_t>> ReadCheckedLabels(const std::string& path) {
  FEDMOE_ASSIGN_OR_RETURN(auto labels, ReadIdxLabels(path));
  FEDMOE_RETURN_IF_ERROR(CheckIdxLabels(labels, kIdxClasses, path));
  return labels;
}

Result<IdxImages> ReadMatchingImages(const std::string& path, const std::string& labels_path,
                                     std::size_t labels) {
  FEDMOE_ASSIGN_OR_RETURN(IdxImages images, ReadIdxImages(path));
  if (static_cast<std::size_t>(images.count) != labels) {
    return InvalidArgument(
        fmt::format("{}: {} labels for {} images", labels_path, labels, images.count));
  }
  return images;
}

Dataset IdxDataset(const std::string& name, IdxImages images,
                   const std::vector<std::uint8_t>& labels) {
  Dataset dataset;
  dataset.name = name;
  dataset.shape = {1, images.rows, images.columns};
  dataset.classes = kIdxClasses;
  dataset.pixels = std::move(images.pixels);
  dataset.mean = {kMnistMean};
  dataset.deviation = {kMnistDeviation};
  dataset.labels.assign(labels.begin(), labels.end());
  return dataset;
}

}  // namespace

// Labels first, so that a wrong partition is found before the images are read; the whole set is
// gone when this returns.
Result<LocalData> LoadLocalIdx(const DataOptions& options) {
  FEDMOE_RETURN_IF_ERROR(CheckPathGiven(options, kWhatPathNames));
  const std::string labels_path = JoinPath(options.path, "train-labels-idx1-ubyte");
  FEDMOE_ASSIGN_OR_RETURN(const auto labels, ReadCheckedLabels(labels_path));
  const std::vector<std::int32_t> wide(labels.begin(), labels.end());
  FEDMOE_ASSIGN_OR_RETURN(const Split split, SplitByLabels(wide, kIdxClasses, options));
  FEDMOE_ASSIGN_OR_RETURN(IdxImages images,
                          ReadMatchingImages(JoinPath(options.path, "train-images-idx3-ubyte"),
                                             labels_path, labels.size()));
  Dataset whole = IdxDataset(options.path, std::move(images), labels);
  if (split.train.size() == labels.size()) {
    Dataset none = Subset(whole, {});
    return LocalData{std::move(whole), std::move(none)};
  }
  return LocalData{Subset(whole, split.train), Subset(whole, split.holdout)};
}

Result<Dataset> LoadTestIdx(const DataOptions& options) {
  FEDMOE_RETURN_IF_ERROR(CheckPathGiven(options, kWhatPathNames));
  const std::string labels_path = JoinPath(options.path, "t10k-labels-idx1-ubyte");
  FEDMOE_ASSIGN_OR_RETURN(const auto labels, ReadCheckedLabels(labels_path));
  FEDMOE_ASSIGN_OR_RETURN(IdxImages images,
                          ReadMatchingImages(JoinPath(options.path, "t10k-images-idx3-ubyte"),
                                             labels_path, labels.size()));
  return LimitTest(IdxDataset(options.path, std::move(images), labels), options,
                   options.partition.seed);
}

}  // namespace fedmoe
