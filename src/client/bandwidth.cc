#include "client/bandwidth.h"

#include <algorithm>

namespace fedmoe {
namespace {

// Weight of the newest transfer.
constexpr double kNewest = 0.3;

}  // namespace

void Bandwidth::Add(std::uint64_t bytes, Milliseconds took_ms) {
  const double seconds = static_cast<double>(std::max<Milliseconds>(took_ms, 1)) / 1000.0;
  const double measured = static_cast<double>(bytes) / seconds;
  last_bytes_per_s_ = measured;
  if (bytes < kMinBytes) return;
  bytes_per_s_ =
      bytes_per_s_ == 0.0 ? measured : bytes_per_s_ + kNewest * (measured - bytes_per_s_);
}

}  // namespace fedmoe
