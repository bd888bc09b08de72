// Function multiversioning: the loader picks the widest vector version that the CPU has.
#pragma once

// g++ compiles the function once per instruction set and resolves it at load time. clang 14 lacks
// the attribute, and a resolver runs before a sanitizer is ready: there the plain loop stands
// alone. All versions give the same bits, because contraction is off and the loops only widen.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define FEDMOE_FUNCTION_VERSIONS __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FEDMOE_FUNCTION_VERSIONS
#endif
