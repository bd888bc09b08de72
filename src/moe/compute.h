// By which code, and on which of libtorch's devices, a model is computed. Includes no libtorch.
#pragma once

#include <string>

#include "common/result.h"

namespace fedmoe {

enum class ComputePath {
  // The project's own expert kernels and optimiser loops, on the processor: the same bits whenever
  // it is done again.
  kKernels,
  // libtorch's operators alone, on any device of its. The same mathematics, to rounding.
  kTensorOps,
};

struct ComputeOptions {
  ComputePath path = ComputePath::kKernels;
  std::string device = "cpu";  // as libtorch names it: "cpu", "cuda", "cuda:1"
};

// The kernels for the processor, tensor operators for every other device.
inline ComputeOptions ComputeOn(const std::string& device) {
  return {.path = device == "cpu" ? ComputePath::kKernels : ComputePath::kTensorOps,
          .device = device};
}

// INVALID_ARGUMENT, naming the configuration key and the way out, where libtorch cannot compute on
// `device`, which is "cpu", "cuda" or "cuda:N". Call once, before any other use of libtorch: of a
// CUDA device it also asks for float32 throughout and for convolutions that can be repeated.
Status OpenDevice(const std::string& key, const std::string& device);

// What OpenDevice says where libtorch finds `cuda_devices` CUDA devices.
Status CheckDevice(const std::string& key, const std::string& device, int cuda_devices);

}  // namespace fedmoe
