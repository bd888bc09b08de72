#include "client/example_source.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

namespace fedmoe {
namespace {

constexpr std::int64_t kMaxWholeBytes = std::int64_t{256} << 20;

std::vector<std::int64_t> Indices(std::int64_t first, std::int64_t count) {
  std::vector<std::int64_t> indices(static_cast<std::size_t>(count));
  std::iota(indices.begin(), indices.end(), first);
  return indices;
}

}  // namespace

ExampleSource::ExampleSource(Dataset dataset) : dataset_(std::move(dataset)) {}

void ExampleSource::Materialise() {
  if (labels_.defined()) return;
  const std::int64_t elements = dataset_.ExampleElements();
  if (!dataset_.values.empty()) {
    whole_ = torch::from_blob(dataset_.values.data(), {size(), elements}, torch::kFloat32);
  } else if (size() * elements * 4 <= kMaxWholeBytes) {
    whole_ = Convert(Indices(0, size()));
    dataset_.pixels = {};
  }
  labels_ = torch::empty({size()}, torch::kInt64);
  std::copy(dataset_.labels.begin(), dataset_.labels.end(), labels_.data_ptr<std::int64_t>());
}

Batch ExampleSource::Gather(std::span<const std::int64_t> indices) const {
  // Only read from.
  const torch::Tensor index =
      torch::from_blob(const_cast<std::int64_t*>(indices.data()),
                       {static_cast<std::int64_t>(indices.size())}, torch::kInt64);
  return {whole_.defined() ? whole_.index_select(0, index) : Convert(indices),
          labels_.index_select(0, index)};
}

Batch ExampleSource::Range(std::int64_t first, std::int64_t count) const {
  return {whole_.defined() ? whole_.narrow(0, first, count) : Convert(Indices(first, count)),
          labels_.narrow(0, first, count)};
}

torch::Tensor ExampleSource::Convert(std::span<const std::int64_t> indices) const {
  const std::int64_t elements = dataset_.ExampleElements();
  torch::Tensor features =
      torch::empty({static_cast<std::int64_t>(indices.size()), elements}, torch::kFloat32);
  float* row = features.data_ptr<float>();
  for (const std::int64_t index : indices) {
    dataset_.CopyExample(index, {row, static_cast<std::size_t>(elements)});
    row += elements;
  }
  return features;
}

}  // namespace fedmoe
