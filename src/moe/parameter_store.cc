#include "moe/parameter_store.h"

#include <algorithm>
#include <utility>

namespace fedmoe {

ParameterStore::ParameterStore(ModelSpec spec, std::vector<ExpertIndex> held,
                               const ComputeOptions& compute)
    : spec_(std::move(spec)),
      held_(std::move(held)),
      path_(compute.path),
      offsets_(spec_.blocks.size()),
      parameters_(spec_.blocks.size()) {
  const torch::Device device(compute.device);
  TORCH_CHECK(device.is_cpu() || path_ == ComputePath::kTensorOps,
              "the expert kernels compute on the CPU alone, not on ", compute.device);
  std::int64_t total = 0;
  for (int index = 0; index < static_cast<int>(spec_.blocks.size()); ++index) {
    const ParameterBlock& block = spec_.blocks[static_cast<std::size_t>(index)];
    if (block.owner == BlockOwner::kExpert &&
        !std::binary_search(held_.begin(), held_.end(), block.expert)) {
      continue;
    }
    held_blocks_.push_back(index);
    total += block.ElementCount();
  }
  const torch::TensorOptions options = torch::TensorOptions(torch::kFloat32).device(device);
  values_ = torch::zeros({total}, options);
  gradients_ = torch::zeros({total}, options);
  std::int64_t offset = 0;
  for (const int index : held_blocks_) {
    const ParameterBlock& block = spec_.blocks[static_cast<std::size_t>(index)];
    const std::int64_t elements = block.ElementCount();
    const auto view = [&](const torch::Tensor& whole) {
      return whole.narrow(0, offset, elements).view(block.shape).detach();
    };
    offsets_[static_cast<std::size_t>(index)] = static_cast<std::size_t>(offset);
    torch::Tensor& parameter = parameters_[static_cast<std::size_t>(index)];
    parameter = view(values_).requires_grad_();
    parameter.mutable_grad() = view(gradients_);
    offset += elements;
  }
}

torch::Tensor ParameterStore::Parameter(int block_index) const {
  return parameters_.at(static_cast<std::size_t>(block_index));
}

void ParameterStore::ReleaseGradients() {
  for (torch::Tensor& parameter : parameters_) {
    if (parameter.defined()) parameter.mutable_grad() = torch::Tensor();
  }
  gradients_ = torch::Tensor();
}

torch::Tensor ParameterStore::Named(const std::string& name) const {
  const int index = spec_.Find(name);
  TORCH_CHECK(index >= 0, "the spec has no block '", name, "'");
  const torch::Tensor parameter = Parameter(index);
  TORCH_CHECK(parameter.defined(), "block '", name, "' is not held");
  return parameter;
}

}  // namespace fedmoe
