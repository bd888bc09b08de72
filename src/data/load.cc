// How a node gets its own examples: read or generate, take its part, keep some back.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "common/counter_rng.h"
#include "common/file_system.h"
#include "data/dataset.h"
#include "data/domains.h"
#include "data/idx.h"
#include "data/partition.h"

namespace fedmoe {
namespace {

constexpr int kIdxClasses = 10;
// MNIST's pixels, as a fraction of 255, over its training set.
constexpr float kMnistMean = 0.1307f;
constexpr float kMnistDeviation = 0.3081f;

struct Split {
  std::vector<std::int64_t> train;
  std::vector<std::int64_t> holdout;
};

// Keeps round(fraction * n) of the examples back; both parts ascend.
Result<Split> SplitHoldout(std::vector<std::int64_t> indices, double fraction, std::uint64_t seed,
                           int client_index) {
  const auto count = static_cast<std::int64_t>(indices.size());
  const auto kept_back =
      static_cast<std::int64_t>(std::floor(fraction * static_cast<double>(count) + 0.5));
  if (kept_back >= count) {
    return InvalidArgument(
        fmt::format("data.holdout_fraction {} leaves none of client {}'s {} examples to train on",
                    fraction, client_index, count));
  }
  CounterRng rng = CounterRng::For(seed, fmt::format("client-{}", client_index), 0, "holdout");
  rng.Shuffle(indices);
  Split split;
  split.holdout.assign(indices.begin(), indices.begin() + kept_back);
  split.train.assign(indices.begin() + kept_back, indices.end());
  std::sort(split.holdout.begin(), split.holdout.end());
  std::sort(split.train.begin(), split.train.end());
  return split;
}

std::vector<std::int64_t> AllIndices(std::size_t count) {
  std::vector<std::int64_t> indices(count);
  std::iota(indices.begin(), indices.end(), 0);
  return indices;
}

Status ValidateLocal(const DataOptions& options) {
  if (!(options.holdout_fraction >= 0.0 && options.holdout_fraction <= 0.9)) {
    return InvalidArgument(fmt::format("data.holdout_fraction must be in 0 to 0.9 (got {})",
                                       options.holdout_fraction));
  }
  if (options.client_index < 0) {
    return InvalidArgument(
        fmt::format("data.client_index must be at least 0 (got {})", options.client_index));
  }
  if (options.partition.kind == PartitionKind::kNone) return Status::Ok();
  if (options.dataset == DatasetKind::kDomains) {
    return InvalidArgument(
        "data.partition.kind must be none for dataset domains, which generates each client's own "
        "examples");
  }
  if (options.client_index >= options.partition.clients) {
    return InvalidArgument(
        fmt::format("data.client_index must be below data.partition.clients (got {} >= {})",
                    options.client_index, options.partition.clients));
  }
  return Status::Ok();
}

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

Status CheckPathGiven(const DataOptions& options) {
  if (!options.path.empty()) return Status::Ok();
  return InvalidArgument(
      "data.path must name the folder of the IDX files for dataset idx (got \"\")");
}

// Labels first, so that a wrong partition is found before the images are read; the whole set is
// gone when this returns.
Result<LocalData> LoadLocalIdx(const DataOptions& options) {
  FEDMOE_RETURN_IF_ERROR(CheckPathGiven(options));
  const std::string labels_path = JoinPath(options.path, "train-labels-idx1-ubyte");
  FEDMOE_ASSIGN_OR_RETURN(const auto labels, ReadCheckedLabels(labels_path));
  std::vector<std::int64_t> own;
  if (options.partition.kind == PartitionKind::kNone) {
    own = AllIndices(labels.size());
  } else {
    const std::vector<std::int32_t> wide(labels.begin(), labels.end());
    FEDMOE_ASSIGN_OR_RETURN(auto parts, PartitionExamples(wide, kIdxClasses, options.partition));
    own = std::move(parts[static_cast<std::size_t>(options.client_index)]);
  }
  FEDMOE_ASSIGN_OR_RETURN(const Split split,
                          SplitHoldout(std::move(own), options.holdout_fraction,
                                       options.partition.seed, options.client_index));
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

Result<LocalData> LoadLocalDomains(const DataOptions& options) {
  FEDMOE_RETURN_IF_ERROR(ValidateDomains(options.domains));
  const Dataset whole = GenerateDomainsForClient(options.domains, options.client_index);
  FEDMOE_ASSIGN_OR_RETURN(const Split split,
                          SplitHoldout(AllIndices(whole.labels.size()), options.holdout_fraction,
                                       options.domains.seed, options.client_index));
  return LocalData{Subset(whole, split.train), Subset(whole, split.holdout)};
}

}  // namespace

Result<LocalData> LoadLocalData(const DataOptions& options) {
  FEDMOE_RETURN_IF_ERROR(ValidateLocal(options));
  switch (options.dataset) {
    case DatasetKind::kDomains:
      return LoadLocalDomains(options);
    case DatasetKind::kIdx:
      return LoadLocalIdx(options);
    case DatasetKind::kImageFolder:
    case DatasetKind::kCifarBinary:
    case DatasetKind::kCsv:
    case DatasetKind::kText:
      break;
  }
  return Internal("data.dataset has a value outside its enumeration");
}

Result<Dataset> LoadTestData(const DataOptions& options) {
  if (options.dataset == DatasetKind::kDomains) {
    FEDMOE_RETURN_IF_ERROR(ValidateDomains(options.domains));
    return GenerateDomainsTest(options.domains);
  }
  FEDMOE_RETURN_IF_ERROR(CheckPathGiven(options));
  const std::string labels_path = JoinPath(options.path, "t10k-labels-idx1-ubyte");
  FEDMOE_ASSIGN_OR_RETURN(const auto labels, ReadCheckedLabels(labels_path));
  FEDMOE_ASSIGN_OR_RETURN(IdxImages images,
                          ReadMatchingImages(JoinPath(options.path, "t10k-images-idx3-ubyte"),
                                             labels_path, labels.size()));
  return IdxDataset(options.path, std::move(images), labels);
}

}  // namespace fedmoe
