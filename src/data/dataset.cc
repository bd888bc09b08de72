#include "data/dataset.h"

#include <algorithm>
#include <cassert>
#include <cstddef>

namespace fedmoe {
namespace {

template <typename T>
std::vector<T> Gather(const std::vector<T>& source, std::span<const std::int64_t> indices,
                      std::int64_t elements) {
  std::vector<T> result;
  if (source.empty()) return result;
  result.reserve(indices.size() * static_cast<std::size_t>(elements));
  for (const std::int64_t index : indices) {
    const auto first = source.begin() + index * elements;
    result.insert(result.end(), first, first + elements);
  }
  return result;
}

}  // namespace

std::int64_t Dataset::ExampleElements() const {
  std::int64_t elements = 1;
  for (const int side : shape) elements *= side;
  return elements;
}

void Dataset::CopyExample(std::int64_t index, std::span<float> out) const {
  const std::int64_t elements = ExampleElements();
  assert(index >= 0 && index < size());
  assert(static_cast<std::int64_t>(out.size()) >= elements);
  if (!values.empty()) {
    std::copy_n(values.begin() + index * elements, elements, out.begin());
    return;
  }
  const std::int64_t plane = elements / static_cast<std::int64_t>(mean.size());
  auto next = pixels.begin() + index * elements;
  auto to = out.begin();
  for (std::size_t channel = 0; channel < mean.size(); ++channel, next += plane) {
    to = std::transform(next, next + plane, to, [&](std::uint8_t pixel) {
      return (static_cast<float>(pixel) / 255.0f - mean[channel]) / deviation[channel];
    });
  }
}

Dataset Subset(const Dataset& source, std::span<const std::int64_t> indices) {
  const std::int64_t elements = source.ExampleElements();
  Dataset result;
  result.name = source.name;
  result.shape = source.shape;
  result.classes = source.classes;
  result.pixels = Gather(source.pixels, indices, elements);
  result.values = Gather(source.values, indices, elements);
  result.files = Gather(source.files, indices, 1);
  result.tokens = source.tokens;
  result.documents = source.documents;
  result.windows = Gather(source.windows, indices, 1);
  result.mean = source.mean;
  result.deviation = source.deviation;
  result.labels = Gather(source.labels, indices, 1);
  result.domains = Gather(source.domains, indices, 1);
  return result;
}

}  // namespace fedmoe
