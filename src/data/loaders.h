// The loaders behind LoadLocalData and LoadTestData, one pair a dataset. Internal to `data`. The
// options that do not depend on the dataset have been checked. docs/datasets.md has the layouts
// and the error messages.
#pragma once

#include "common/result.h"
#include "data/data_options.h"
#include "data/dataset.h"

namespace fedmoe {

Result<LocalData> LoadLocalIdx(const DataOptions& options);
Result<Dataset> LoadTestIdx(const DataOptions& options);

Result<LocalData> LoadLocalImageFolder(const DataOptions& options);
Result<Dataset> LoadTestImageFolder(const DataOptions& options);

Result<LocalData> LoadLocalCifar(const DataOptions& options);
Result<Dataset> LoadTestCifar(const DataOptions& options);

Result<LocalData> LoadLocalCsv(const DataOptions& options);
Result<Dataset> LoadTestCsv(const DataOptions& options);

Result<LocalData> LoadLocalText(const DataOptions& options);
Result<Dataset> LoadTestText(const DataOptions& options);

// The mean and deviation of `channels` channels from data.image, into `dataset`.
// INVALID_ARGUMENT naming the option.
Status SetNormalisation(const ImageOptions& image, int channels, Dataset& dataset);

}  // namespace fedmoe
