#include "client/example_source.h"

#include <algorithm>
#include <numeric>
#include <span>
#include <utility>

namespace fedmoe {
namespace {

constexpr std::int64_t kMaxWholeBytes = std::int64_t{256} << 20;

bool Augments(const AugmentOptions& options) {
  return options.random_flip || options.random_crop > 0 || options.random_shift;
}

// A tensor that reads a vector's memory.
template <typename T>
torch::Tensor View(std::vector<T>& values, at::IntArrayRef shape, torch::ScalarType type) {
  return torch::from_blob(values.data(), shape, type);
}

}  // namespace

ExampleSource::ExampleSource(Dataset dataset) : dataset_(std::move(dataset)) {}

std::vector<std::int64_t> ExampleSource::Order() const {
  std::vector<std::int64_t> order(static_cast<std::size_t>(size()));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

void ExampleSource::Materialise(torch::Device device) {
  device_ = device;
  const std::int64_t elements = dataset_.ExampleElements();
  const bool large = size() * elements * 4 > kMaxWholeBytes;
  if (whole_.defined() || dataset_.IsText() || !dataset_.files.empty()) return;
  if (!dataset_.values.empty()) {
    whole_ = View(dataset_.values, {size(), elements}, torch::kFloat32);
  } else if (!large) {
    whole_ = torch::empty({size(), elements}, torch::kFloat32);
    float* row = whole_.data_ptr<float>();
    for (std::int64_t index = 0; index < size(); ++index, row += elements) {
      dataset_.CopyExample(index, {row, static_cast<std::size_t>(elements)});
    }
  } else {
    return;
  }
  labels_ = torch::empty({size()}, torch::kInt64);
  std::copy(dataset_.labels.begin(), dataset_.labels.end(), labels_.data_ptr<std::int64_t>());
  whole_ = whole_.to(device);
  labels_ = labels_.to(device);
}

ExampleSource::Pass::Pass(const ExampleSource& source, std::vector<std::int64_t> order,
                          const PassOptions& options)
    : source_(source), order_(std::move(order)), options_(options) {
  if (source.whole_.defined() && !Augments(options.augment)) {
    places_ =
        View(order_, {static_cast<std::int64_t>(order_.size())}, torch::kInt64).to(source.device_);
    return;
  }
  loader_ = std::make_unique<BatchLoader>(source.dataset_, order_,
                                          BatchLoaderOptions{.batch_size = options.batch_size,
                                                             .augment = options.augment,
                                                             .augment_key = options.augment_key});
}

Result<std::optional<Batch>> ExampleSource::Pass::Next() {
  if (loader_ == nullptr) {
    if (next_ == order_.size()) return std::optional<Batch>();
    const auto count =
        std::min(order_.size() - next_, static_cast<std::size_t>(options_.batch_size));
    const torch::Tensor index =
        places_.narrow(0, static_cast<std::int64_t>(next_), static_cast<std::int64_t>(count));
    next_ += count;
    return std::optional<Batch>({source_.whole_.index_select(0, index),
                                 source_.labels_.index_select(0, index),
                                 static_cast<std::int64_t>(count)});
  }
  if (current_) loader_->Recycle(std::move(*current_));
  FEDMOE_ASSIGN_OR_RETURN(current_, loader_->Next());
  if (!current_) return std::optional<Batch>();
  const std::int64_t examples = current_->examples;
  const std::int64_t elements = source_.dataset_.ExampleElements();
  const bool text = source_.dataset_.IsText();
  Batch batch;
  batch.examples = examples;
  batch.inputs = text ? View(current_->tokens, {examples, elements}, torch::kInt64)
                      : View(current_->features, {examples, elements}, torch::kFloat32);
  batch.labels = View(current_->labels, {text ? examples * elements : examples}, torch::kInt64);
  if (text && options_.last_label) {
    batch.labels = batch.labels.view({examples, elements}).select(1, elements - 1).contiguous();
  }
  batch.inputs = batch.inputs.to(source_.device_);
  batch.labels = batch.labels.to(source_.device_);
  return std::optional<Batch>(std::move(batch));
}

}  // namespace fedmoe
