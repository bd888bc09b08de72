// How pure code is run on many threads without knowing of any: the caller lends a loop.
#pragma once

#include <functional>

namespace fedmoe {

// Calls body(0), ..., body(parts - 1), in any order and at the same time if it likes, and returns
// when all have ended. Whoever passes one keeps it callable from any thread. Code that takes one
// gives the same result for any: what it adds up, it adds up part by part, in order. Empty: serial.
using ParallelFor = std::function<void(int parts, const std::function<void(int part)>& body)>;

inline void RunParts(const ParallelFor& parallel, int parts,
                     const std::function<void(int part)>& body) {
  if (parallel) {
    parallel(parts, body);
    return;
  }
  for (int part = 0; part < parts; ++part) body(part);
}

}  // namespace fedmoe
