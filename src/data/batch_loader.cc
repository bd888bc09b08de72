#include "data/batch_loader.h"

#include <algorithm>
#include <cassert>
#include <span>
#include <utility>

namespace fedmoe {

BatchLoader::BatchLoader(const Dataset& data, std::vector<std::int64_t> order,
                         const BatchLoaderOptions& options)
    : data_(data), order_(std::move(order)), options_(options) {
  assert(options_.batch_size >= 1 && options_.depth >= 1);
  thread_ = std::thread([this] { Produce(); });
}

BatchLoader::~BatchLoader() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void BatchLoader::Produce() {
  const auto depth = static_cast<std::size_t>(options_.depth);
  const auto batch_size = static_cast<std::size_t>(options_.batch_size);
  std::span<const std::int64_t> rest = order_;
  Status status;
  while (!rest.empty() && status.ok()) {
    ExampleBatch batch;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stop_ || ready_.size() < depth; });
      if (stop_) return;
      if (!spare_.empty()) {
        batch = std::move(spare_.back());
        spare_.pop_back();
      }
    }
    const std::size_t count = std::min(batch_size, rest.size());
    status = MakeBatch(data_, rest.first(count), options_.augment, options_.augment_key, batch);
    rest = rest.subspan(count);
    if (status.ok()) {
      const std::lock_guard lock(mutex_);
      ready_.push_back(std::move(batch));
    }
    changed_.notify_all();
  }
  {
    const std::lock_guard lock(mutex_);
    error_ = status;
    finished_ = true;
  }
  changed_.notify_all();
}

Result<std::optional<ExampleBatch>> BatchLoader::Next() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return finished_ || !ready_.empty(); });
  if (ready_.empty()) {
    if (!error_.ok()) return error_;
    return std::optional<ExampleBatch>();
  }
  std::optional<ExampleBatch> batch(std::move(ready_.front()));
  ready_.pop_front();
  lock.unlock();
  changed_.notify_all();
  return batch;
}

void BatchLoader::Recycle(ExampleBatch batch) {
  const std::lock_guard lock(mutex_);
  // No more than can be in use at once: those ahead and the one in the making.
  if (spare_.size() <= static_cast<std::size_t>(options_.depth)) spare_.push_back(std::move(batch));
}

}  // namespace fedmoe
