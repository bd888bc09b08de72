// Scaling and cropping of decoded images.
#include <algorithm>
#include <cassert>
#include <cmath>

#include "data/image.h"

namespace fedmoe {
namespace {

// The inputs from `first` on that an output position is the weighted mean of.
struct Taps {
  int first = 0;
  std::vector<float> weights;  // sum to 1
};

// Of `out` positions in the middle of a line of `in` pixels scaled to `scaled`. The filter is a
// triangle of one input pixel to each side, or of one output pixel where those are wider.
std::vector<Taps> TriangleTaps(int in, int scaled, int out) {
  const double step = static_cast<double>(in) / scaled;
  const double radius = std::max(1.0, step);
  const int cropped = (scaled - out) / 2;
  std::vector<Taps> taps(static_cast<std::size_t>(out));
  for (int i = 0; i < out; ++i) {
    const double centre = (cropped + i + 0.5) * step;
    const int first = std::max(0, static_cast<int>(std::floor(centre - radius)));
    const int last = std::min(in, static_cast<int>(std::ceil(centre + radius)));
    Taps& own = taps[static_cast<std::size_t>(i)];
    own.first = first;
    double sum = 0.0;
    for (int j = first; j < last; ++j) {
      const double weight = std::max(0.0, 1.0 - std::abs(j + 0.5 - centre) / radius);
      own.weights.push_back(static_cast<float>(weight));
      sum += weight;
    }
    for (float& weight : own.weights) weight = static_cast<float>(weight / sum);
  }
  return taps;
}

std::uint8_t ToByte(float value) {
  return static_cast<std::uint8_t>(std::clamp(value + 0.5f, 0.0f, 255.0f));
}

// [height of the image, width] of one channel, every line scaled and cropped.
std::vector<float> FitLines(const Image& image, int channel, const std::vector<Taps>& columns) {
  std::vector<float> lines;
  lines.reserve(static_cast<std::size_t>(image.height) * columns.size());
  for (int y = 0; y < image.height; ++y) {
    const std::uint8_t* line = image.pixels.data() + static_cast<std::size_t>(y) *
                                                         static_cast<std::size_t>(image.width) *
                                                         static_cast<std::size_t>(image.channels);
    for (const Taps& taps : columns) {
      const std::uint8_t* pixel = line + taps.first * image.channels + channel;
      float sum = 0.0f;
      for (const float weight : taps.weights) {
        sum += weight * static_cast<float>(*pixel);
        pixel += image.channels;
      }
      lines.push_back(sum);
    }
  }
  return lines;
}

void CopyPlanes(const Image& image, std::span<std::uint8_t> out) {
  const auto channels = static_cast<std::size_t>(image.channels);
  const std::size_t plane = image.pixels.size() / channels;
  for (std::size_t channel = 0; channel < channels; ++channel) {
    for (std::size_t i = 0; i < plane; ++i) {
      out[channel * plane + i] = image.pixels[i * channels + channel];
    }
  }
}

}  // namespace

void FitImage(const Image& image, int height, int width, std::span<std::uint8_t> out) {
  assert(static_cast<std::int64_t>(out.size()) >= std::int64_t{height} * width * image.channels);
  if (image.height == height && image.width == width) return CopyPlanes(image, out);
  const double scale = std::max(static_cast<double>(height) / image.height,
                                static_cast<double>(width) / image.width);
  const auto scaled = [scale](int side, int target) {
    return std::max(target, static_cast<int>(std::lround(side * scale)));
  };
  const auto columns = TriangleTaps(image.width, scaled(image.width, width), width);
  const auto rows = TriangleTaps(image.height, scaled(image.height, height), height);
  auto to = out.begin();
  for (int channel = 0; channel < image.channels; ++channel) {
    const std::vector<float> lines = FitLines(image, channel, columns);
    for (const Taps& taps : rows) {
      for (int x = 0; x < width; ++x) {
        float sum = 0.0f;
        for (std::size_t j = 0; j < taps.weights.size(); ++j) {
          const std::size_t line = static_cast<std::size_t>(taps.first) + j;
          sum += taps.weights[j] *
                 lines[line * static_cast<std::size_t>(width) + static_cast<std::size_t>(x)];
        }
        *to++ = ToByte(sum);
      }
    }
  }
}

}  // namespace fedmoe
