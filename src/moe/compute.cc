#include "moe/compute.h"

#include <exception>

#include "moe/torch.h"

namespace fedmoe {

Status CheckDevice(const std::string& key, const std::string& device, int cuda_devices) {
  if (device == "cpu") return Status::Ok();
  if (cuda_devices == 0) {
    return InvalidArgument(key + " is " + device + ", but libtorch finds no CUDA device: set " +
                           key +
                           " to cpu, or build fedmoe with a libtorch for CUDA and run it where "
                           "nvidia-smi lists a GPU");
  }
  const std::size_t colon = device.find(':');
  const int index = colon == std::string::npos ? 0 : std::stoi(device.substr(colon + 1));
  if (index < cuda_devices) return Status::Ok();
  return InvalidArgument(key + " is " + device + ", but libtorch finds " +
                         std::to_string(cuda_devices) + " CUDA device" +
                         (cuda_devices == 1 ? "" : "s") +
                         ": the last is cuda:" + std::to_string(cuda_devices - 1));
}

Status OpenDevice(const std::string& key, const std::string& device) {
  if (device == "cpu") return Status::Ok();
  try {
    const int found =
        torch::cuda::is_available() ? static_cast<int>(torch::cuda::device_count()) : 0;
    FEDMOE_RETURN_IF_ERROR(CheckDevice(key, device, found));
    at::globalContext().setDeterministicCuDNN(true);
    at::globalContext().setAllowTF32CuDNN(false);
    at::globalContext().setAllowTF32CuBLAS(false);
    return Status::Ok();
  } catch (const std::exception& error) {
    return InvalidArgument(key + " is " + device + ", which libtorch cannot use: " + error.what());
  }
}

}  // namespace fedmoe
