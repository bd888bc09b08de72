// Examples in memory, and how a node gets its own.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/result.h"
#include "data/data_options.h"

namespace fedmoe {

// `size()` examples. Pixels stay bytes until a batch is made, so that 60,000 images of 28x28 take
// 47 MB and not 188 MB.
struct Dataset {
  std::string name;                  // for messages: "domains", or the path
  std::vector<int> shape;            // of one example: {32}, or {channels, height, width}
  int classes = 0;                   // labels are 0 to classes - 1
  std::vector<std::uint8_t> pixels;  // size() * ExampleElements() bytes, or empty
  std::vector<float> values;         // size() * ExampleElements() floats, or empty
  float mean = 0.0f;                 // pixels become (byte / 255 - mean) / deviation
  float deviation = 1.0f;
  std::vector<std::int32_t> labels;
  std::vector<std::int32_t>
      domains;  // the true domain of each example where it is known, else empty

  std::int64_t size() const { return static_cast<std::int64_t>(labels.size()); }
  std::int64_t ExampleElements() const;
  // Writes the features of one example, normalised, into `out` (ExampleElements() floats). index <
  // size().
  void CopyExample(std::int64_t index, std::span<float> out) const;
};

// The examples `indices` of `source`, in that order.
Dataset Subset(const Dataset& source, std::span<const std::int64_t> indices);

struct LocalData {
  Dataset train;
  Dataset holdout;  // may be empty when holdout_fraction is 0
};

// A trainer's own data. Deterministic in the options. Errors name the file or option and the fix;
// see docs/datasets.md.
Result<LocalData> LoadLocalData(const DataOptions& options);

// The evaluator's global test set: for `domains` fresh examples, equally many of each domain; for
// `idx` the t10k files.
Result<Dataset> LoadTestData(const DataOptions& options);

}  // namespace fedmoe
