// Batches made ahead of need, so that training does not wait for decoding.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "common/result.h"
#include "data/batch.h"
#include "data/dataset.h"

namespace fedmoe {

struct BatchLoaderOptions {
  std::int64_t batch_size = 32;  // at least 1
  AugmentOptions augment;
  std::uint64_t augment_key = 0;  // another for every epoch
  int depth = 3;                  // batches made ahead; at least 1
};

// One pass over a dataset. A thread of its own makes the batches, in order; what it makes is that
// of MakeBatch called in turn. Next and Recycle belong to one thread at a time. The dataset must
// outlive the loader.
class BatchLoader {
 public:
  // `order`: indices of the examples, cut into batches of batch_size; the last may be smaller.
  BatchLoader(const Dataset& data, std::vector<std::int64_t> order,
              const BatchLoaderOptions& options);
  // Waits at most for the batch in the making.
  ~BatchLoader();
  BatchLoader(const BatchLoader&) = delete;
  BatchLoader& operator=(const BatchLoader&) = delete;

  // The next batch; nothing after the last. The first batch that could not be made gives its error
  // in its place, and so does every later call.
  Result<std::optional<ExampleBatch>> Next();
  // Gives a batch's memory back, so that the next one needs no allocation. Optional.
  void Recycle(ExampleBatch batch);

 private:
  void Produce();

  const Dataset& data_;
  const std::vector<std::int64_t> order_;
  const BatchLoaderOptions options_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<ExampleBatch> ready_;   // below, all guarded by mutex_
  std::vector<ExampleBatch> spare_;  // to be filled again
  Status error_;
  bool finished_ = false;  // no batch will be added to ready_
  bool stop_ = false;
  std::thread thread_;  // last: starts when all else is there
};

}  // namespace fedmoe
