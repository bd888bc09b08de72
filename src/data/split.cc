#include "data/split.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "common/counter_rng.h"
#include "data/partition.h"

namespace fedmoe {

std::vector<std::int64_t> AllIndices(std::size_t count) {
  std::vector<std::int64_t> indices(count);
  std::iota(indices.begin(), indices.end(), 0);
  return indices;
}

Result<std::int64_t> HoldoutCount(const DataOptions& options, std::int64_t count) {
  const double share = options.holdout_fraction * static_cast<double>(count);
  const auto kept_back = static_cast<std::int64_t>(std::floor(share + 0.5));
  if (kept_back >= count) {
    return InvalidArgument(
        fmt::format("data.holdout_fraction {} leaves none of client {}'s {} examples to train on",
                    options.holdout_fraction, options.client_index, count));
  }
  return kept_back;
}

std::vector<std::int64_t> DrawAtMost(std::vector<std::int64_t> indices, std::int64_t most,
                                     std::uint64_t seed, std::string_view owner) {
  if (most <= 0 || static_cast<std::int64_t>(indices.size()) <= most) return indices;
  CounterRng rng = CounterRng::For(seed, owner, 0, "max_examples");
  rng.Shuffle(indices);
  indices.resize(static_cast<std::size_t>(most));
  std::sort(indices.begin(), indices.end());
  return indices;
}

std::string ClientName(int client_index) { return fmt::format("client-{}", client_index); }

Result<Split> SplitOwn(std::vector<std::int64_t> own, const DataOptions& options,
                       std::uint64_t seed) {
  const std::string client = ClientName(options.client_index);
  own = DrawAtMost(std::move(own), options.max_examples, seed, client);
  FEDMOE_ASSIGN_OR_RETURN(const std::int64_t kept_back,
                          HoldoutCount(options, static_cast<std::int64_t>(own.size())));
  CounterRng rng = CounterRng::For(seed, client, 0, "holdout");
  rng.Shuffle(own);
  Split split;
  split.holdout.assign(own.begin(), own.begin() + kept_back);
  split.train.assign(own.begin() + kept_back, own.end());
  std::sort(split.holdout.begin(), split.holdout.end());
  std::sort(split.train.begin(), split.train.end());
  return split;
}

Result<Split> SplitByLabels(std::span<const std::int32_t> labels, int classes,
                            const DataOptions& options) {
  std::vector<std::int64_t> own;
  if (options.partition.kind == PartitionKind::kNone) {
    own = AllIndices(labels.size());
  } else {
    FEDMOE_ASSIGN_OR_RETURN(auto parts, PartitionExamples(labels, classes, options.partition));
    own = std::move(parts[static_cast<std::size_t>(options.client_index)]);
  }
  return SplitOwn(std::move(own), options, options.partition.seed);
}

std::int64_t MostTestExamples(const DataOptions& options) {
  return options.max_test_examples > 0 ? options.max_test_examples : options.max_examples;
}

Dataset LimitTest(Dataset test, const DataOptions& options, std::uint64_t seed) {
  const std::int64_t most = MostTestExamples(options);
  if (most <= 0 || test.size() <= most) return test;
  return Subset(test,
                DrawAtMost(AllIndices(static_cast<std::size_t>(test.size())), most, seed, "test"));
}

Status CheckPathGiven(const DataOptions& options, std::string_view what) {
  if (!options.path.empty()) return Status::Ok();
  return InvalidArgument(fmt::format("data.path must name {} (got \"\")", what));
}

}  // namespace fedmoe
