// Which examples of a dataset are a node's own, and which of those it keeps back. Internal to
// `data`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "data/data_options.h"
#include "data/dataset.h"

namespace fedmoe {

// Indices of examples; both ascend.
struct Split {
  std::vector<std::int64_t> train;
  std::vector<std::int64_t> holdout;
};

std::vector<std::int64_t> AllIndices(std::size_t count);

// round(fraction * count): how many of `count` examples are kept back.
// INVALID_ARGUMENT if that leaves none.
Result<std::int64_t> HoldoutCount(const DataOptions& options, std::int64_t count);

// `most` of the indices, or all where they are no more or `most` is 0; drawn by the seed for
// `owner` ("client-3" or "test"). Ascends where `indices` do.
std::vector<std::int64_t> DrawAtMost(std::vector<std::int64_t> indices, std::int64_t most,
                                     std::uint64_t seed, std::string_view owner);

// "client-3".
std::string ClientName(int client_index);

// Draws data.max_examples of `own`, and of those the hold-out.
Result<Split> SplitOwn(std::vector<std::int64_t> own, const DataOptions& options,
                       std::uint64_t seed);

// The same for the client's part of a partition by labels (0 to classes - 1).
Result<Split> SplitByLabels(std::span<const std::int32_t> labels, int classes,
                            const DataOptions& options);

// Examples that a test set may have; 0: all.
std::int64_t MostTestExamples(const DataOptions& options);

// So many of a test set, drawn by the seed.
Dataset LimitTest(Dataset test, const DataOptions& options, std::uint64_t seed);

// INVALID_ARGUMENT if data.path is empty; `what` is what it should name.
Status CheckPathGiven(const DataOptions& options, std::string_view what);

}  // namespace fedmoe
