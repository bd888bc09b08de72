// Batches of a dataset as flat arrays, augmented on the way.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/result.h"
#include "data/dataset.h"

namespace fedmoe {

// What changes an example at random each time that it is trained on. Nothing by default.
struct AugmentOptions {
  bool random_flip = false;  // images: left and right are swapped in half of the cases
  // Images: a border of so many pixels of 0 (after normalisation) is put around, and a window of
  // the old size cut from a random place. 0 to 16384.
  int random_crop = 0;
  // Text: the window begins up to context - 1 characters earlier or later, within its document.
  bool random_shift = false;
};

struct ExampleBatch {
  std::int64_t examples = 0;
  std::vector<float> features;       // [examples, elements]; empty for text
  std::vector<std::int64_t> tokens;  // [examples, context]; text alone
  std::vector<std::int64_t> labels;  // [examples]; of text [examples, context]
};

// Fills `out` with the examples `indices`, each below data.size(), in that order; what it held
// before is gone, its memory is used again. The augmentation of an example is a function of
// (augment_key, its index) alone, whatever the batch or the thread. On an error `out` is
// unspecified. Thread-safe for different `out`. Errors:
//   INVALID_ARGUMENT or DATA_LOSS as DecodeImage (data/image.h), for a dataset of files
//   INVALID_ARGUMENT "NAME: random_flip and random_crop need images of channels x height x width"
//   INVALID_ARGUMENT "NAME: random_shift needs text"
//   INVALID_ARGUMENT "NAME: random_crop must be in 0 to 16384 (got N)"
Status MakeBatch(const Dataset& data, std::span<const std::int64_t> indices,
                 const AugmentOptions& augment, std::uint64_t augment_key, ExampleBatch& out);

}  // namespace fedmoe
