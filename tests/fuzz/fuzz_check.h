// What every target asserts with: on in every build, and fatal, so that libFuzzer and the replay
// see it as they see a sanitizer's report.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

namespace fedmoe {

[[noreturn]] inline void FuzzFailure(const char* file, int line, const std::string& what) {
  std::fprintf(stderr, "%s:%d: %s\n", file, line, what.c_str());
  std::abort();
}

}  // namespace fedmoe

// `detail`: text that says what was seen, made only on a failure.
#define FUZZ_CHECK(condition, detail)                                                              \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      ::fedmoe::FuzzFailure(__FILE__, __LINE__, std::string(#condition " is false: ") + (detail)); \
    }                                                                                              \
  } while (false)
