// What the CPU that runs this has, for code that is compiled for more than the build asks for.
#pragma once

namespace fedmoe {

inline bool HasAvx2AndFma() {
#if defined(__x86_64__)
  static const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return has;
#else
  return false;
#endif
}

}  // namespace fedmoe
