#include "common/clock.h"

#include <chrono>

namespace fedmoe {

Milliseconds SteadyClock::NowMs() const {
  const auto since_origin = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(since_origin).count();
}

}  // namespace fedmoe
