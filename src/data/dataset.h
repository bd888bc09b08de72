// Examples in memory (or, of a large image folder, on disk), and how a node gets its own.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/result.h"
#include "data/data_options.h"

namespace fedmoe {

// A run of characters that belong together: tokens [begin, end) of a dataset.
struct TextDocument {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

// One example of a text: it shows `context` tokens from `first` on, and asks for each the token
// after it. first + context < documents[document].end, so that no window crosses a border.
struct TextWindow {
  std::int64_t first = 0;
  std::int32_t document = 0;
};

// `size()` examples. Exactly one of four kinds, by which vector is filled; MakeBatch
// (data/batch.h) reads them all:
//   pixels  images as bytes, so that 60,000 of 28x28 take 47 MB and not 188 MB (idx, cifar_binary,
//           an image folder that fits)
//   values  floats, used as they are (domains, csv)
//   files   encoded images, decoded for each batch (an image folder that does not fit)
//   tokens  text; `windows` and `documents` say which part of it each example is
struct Dataset {
  std::string name;        // for messages: "domains", or the path
  std::vector<int> shape;  // of one example: {32}, {channels, height, width}, or of text {context}
  int classes = 0;         // labels are 0 to classes - 1; of text, so are tokens

  std::vector<std::uint8_t> pixels;   // size() * ExampleElements() bytes, channel by channel
  std::vector<float> values;          // size() * ExampleElements() floats
  std::vector<std::string> files;     // size() paths of JPEG or PNG files
  std::vector<std::uint16_t> tokens;  // as many as the documents have

  // pixels and files: a byte becomes (byte / 255 - mean) / deviation. One value each for all
  // channels, or as many of both as channels.
  std::vector<float> mean = {0.0f};
  std::vector<float> deviation = {1.0f};

  std::vector<TextDocument> documents;  // tokens alone
  std::vector<TextWindow> windows;      // tokens alone: size() examples

  // One an example; empty for text, whose labels are the tokens themselves, one a position.
  std::vector<std::int32_t> labels;
  // The true domain of each example where it is known, else empty.
  std::vector<std::int32_t> domains;

  bool IsText() const { return !tokens.empty(); }
  std::int64_t size() const {
    return static_cast<std::int64_t>(IsText() ? windows.size() : labels.size());
  }
  // Features of one example; of text, its positions.
  std::int64_t ExampleElements() const;
  // Of pixels or values: writes the features of one example, normalised, into `out`
  // (ExampleElements() floats). index < size(). Every kind: MakeBatch.
  void CopyExample(std::int64_t index, std::span<float> out) const;
};

// The examples `indices` of `source`, in that order. Of text, all tokens and documents.
Dataset Subset(const Dataset& source, std::span<const std::int64_t> indices);

struct LocalData {
  Dataset train;
  Dataset holdout;  // may be empty when holdout_fraction is 0
};

// A trainer's own data. Deterministic in the options. Errors name the file or option and the fix;
// see docs/datasets.md.
Result<LocalData> LoadLocalData(const DataOptions& options);

// The evaluator's global test set: for `domains` fresh examples, equally many of each domain; for
// `idx` the t10k files; else what docs/datasets.md says.
Result<Dataset> LoadTestData(const DataOptions& options);

}  // namespace fedmoe
