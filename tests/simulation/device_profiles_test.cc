// Which client has which device.
#include "simulation/device_profiles.h"

#include <map>
#include <string>

#include <gtest/gtest.h>

namespace fedmoe {
namespace {

std::map<std::string, int> Count(const std::vector<const DeviceProfile*>& devices) {
  std::map<std::string, int> counts;
  for (const DeviceProfile* device : devices) ++counts[device->name];
  return counts;
}

TEST(DeviceProfilesTest, TheFourKindsRiseInMemoryAndCompute) {
  const auto devices = BuiltInDevices();
  ASSERT_EQ(devices.size(), 4u);
  EXPECT_STREQ(devices[0].name, "phone");
  EXPECT_STREQ(devices[1].name, "single_board_computer");
  EXPECT_STREQ(devices[2].name, "laptop");
  EXPECT_STREQ(devices[3].name, "gpu_server");
  for (std::size_t i = 1; i < devices.size(); ++i) {
    EXPECT_GT(devices[i].memory_bytes, devices[i - 1].memory_bytes);
    EXPECT_GE(devices[i].down_bytes_per_s, devices[i - 1].down_bytes_per_s);
  }
}

TEST(DeviceProfilesTest, SharesAreMetByLargestRemainder) {
  const DeviceShares shares{.phone = 5, .laptop = 3, .gpu_server = 2};
  EXPECT_EQ(Count(DealDevices(shares, 1000, 1)),
            (std::map<std::string, int>{{"phone", 500}, {"laptop", 300}, {"gpu_server", 200}}));
  EXPECT_EQ(Count(DealDevices(shares, 3, 1)),
            (std::map<std::string, int>{{"phone", 1}, {"laptop", 1}, {"gpu_server", 1}}));
  EXPECT_EQ(Count(DealDevices(shares, 4, 1)),
            (std::map<std::string, int>{{"phone", 2}, {"laptop", 1}, {"gpu_server", 1}}));
}

TEST(DeviceProfilesTest, TheSeedDecidesWhoHasWhich) {
  const DeviceShares shares{.phone = 1, .laptop = 1};
  EXPECT_EQ(DealDevices(shares, 50, 1), DealDevices(shares, 50, 1));
  EXPECT_NE(DealDevices(shares, 50, 1), DealDevices(shares, 50, 2));
}

TEST(DeviceProfilesTest, WithoutSharesThereAreNoDevices) {
  EXPECT_EQ(DealDevices({}, 2, 1), (std::vector<const DeviceProfile*>{nullptr, nullptr}));
  CapacityProfile declared;
  declared.max_experts = 3;
  const CapacityProfile same = WithDevice(declared, nullptr);
  EXPECT_EQ(same.max_experts, 3);
  EXPECT_EQ(same.memory_bytes, 0u);
  EXPECT_EQ(same.device, "");
}

TEST(DeviceProfilesTest, WhatIsDeclaredStands) {
  CapacityProfile declared;
  declared.max_experts = 3;
  declared.up_bytes_per_s = 7.0;
  const DeviceProfile& phone = BuiltInDevices()[0];
  const CapacityProfile profile = WithDevice(declared, &phone);
  EXPECT_EQ(profile.device, "phone");
  EXPECT_EQ(profile.max_experts, 3);
  EXPECT_EQ(profile.up_bytes_per_s, 7.0);
  EXPECT_EQ(profile.down_bytes_per_s, phone.down_bytes_per_s);
  EXPECT_EQ(profile.memory_bytes, phone.memory_bytes);
  EXPECT_EQ(profile.compute_flops_per_s, phone.compute_flops_per_s);
}

}  // namespace
}  // namespace fedmoe
