// The built-in kinds of devices, and which client of a population has which.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "config/simulation_config.h"
#include "federation/capacity.h"

namespace fedmoe {

// docs/simulation.md has the reasoning behind each figure.
struct DeviceProfile {
  const char* name;
  std::uint64_t memory_bytes;  // for training, of what the device has
  double compute_flops_per_s;  // sustained in training with small batches
  double down_bytes_per_s;
  double up_bytes_per_s;
};

// phone, single_board_computer, laptop, gpu_server.
std::span<const DeviceProfile> BuiltInDevices();

// The device of each of `clients`, null where the shares are all 0. Numbers are the shares' by
// largest remainder; who has which is drawn by the seed.
std::vector<const DeviceProfile*> DealDevices(const DeviceShares& shares, int clients,
                                              std::uint64_t seed);

// What is declared stands; what is 0 is the device's.
CapacityProfile WithDevice(CapacityProfile declared, const DeviceProfile* device);

}  // namespace fedmoe
