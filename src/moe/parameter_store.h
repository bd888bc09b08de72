// A model's parameters and gradients: the trunk's and those of the experts held, no others.
#pragma once

#include <string>
#include <vector>

#include "federation/model_spec.h"
#include "moe/compute.h"
#include "moe/torch.h"

namespace fedmoe {

// All values in one vector and all gradients in another, so that an optimiser passes over each
// once; both stand on the device of the ComputeOptions. Not thread-safe. libtorch's exceptions pass
// through.
class ParameterStore {
 public:
  // `held` ascending, within 0 to spec.experts - 1. Everything starts at zero.
  ParameterStore(ModelSpec spec, std::vector<ExpertIndex> held, const ComputeOptions& compute = {});
  ParameterStore(const ParameterStore&) = delete;
  ParameterStore& operator=(const ParameterStore&) = delete;

  // Parameter of spec block `index`, or an undefined tensor if it is not held. Shares storage; its
  // grad() is its part of Gradients().
  torch::Tensor Parameter(int block_index) const;
  // By the block's name; c10::Error if the spec has no such block or it is not held.
  torch::Tensor Named(const std::string& name) const;

  // By which code the model is to be computed.
  ComputePath path() const { return path_; }
  torch::Device device() const { return values_.device(); }
  const ModelSpec& spec() const { return spec_; }
  const std::vector<ExpertIndex>& held() const { return held_; }
  // Indices of the blocks held, ascending; client state (a local gate) among them.
  const std::vector<int>& HeldBlocks() const { return held_blocks_; }
  // The blocks of HeldBlocks() one after another. Backward adds to the gradients; that of an expert
  // without tokens stays as it was.
  const torch::Tensor& Values() const { return values_; }
  // Where a held block begins in them.
  std::size_t OffsetOf(int block_index) const {
    return offsets_.at(static_cast<std::size_t>(block_index));
  }
  const torch::Tensor& Gradients() const { return gradients_; }
  // Frees the gradients: no backward pass may follow.
  void ReleaseGradients();

 private:
  ModelSpec spec_;
  std::vector<ExpertIndex> held_;
  ComputePath path_;
  std::vector<int> held_blocks_;
  std::vector<std::size_t> offsets_;  // by block
  torch::Tensor values_;
  torch::Tensor gradients_;
  std::vector<torch::Tensor> parameters_;  // by block; views of values_
};

}  // namespace fedmoe
