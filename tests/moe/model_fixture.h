// Specs, random values and a loss for the tests of the modules.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "common/counter_rng.h"
#include "moe/moe_model.h"

namespace fedmoe {

inline ModelSpec SpecOf(const ModelOptions& options) {
  Result<ModelSpec> spec = BuildModelSpec(options);
  EXPECT_TRUE(spec.ok()) << spec.status().ToString();
  return std::move(spec).value();
}

inline void FillNormal(torch::Tensor tensor, CounterRng& rng, double scale) {
  float* value = tensor.data_ptr<float>();
  for (std::int64_t i = 0; i < tensor.numel(); ++i) {
    value[i] = static_cast<float>(scale * rng.NextNormal());
  }
}

inline torch::Tensor RandomTensor(at::IntArrayRef shape, CounterRng& rng, double scale = 1.0) {
  torch::Tensor tensor = torch::empty(shape);
  FillNormal(tensor, rng, scale);
  return tensor;
}

inline torch::Tensor RandomIds(at::IntArrayRef shape, int classes, CounterRng& rng) {
  torch::Tensor ids = torch::empty(shape, torch::kInt64);
  auto* value = ids.data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < ids.numel(); ++i) {
    value[i] = static_cast<std::int64_t>(rng.NextBelow(static_cast<std::uint64_t>(classes)));
  }
  return ids;
}

// What the preset takes: `examples` of them.
inline torch::Tensor RandomInputs(const ModelOptions& options, std::int64_t examples,
                                  CounterRng& rng) {
  if (options.ReadsText()) {
    return RandomIds({examples, options.inputs}, options.classes, rng);
  }
  return RandomTensor({examples, options.inputs}, rng);
}

// Of labels 0, 1, 2, ... modulo the classes.
inline torch::Tensor TaskLoss(const MoeOutput& output, int classes) {
  const torch::Tensor labels =
      torch::arange(output.logits.size(0), torch::kInt64).remainder(classes);
  return torch::nn::functional::cross_entropy(output.logits, labels);
}

inline std::vector<ExpertIndex> AllExperts(const ModelSpec& spec) {
  std::vector<ExpertIndex> all(static_cast<std::size_t>(spec.experts));
  for (int expert = 0; expert < spec.experts; ++expert)
    all[static_cast<std::size_t>(expert)] = expert;
  return all;
}

inline std::vector<float> ValuesOf(const torch::Tensor& tensor) {
  const torch::Tensor values = tensor.detach().contiguous();
  return {values.data_ptr<float>(), values.data_ptr<float>() + values.numel()};
}

inline float LargestDifference(const torch::Tensor& a, const torch::Tensor& b) {
  return (a - b).abs().max().item<float>();
}

}  // namespace fedmoe
