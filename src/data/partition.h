// Splits of one dataset over clients, for experiments. Pure functions of labels and options.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/result.h"
#include "data/data_options.h"

namespace fedmoe {

// For each client the indices of its examples, ascending; every index belongs to exactly one
// client. `labels` are 0 to classes - 1.
//   iid: a random permutation cut into parts whose sizes differ by at most one.
//   classes_per_client: each client gets that many classes, every class is dealt as evenly as
//   clients allow (shards of sorted labels,
//     McMahan et al. 2017).
//   dirichlet: for each class, shares over clients from Dirichlet(alpha) (Hsu et al. 2019), drawn
//   again until every client
//     has at least min_examples (at most 1,000 times, then INVALID_ARGUMENT).
// INVALID_ARGUMENT also where there are fewer examples than clients * max(1, min_examples), or kind
// is none.
Result<std::vector<std::vector<std::int64_t>>> PartitionExamples(
    std::span<const std::int32_t> labels, int classes, const PartitionOptions& options);

}  // namespace fedmoe
