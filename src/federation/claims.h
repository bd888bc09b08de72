// Bounds of the numbers that clients claim. Whatever is inside them can be summed, averaged,
// predicted with and written down without overflow; no honest client is outside.
#pragma once

#include <cstdint>
#include <string>

#include "common/result.h"

namespace fedmoe {

constexpr double kMaxClaimedLoss = 1e6;                       // nats, mean over examples
constexpr std::int64_t kMaxClaimedCount = 1'000'000'000'000;  // examples or steps
constexpr double kMaxClaimedBytesPerSecond = 1e15;
constexpr double kMaxClaimedFlopsPerSecond = 1e18;
constexpr double kMaxClaimedSeconds = 1e9;

// Each gives INVALID_ARGUMENT "<field> is <value>, must be ...".

// 0 to `most`; not NaN.
Status CheckAmount(const std::string& field, double value, double most);
// 0 (not known), or 1 to `most`; not NaN.
Status CheckRate(const std::string& field, double value, double most);
// 0 to kMaxClaimedCount.
Status CheckCount(const std::string& field, std::int64_t value);

// For messages: at most six digits.
std::string NumberText(double value);

}  // namespace fedmoe
