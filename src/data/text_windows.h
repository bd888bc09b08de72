// Documents cut into windows, and windows shared out. Pure functions; internal to `data`.
#pragma once

#include <cstdint>
#include <vector>

#include "common/result.h"
#include "data/data_options.h"
#include "data/dataset.h"

namespace fedmoe {

// How many whole examples a document holds: each takes `context` tokens and shares the token after
// them with the next.
std::int64_t WindowsIn(const TextDocument& document, int context);

// Windows [first, last) of a document as a document of its own. The last part keeps the tokens that
// are left over; another ends with the token that its last window asks for.
TextDocument PartOf(const TextDocument& document, std::int64_t first, std::int64_t last,
                    int context);

// The client's part where documents are cut into runs of windows and these dealt at random, evenly
// by number. Documents ascend.
Result<std::vector<TextDocument>> DealRuns(const std::vector<TextDocument>& documents, int context,
                                           const DataOptions& options);

struct DocumentSplit {
  std::vector<TextDocument> train;
  std::vector<TextDocument> holdout;
};

// Keeps round(data.holdout_fraction * windows) windows back, at the ends of the documents, so that
// no text is in both. INVALID_ARGUMENT if that leaves none.
Result<DocumentSplit> HoldBackEnds(const std::vector<TextDocument>& documents, int context,
                                   const DataOptions& options);

// A dataset of all windows of `documents`, with the tokens of these alone; `source` gives the rest.
Dataset WindowDataset(const Dataset& source, const std::vector<TextDocument>& documents);

}  // namespace fedmoe
