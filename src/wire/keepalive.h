// How the two ends of a connection notice that the other has gone without a word.
#pragma once

#include "common/ids.h"

namespace fedmoe {

// Each end pings the other, also while no call is under way. An answer that does not come ends the
// connection, and its calls with UNAVAILABLE, no later than interval_ms + timeout_ms after the last
// byte. Both ends should have the same.
struct KeepaliveOptions {
  Milliseconds interval_ms = 20'000;
  Milliseconds timeout_ms = 10'000;
};

}  // namespace fedmoe
