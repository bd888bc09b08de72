#include "data/text_windows.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include <fmt/format.h>

#include "common/counter_rng.h"
#include "data/split.h"

namespace fedmoe {
namespace {

// Runs as long as this keep text together; shorter ones where clients would get few.
constexpr std::int64_t kMaxRunWindows = 64;
constexpr std::int64_t kRunsOfAClient = 8;

std::int64_t AllWindows(const std::vector<TextDocument>& documents, int context) {
  std::int64_t windows = 0;
  for (const TextDocument& document : documents) windows += WindowsIn(document, context);
  return windows;
}

}  // namespace

std::int64_t WindowsIn(const TextDocument& document, int context) {
  return std::max<std::int64_t>(0, (document.end - document.begin - 1) / context);
}

TextDocument PartOf(const TextDocument& document, std::int64_t first, std::int64_t last,
                    int context) {
  const bool to_the_end = last == WindowsIn(document, context);
  return {.begin = document.begin + first * context,
          .end = to_the_end ? document.end : document.begin + last * context + 1};
}

Result<std::vector<TextDocument>> DealRuns(const std::vector<TextDocument>& documents, int context,
                                           const DataOptions& options) {
  const std::int64_t clients = options.partition.clients;
  const std::int64_t windows = AllWindows(documents, context);
  if (windows < clients) {
    return InvalidArgument(
        fmt::format("data.partition: {} windows of {} characters are too few for {} clients; lower "
                    "data.partition.clients or data.text.context",
                    windows, context, clients));
  }
  const std::int64_t length =
      std::clamp<std::int64_t>(windows / (clients * kRunsOfAClient), 1, kMaxRunWindows);
  std::vector<TextDocument> runs;
  for (const TextDocument& document : documents) {
    const std::int64_t own = WindowsIn(document, context);
    const std::int64_t parts = std::max<std::int64_t>(1, own / length);
    for (std::int64_t i = 0; i < parts; ++i) {
      runs.push_back(PartOf(document, own * i / parts, own * (i + 1) / parts, context));
    }
  }
  CounterRng::For(options.partition.seed, "", 0, "partition.examples").Shuffle(runs);
  const auto count = static_cast<std::int64_t>(runs.size());
  std::vector<TextDocument> own(runs.begin() + count * options.client_index / clients,
                                runs.begin() + count * (options.client_index + 1) / clients);
  std::sort(own.begin(), own.end(),
            [](const TextDocument& a, const TextDocument& b) { return a.begin < b.begin; });
  return own;
}

Result<DocumentSplit> HoldBackEnds(const std::vector<TextDocument>& documents, int context,
                                   const DataOptions& options) {
  FEDMOE_RETURN_IF_ERROR(HoldoutCount(options, AllWindows(documents, context)).status());
  DocumentSplit split;
  // Rounds the sum, not each document, so that many short documents give their share together.
  std::int64_t seen = 0, kept_back = 0;
  for (const TextDocument& document : documents) {
    const std::int64_t own = WindowsIn(document, context);
    seen += own;
    const auto due = static_cast<std::int64_t>(
        std::floor(options.holdout_fraction * static_cast<double>(seen) + 0.5));
    const std::int64_t train = own - (due - kept_back);
    kept_back = due;
    if (train > 0) split.train.push_back(PartOf(document, 0, train, context));
    if (train < own) split.holdout.push_back(PartOf(document, train, own, context));
  }
  return split;
}

Dataset WindowDataset(const Dataset& source, const std::vector<TextDocument>& documents) {
  Dataset dataset;
  dataset.name = source.name;
  dataset.shape = source.shape;
  dataset.classes = source.classes;
  const int context = source.shape[0];
  for (const TextDocument& document : documents) {
    const auto begin = static_cast<std::int64_t>(dataset.tokens.size());
    dataset.tokens.insert(dataset.tokens.end(), source.tokens.begin() + document.begin,
                          source.tokens.begin() + document.end);
    const auto number = static_cast<std::int32_t>(dataset.documents.size());
    dataset.documents.push_back({begin, static_cast<std::int64_t>(dataset.tokens.size())});
    for (std::int64_t i = 0; i < WindowsIn(document, context); ++i) {
      dataset.windows.push_back({.first = begin + i * context, .document = number});
    }
  }
  return dataset;
}

}  // namespace fedmoe
