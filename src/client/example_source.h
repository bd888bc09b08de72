// A dataset as batches of tensors.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "data/batch_loader.h"
#include "data/dataset.h"
#include "moe/torch.h"

namespace fedmoe {

struct Batch {
  torch::Tensor inputs;  // [examples, elements] float32; of text [examples, context] int64
  torch::Tensor labels;  // [examples] int64; of text [examples * context], or of last_label alone
  std::int64_t examples = 0;
};

// How a pass over the examples goes.
struct PassOptions {
  std::int64_t batch_size = 32;
  AugmentOptions augment;
  std::uint64_t augment_key = 0;
  bool last_label = false;  // of text: of each example only the label of its last position
};

// Owns the examples. Those that stay as they are become one tensor, on the device, where that takes
// at most 256 MiB; others are made into batches, and augmented, ahead of need on a thread of their
// own. libtorch's exceptions pass through.
class ExampleSource {
 public:
  explicit ExampleSource(Dataset dataset);
  // Its tensors read the dataset's memory.
  ExampleSource(const ExampleSource&) = delete;
  ExampleSource& operator=(const ExampleSource&) = delete;

  // Makes the tensors, and batches from here on, on `device`; call before the first pass.
  void Materialise(torch::Device device);

  std::int64_t size() const { return dataset_.size(); }
  const Dataset& dataset() const { return dataset_; }
  // 0, 1, ..., size() - 1.
  std::vector<std::int64_t> Order() const;

  // One pass over the examples `order`, each below size(). Uses the source, which must outlive it.
  class Pass {
   public:
    Pass(const ExampleSource& source, std::vector<std::int64_t> order, const PassOptions& options);
    // The next batch, valid until the next call; nothing after the last. An error names the file.
    Result<std::optional<Batch>> Next();

   private:
    const ExampleSource& source_;
    std::vector<std::int64_t> order_;
    PassOptions options_;
    std::size_t next_ = 0;
    torch::Tensor places_;                 // order_ on the device, for the whole tensor
    std::unique_ptr<BatchLoader> loader_;  // null: from the whole tensor
    std::optional<ExampleBatch> current_;  // read by the batch given last
  };

 private:
  Dataset dataset_;
  torch::Device device_ = torch::kCPU;
  torch::Tensor whole_;   // [size, elements]; undefined where batches are made one by one
  torch::Tensor labels_;  // [size]; undefined with it
};

}  // namespace fedmoe
