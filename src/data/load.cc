// How a node gets its own examples: read or generate, take its part, keep some back.
#include <utility>

#include <fmt/format.h>

#include "data/dataset.h"
#include "data/domains.h"
#include "data/loaders.h"
#include "data/split.h"

namespace fedmoe {
namespace {

Status ValidateLimit(const DataOptions& options) {
  if (options.max_test_examples < 0) {
    return InvalidArgument(fmt::format("data.max_test_examples must be at least 0 (got {})",
                                       options.max_test_examples));
  }
  if (options.max_examples >= 0) return Status::Ok();
  return InvalidArgument(
      fmt::format("data.max_examples must be at least 0 (got {})", options.max_examples));
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
  FEDMOE_RETURN_IF_ERROR(ValidateLimit(options));
  const PartitionKind kind = options.partition.kind;
  if (kind == PartitionKind::kNone) return Status::Ok();
  if (options.dataset == DatasetKind::kDomains) {
    return InvalidArgument(
        "data.partition.kind must be none for dataset domains, which generates each client's own "
        "examples");
  }
  const bool by_text = kind == PartitionKind::kFiles || kind == PartitionKind::kSpeakers;
  if (by_text && options.dataset != DatasetKind::kText) {
    return InvalidArgument("data.partition.kind files and speakers are for dataset text alone");
  }
  if (!by_text && kind != PartitionKind::kIid && options.dataset == DatasetKind::kText) {
    return InvalidArgument(
        "data.partition.kind must be none, iid, files or speakers for dataset text, which has no "
        "labels to split by");
  }
  if (options.client_index >= options.partition.clients) {
    return InvalidArgument(
        fmt::format("data.client_index must be below data.partition.clients (got {} >= {})",
                    options.client_index, options.partition.clients));
  }
  return Status::Ok();
}

Result<LocalData> LoadLocalDomains(const DataOptions& options) {
  FEDMOE_RETURN_IF_ERROR(ValidateDomains(options.domains));
  const Dataset whole = GenerateDomainsForClient(options.domains, options.client_index);
  FEDMOE_ASSIGN_OR_RETURN(const Split split,
                          SplitOwn(AllIndices(whole.labels.size()), options, options.domains.seed));
  return LocalData{Subset(whole, split.train), Subset(whole, split.holdout)};
}

Result<Dataset> LoadTestDomains(const DataOptions& options) {
  FEDMOE_RETURN_IF_ERROR(ValidateDomains(options.domains));
  return LimitTest(GenerateDomainsTest(options.domains), options, options.domains.seed);
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
      return LoadLocalImageFolder(options);
    case DatasetKind::kCifarBinary:
      return LoadLocalCifar(options);
    case DatasetKind::kCsv:
      return LoadLocalCsv(options);
    case DatasetKind::kText:
      return LoadLocalText(options);
  }
  return Internal("data.dataset has a value outside its enumeration");
}

Result<Dataset> LoadTestData(const DataOptions& options) {
  FEDMOE_RETURN_IF_ERROR(ValidateLimit(options));
  switch (options.dataset) {
    case DatasetKind::kDomains:
      return LoadTestDomains(options);
    case DatasetKind::kIdx:
      return LoadTestIdx(options);
    case DatasetKind::kImageFolder:
      return LoadTestImageFolder(options);
    case DatasetKind::kCifarBinary:
      return LoadTestCifar(options);
    case DatasetKind::kCsv:
      return LoadTestCsv(options);
    case DatasetKind::kText:
      return LoadTestText(options);
  }
  return Internal("data.dataset has a value outside its enumeration");
}

}  // namespace fedmoe
