#include "client/backoff.h"

#include <algorithm>
#include <bit>

namespace fedmoe {

Backoff::Backoff(std::string_view instance, Milliseconds initial_ms, Milliseconds max_ms)
    : initial_ms_(std::max<Milliseconds>(initial_ms, 1)),
      max_ms_(std::max(max_ms, initial_ms_)),
      rng_(MixKey({KeyOf(instance), KeyOf("backoff")})),
      limit_ms_(initial_ms_) {}

Milliseconds Backoff::Next() {
  const Milliseconds delay_ms =
      1 + static_cast<Milliseconds>(rng_.NextBelow(static_cast<std::uint64_t>(limit_ms_)));
  ++attempts_;
  worth_telling_ = limit_ms_ < max_ms_ || std::has_single_bit(attempts_);
  limit_ms_ = limit_ms_ > max_ms_ / 2 ? max_ms_ : limit_ms_ * 2;
  return delay_ms;
}

void Backoff::Reset() {
  limit_ms_ = initial_ms_;
  attempts_ = 0;
}

}  // namespace fedmoe
