// `moe_cnn` and `moe_transformer` as plain loops in float64, with two-matrix ReLU FFNs and one
// expert a MoE layer, whose gate weight is 1: what the modules must compute. The choice among
// several experts is the layer's own test.
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "moe/model_options.h"
#include "tests/moe/reference_moe.h"

namespace fedmoe {

using ReferenceBlocks = std::map<std::string, Vector>;  // row-major, by the name in the spec

inline Vector Sum(Vector a, const Vector& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

inline Vector RmsNormOf(const Vector& values, const Vector& scale) {
  double square = 0.0;
  for (const double value : values) square += value * value / static_cast<double>(values.size());
  Vector normed;
  for (std::size_t i = 0; i < values.size(); ++i) {
    normed.push_back(values[i] / std::sqrt(square + 1e-6) * scale[i]);
  }
  return normed;
}

inline Vector ReferenceFfn(const ReferenceBlocks& blocks, const FfnPlace& place,
                           const Vector& token) {
  const std::string prefix = place.prefix + (place.layer < 0 ? "ffn." : "experts.0.");
  const Vector hidden =
      Relu(Linear(blocks.at(prefix + "up.weight"), token, &blocks.at(prefix + "up.bias")));
  return Linear(blocks.at(prefix + "down.weight"), hidden, &blocks.at(prefix + "down.bias"));
}

struct Image {
  int channels = 0;
  int size = 0;
  Vector values;  // [channels, size, size]

  double& At(int c, int y, int x) {
    return values[static_cast<std::size_t>((c * size + y) * size + x)];
  }
  double Padded(int c, int y, int x) const {
    if (y < 0 || x < 0 || y >= size || x >= size) return 0.0;
    return values[static_cast<std::size_t>((c * size + y) * size + x)];
  }
};

inline Image BlankImage(int channels, int size) {
  return {channels, size, Vector(static_cast<std::size_t>(channels * size * size), 0.0)};
}

inline Image Convolve(const Image& image, const Vector& weight, int kernel, int stride) {
  const int outputs = static_cast<int>(weight.size()) / (image.channels * kernel * kernel);
  Image result = BlankImage(outputs, (image.size + stride - 1) / stride);
  for (int o = 0; o < outputs; ++o) {
    for (int y = 0; y < result.size; ++y) {
      for (int x = 0; x < result.size; ++x) {
        std::size_t at = static_cast<std::size_t>(o * image.channels * kernel * kernel);
        for (int c = 0; c < image.channels; ++c) {
          for (int ky = 0; ky < kernel; ++ky) {
            for (int kx = 0; kx < kernel; ++kx) {
              result.At(o, y, x) += weight[at++] * image.Padded(c, y * stride + ky - kernel / 2,
                                                                x * stride + kx - kernel / 2);
            }
          }
        }
      }
    }
  }
  return result;
}

// As many groups, at most 8, a power of 2, as leave four channels or more in each.
inline Image GroupNorm(Image image, const ReferenceBlocks& blocks, const std::string& name) {
  int groups = 8;
  while (groups > 1 && (image.channels % groups != 0 || image.channels / groups < 4)) groups /= 2;
  const std::size_t plane = static_cast<std::size_t>(image.size * image.size);
  const std::size_t part = image.values.size() / static_cast<std::size_t>(groups);
  for (std::size_t first = 0; first < image.values.size(); first += part) {
    double mean = 0.0, variance = 0.0;
    const std::span<double> group = std::span(image.values).subspan(first, part);
    for (const double value : group) mean += value / static_cast<double>(part);
    for (const double value : group) {
      variance += (value - mean) * (value - mean) / static_cast<double>(part);
    }
    for (std::size_t i = 0; i < part; ++i) {
      const std::size_t channel = (first + i) / plane;
      group[i] =
          (group[i] - mean) / std::sqrt(variance + 1e-5) * blocks.at(name + ".scale")[channel] +
          blocks.at(name + ".bias")[channel];
    }
  }
  return image;
}

inline Image HalveByMaximum(const Image& image) {
  Image result = BlankImage(image.channels, (image.size + 1) / 2);
  for (int c = 0; c < image.channels; ++c) {
    for (int y = 0; y < result.size; ++y) {
      for (int x = 0; x < result.size; ++x) {
        double most = image.Padded(c, 2 * y, 2 * x);
        for (int i = 1; i < 4; ++i) {
          const int row = 2 * y + i / 2, column = 2 * x + i % 2;
          if (row < image.size && column < image.size) {
            most = std::max(most, image.Padded(c, row, column));
          }
        }
        result.At(c, y, x) = most;
      }
    }
  }
  return result;
}

inline Vector ReferenceCnn(const ModelOptions& options, const ReferenceBlocks& blocks,
                           Vector input) {
  Image image = {options.Channels(), options.ImageSize(), std::move(input)};
  image = GroupNorm(Convolve(image, blocks.at("stem.weight"), 3, 1), blocks, "stem.norm");
  image.values = Relu(image.values);
  image = HalveByMaximum(image);
  const int depth = options.Depth();
  for (int i = 0; i < 3 * depth; ++i) {
    const std::string prefix = "blocks." + std::to_string(i) + ".";
    const int stride = i > 0 && i % depth == 0 ? 2 : 1;
    Image branch = Convolve(image, blocks.at(prefix + "conv1.weight"), 3, stride);
    branch = GroupNorm(std::move(branch), blocks, prefix + "norm1");
    branch.values = Relu(branch.values);
    branch = Convolve(branch, blocks.at(prefix + "conv2.weight"), 3, 1);
    branch = GroupNorm(std::move(branch), blocks, prefix + "norm2");
    if (blocks.contains(prefix + "skip.weight")) {
      image = Convolve(image, blocks.at(prefix + "skip.weight"), 1, stride);
    }
    branch.values = Relu(Sum(std::move(branch.values), image.values));
    image = std::move(branch);
    if (i < 2 * depth) continue;
    const FfnPlace place = FfnPlaces(options)[static_cast<std::size_t>(i - 2 * depth)];
    for (int at = 0; at < image.size * image.size; ++at) {
      const int y = at / image.size, x = at % image.size;
      Vector token;
      for (int c = 0; c < image.channels; ++c) token.push_back(image.At(c, y, x));
      token = ReferenceFfn(blocks, place, RmsNormOf(token, blocks.at(prefix + "ffn_norm.scale")));
      for (int c = 0; c < image.channels; ++c) {
        image.At(c, y, x) += token[static_cast<std::size_t>(c)];
      }
    }
  }
  Vector pooled(static_cast<std::size_t>(image.channels), 0.0);
  const std::size_t plane = static_cast<std::size_t>(image.size * image.size);
  for (std::size_t i = 0; i < image.values.size(); ++i) {
    pooled[i / plane] += image.values[i] / static_cast<double>(plane);
  }
  return Linear(blocks.at("head.weight"), RmsNormOf(pooled, blocks.at("norm.scale")),
                &blocks.at("head.bias"));
}

// One head's features at a position as complex numbers, turned: feature i is the real part of
// number i, feature i + d/2 its imaginary part.
inline std::vector<std::complex<double>> Turned(std::span<const double> features, int position) {
  const std::size_t half = features.size() / 2;
  std::vector<std::complex<double>> turned;
  for (std::size_t i = 0; i < half; ++i) {
    const double angle = position / std::pow(10000.0, 2.0 * static_cast<double>(i) /
                                                          (2.0 * static_cast<double>(half)));
    turned.push_back(std::complex(features[i], features[i + half]) * std::polar(1.0, angle));
  }
  return turned;
}

// What attention adds at the last position of `tokens`.
inline Vector ReferenceAttention(const ModelOptions& options, const ReferenceBlocks& blocks,
                                 const std::string& prefix, const std::vector<Vector>& tokens) {
  const auto width = static_cast<std::size_t>(options.width);
  const std::size_t d = width / static_cast<std::size_t>(options.Heads());
  std::vector<Vector> all;
  for (const Vector& token : tokens) {
    all.push_back(Linear(blocks.at(prefix + "attention.query_key_value.weight"), token, nullptr));
  }
  const int last = static_cast<int>(tokens.size()) - 1;
  Vector mixed(width, 0.0);
  for (std::size_t first = 0; first < width; first += d) {
    const auto query = Turned(std::span(all.back()).subspan(first, d), last);
    Vector scores;
    for (int p = 0; p <= last; ++p) {
      const auto key =
          Turned(std::span(all[static_cast<std::size_t>(p)]).subspan(width + first, d), p);
      double score = 0.0;
      for (std::size_t i = 0; i < d / 2; ++i) score += (query[i] * std::conj(key[i])).real();
      scores.push_back(score / std::sqrt(static_cast<double>(d)));
    }
    scores = Softmax(scores);
    for (std::size_t p = 0; p < scores.size(); ++p) {
      for (std::size_t i = 0; i < d; ++i) {
        mixed[first + i] += scores[p] * all[p][2 * width + first + i];
      }
    }
  }
  return Linear(blocks.at(prefix + "attention.output.weight"), mixed, nullptr);
}

// The logits at every position of one example.
inline std::vector<Vector> ReferenceTransformer(const ModelOptions& options,
                                                const ReferenceBlocks& blocks,
                                                std::span<const int> ids) {
  std::vector<Vector> features;
  for (const int id : ids) {
    const auto row = blocks.at("embedding.weight").begin() + id * options.width;
    features.emplace_back(row, row + options.width);
  }
  for (int i = 0; i < options.Depth(); ++i) {
    const FfnPlace place = FfnPlaces(options)[static_cast<std::size_t>(i)];
    std::vector<Vector> normed, next;
    for (const Vector& token : features) {
      normed.push_back(RmsNormOf(token, blocks.at(place.prefix + "attention_norm.scale")));
      Vector mixed =
          Sum(ReferenceAttention(options, blocks, place.prefix, normed), features[next.size()]);
      const Vector read = RmsNormOf(mixed, blocks.at(place.prefix + "ffn_norm.scale"));
      next.push_back(Sum(std::move(mixed), ReferenceFfn(blocks, place, read)));
    }
    features = std::move(next);
  }
  std::vector<Vector> logits;
  for (const Vector& token : features) {
    logits.push_back(
        Linear(blocks.at("head.weight"), RmsNormOf(token, blocks.at("norm.scale")), nullptr));
  }
  return logits;
}

}  // namespace fedmoe
