// A dataset as batches of tensors.
#pragma once

#include <cstdint>
#include <span>

#include "data/dataset.h"
#include "moe/torch.h"

namespace fedmoe {

struct Batch {
  torch::Tensor features;  // [n, elements of an example] float32
  torch::Tensor labels;    // [n] int64
};

// Owns the examples. They are one tensor where that takes at most 256 MiB, else each batch is made
// when it is asked for. libtorch's exceptions pass through. Batches are valid while the source
// lives.
class ExampleSource {
 public:
  explicit ExampleSource(Dataset dataset);
  // Its tensors read the dataset's memory.
  ExampleSource(const ExampleSource&) = delete;
  ExampleSource& operator=(const ExampleSource&) = delete;

  // Makes the tensors; call before the first batch.
  void Materialise();

  std::int64_t size() const { return dataset_.size(); }
  // Name, shape, classes and labels; features may have moved into a tensor.
  const Dataset& dataset() const { return dataset_; }

  // The examples `indices`, each below size().
  Batch Gather(std::span<const std::int64_t> indices) const;
  // The examples first to first + count - 1.
  Batch Range(std::int64_t first, std::int64_t count) const;

 private:
  torch::Tensor Convert(std::span<const std::int64_t> indices) const;

  Dataset dataset_;
  torch::Tensor whole_;   // [size, elements]; undefined where it would be too large
  torch::Tensor labels_;  // [size]; undefined before Materialise
};

}  // namespace fedmoe
