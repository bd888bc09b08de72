// A loop on threads, for code that takes a ParallelFor.
#pragma once

#include "common/parallel.h"

namespace fedmoe {

// Runs parts on `threads` threads, the caller's among them: whoever is free takes the next part.
// The threads live as long as the call, so that an idle loop costs nothing; one part runs on the
// caller's thread alone. Serial for threads below 2. A body must not throw.
ParallelFor LoopOnThreads(int threads);

}  // namespace fedmoe
