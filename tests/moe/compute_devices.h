// The devices that tests of the tensor operators run on, as GoogleTest parameters.
#pragma once

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "moe/compute.h"
#include "tests/moe/pretend_device.h"

namespace fedmoe {

inline std::vector<std::string> ComputeDevices() {
  std::vector<std::string> devices = {"cpu", "cuda"};
  if (PretendDevice() != nullptr) devices.push_back("pretend");
  return devices;
}

inline std::string DeviceName(const ::testing::TestParamInfo<std::string>& info) {
  return info.param;
}

// Skips the test where the device is not there.
class OnComputeDevice : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() == "cuda" && !OpenDevice("device", "cuda").ok()) {
      GTEST_SKIP() << "libtorch finds no CUDA device";
    }
  }
  static ComputeOptions TensorOps() {
    return {.path = ComputePath::kTensorOps,
            .device = GetParam() == "pretend" ? PretendDevice() : GetParam()};
  }
};

}  // namespace fedmoe
