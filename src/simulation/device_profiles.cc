#include "simulation/device_profiles.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <numeric>

#include "common/counter_rng.h"

namespace fedmoe {
namespace {

constexpr std::uint64_t kGibibyte = std::uint64_t{1} << 30;
constexpr double kMegabit = 1e6 / 8.0;  // bytes

constexpr std::array<DeviceProfile, 4> kDevices = {{
    {"phone", 1 * kGibibyte, 10e9, 40 * kMegabit, 10 * kMegabit},
    {"single_board_computer", 2 * kGibibyte, 5e9, 90 * kMegabit, 30 * kMegabit},
    {"laptop", 6 * kGibibyte, 60e9, 90 * kMegabit, 30 * kMegabit},
    {"gpu_server", 40 * kGibibyte, 5e12, 1000 * kMegabit, 1000 * kMegabit},
}};

}  // namespace

std::span<const DeviceProfile> BuiltInDevices() { return kDevices; }

std::vector<const DeviceProfile*> DealDevices(const DeviceShares& shares, int clients,
                                              std::uint64_t seed) {
  const std::array<double, 4> weights = {shares.phone, shares.single_board_computer, shares.laptop,
                                         shares.gpu_server};
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<const DeviceProfile*> dealt;
  if (!(sum > 0.0)) return std::vector<const DeviceProfile*>(static_cast<std::size_t>(clients));
  std::array<double, 4> remainder{};
  for (std::size_t kind = 0; kind < kDevices.size(); ++kind) {
    const double exact = weights[kind] / sum * clients;
    const double whole = std::floor(exact);
    remainder[kind] = exact - whole;
    dealt.insert(dealt.end(), static_cast<std::size_t>(whole), &kDevices[kind]);
  }
  while (dealt.size() < static_cast<std::size_t>(clients)) {
    const auto largest = std::max_element(remainder.begin(), remainder.end());
    *largest = -1.0;
    dealt.push_back(&kDevices[static_cast<std::size_t>(largest - remainder.begin())]);
  }
  CounterRng::For(seed, "", 0, "simulation.devices").Shuffle(dealt);
  return dealt;
}

CapacityProfile WithDevice(CapacityProfile declared, const DeviceProfile* device) {
  if (device == nullptr) return declared;
  declared.device = device->name;
  if (declared.memory_bytes == 0) declared.memory_bytes = device->memory_bytes;
  if (declared.compute_flops_per_s == 0.0)
    declared.compute_flops_per_s = device->compute_flops_per_s;
  if (declared.down_bytes_per_s == 0.0) declared.down_bytes_per_s = device->down_bytes_per_s;
  if (declared.up_bytes_per_s == 0.0) declared.up_bytes_per_s = device->up_bytes_per_s;
  return declared;
}

}  // namespace fedmoe
