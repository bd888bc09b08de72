#include "data/batch.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>

#include <fmt/format.h>

#include "common/counter_rng.h"
#include "data/image.h"

namespace fedmoe {
namespace {

// What happens to one image: output pixel (y, x) is input pixel (y + down, x + right) of the image,
// mirrored first if `flip`; 0 where that is outside.
struct Move {
  bool flip = false;
  int down = 0;
  int right = 0;
};

Status CheckAugment(const Dataset& data, const AugmentOptions& augment) {
  if (augment.random_crop < 0 || augment.random_crop > kMaxImageSide) {
    return InvalidArgument(fmt::format("{}: random_crop must be in 0 to {} (got {})", data.name,
                                       kMaxImageSide, augment.random_crop));
  }
  if ((augment.random_flip || augment.random_crop > 0) && data.shape.size() != 3) {
    return InvalidArgument(
        data.name + ": random_flip and random_crop need images of channels x height x width");
  }
  if (augment.random_shift && !data.IsText()) {
    return InvalidArgument(data.name + ": random_shift needs text");
  }
  return Status::Ok();
}

CounterRng StreamOf(std::uint64_t augment_key, std::int64_t index) {
  return CounterRng(MixKey({augment_key, static_cast<std::uint64_t>(index)}));
}

Move DrawMove(const AugmentOptions& augment, CounterRng rng) {
  Move move;
  const auto places = static_cast<std::uint64_t>(2 * augment.random_crop + 1);
  if (augment.random_crop > 0) {
    move.down = static_cast<int>(rng.NextBelow(places)) - augment.random_crop;
    move.right = static_cast<int>(rng.NextBelow(places)) - augment.random_crop;
  }
  if (augment.random_flip) move.flip = rng.NextBelow(2) == 1;
  return move;
}

// out = the moved image, through `value(channel, element)`; both planar.
template <typename Value>
void MoveImage(std::span<const int> shape, const Move& move, std::span<float> out, Value value) {
  const int height = shape[1], width = shape[2];
  const int first = std::clamp(-move.right, 0, width);
  const int last = std::clamp(width - move.right, first, width);
  std::size_t to = 0;
  for (int channel = 0; channel < shape[0]; ++channel) {
    for (int y = 0; y < height; ++y, to += static_cast<std::size_t>(width)) {
      const int source = y + move.down;
      float* row = out.data() + to;
      if (source < 0 || source >= height) {
        std::fill_n(row, width, 0.0f);
        continue;
      }
      const std::size_t line =
          (static_cast<std::size_t>(channel) * static_cast<std::size_t>(height) +
           static_cast<std::size_t>(source)) *
          static_cast<std::size_t>(width);
      std::fill_n(row, first, 0.0f);
      for (int x = first; x < last; ++x) {
        const int column = move.flip ? width - 1 - (x + move.right) : x + move.right;
        row[x] = value(channel, line + static_cast<std::size_t>(column));
      }
      std::fill(row + last, row + width, 0.0f);
    }
  }
}

// What each of the 256 bytes becomes, a row a channel: one division a byte value, not a pixel.
class ByteTable {
 public:
  explicit ByteTable(const Dataset& data) : rows_(data.mean.size()) {
    for (std::size_t channel = 0; channel < rows_.size(); ++channel) {
      for (std::size_t byte = 0; byte < 256; ++byte) {
        rows_[channel][byte] =
            (static_cast<float>(byte) / 255.0f - data.mean[channel]) / data.deviation[channel];
      }
    }
  }
  const std::array<float, 256>& Row(int channel) const {
    return rows_[rows_.size() == 1 ? 0 : static_cast<std::size_t>(channel)];
  }

 private:
  std::vector<std::array<float, 256>> rows_;
};

void FillBytes(const Dataset& data, std::span<const std::uint8_t> bytes, const ByteTable& table,
               const Move& move, std::span<float> out) {
  if (data.shape.size() == 3) {
    MoveImage(data.shape, move, out,
              [&](int channel, std::size_t element) { return table.Row(channel)[bytes[element]]; });
    return;
  }
  const auto& row = table.Row(0);
  std::transform(bytes.begin(), bytes.end(), out.begin(),
                 [&](std::uint8_t byte) { return row[byte]; });
}

Status FillFeatures(const Dataset& data, std::span<const std::int64_t> indices,
                    const AugmentOptions& augment, std::uint64_t augment_key, ExampleBatch& out) {
  const auto elements = static_cast<std::size_t>(data.ExampleElements());
  const bool augments = augment.random_flip || augment.random_crop > 0;
  const ByteTable table(data);
  std::vector<std::uint8_t> decoded(data.files.empty() ? 0 : elements);
  out.features.resize(indices.size() * elements);
  std::span<float> to = out.features;
  for (const std::int64_t index : indices) {
    assert(index >= 0 && index < data.size());
    const auto example = static_cast<std::size_t>(index);
    const Move move = augments ? DrawMove(augment, StreamOf(augment_key, index)) : Move{};
    if (!data.values.empty()) {
      const auto values = std::span(data.values).subspan(example * elements, elements);
      if (augments) {
        MoveImage(data.shape, move, to, [&](int, std::size_t element) { return values[element]; });
      } else {
        std::copy(values.begin(), values.end(), to.begin());
      }
    } else if (!data.files.empty()) {
      FEDMOE_ASSIGN_OR_RETURN(const Image image, ReadImage(data.files[example], data.shape[0]));
      FitImage(image, data.shape[1], data.shape[2], decoded);
      FillBytes(data, decoded, table, move, to);
    } else {
      FillBytes(data, std::span(data.pixels).subspan(example * elements, elements), table, move,
                to);
    }
    out.labels.push_back(data.labels[example]);
    to = to.subspan(elements);
  }
  return Status::Ok();
}

// Where the window of an example begins.
std::int64_t WindowStart(const Dataset& data, std::int64_t index, bool shift,
                         std::uint64_t augment_key) {
  const TextWindow& window = data.windows[static_cast<std::size_t>(index)];
  if (!shift) return window.first;
  const TextDocument& document = data.documents[static_cast<std::size_t>(window.document)];
  const std::int64_t context = data.shape[0];
  const std::int64_t least = std::max(document.begin, window.first - (context - 1));
  const std::int64_t most = std::min(document.end - context - 1, window.first + (context - 1));
  CounterRng rng = StreamOf(augment_key, index);
  return least +
         static_cast<std::int64_t>(rng.NextBelow(static_cast<std::uint64_t>(most - least + 1)));
}

void FillTokens(const Dataset& data, std::span<const std::int64_t> indices, bool shift,
                std::uint64_t augment_key, ExampleBatch& out) {
  const auto context = static_cast<std::ptrdiff_t>(data.shape[0]);
  for (const std::int64_t index : indices) {
    assert(index >= 0 && index < data.size());
    const auto first = data.tokens.begin() + WindowStart(data, index, shift, augment_key);
    out.tokens.insert(out.tokens.end(), first, first + context);
    out.labels.insert(out.labels.end(), first + 1, first + 1 + context);
  }
}

}  // namespace

Status MakeBatch(const Dataset& data, std::span<const std::int64_t> indices,
                 const AugmentOptions& augment, std::uint64_t augment_key, ExampleBatch& out) {
  FEDMOE_RETURN_IF_ERROR(CheckAugment(data, augment));
  out.examples = static_cast<std::int64_t>(indices.size());
  out.tokens.clear();
  out.labels.clear();
  if (data.IsText()) {
    out.features.clear();
    FillTokens(data, indices, augment.random_shift, augment_key, out);
    return Status::Ok();
  }
  return FillFeatures(data, indices, augment, augment_key, out);
}

}  // namespace fedmoe
