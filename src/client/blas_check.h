// Which BLAS libtorch runs on in this process. Debian's libtorch takes any libblas.so.3: the
// reference one is some twenty times slower than OpenBLAS, and OpenBLAS with its own threads
// ignores the thread count that the configuration sets.
#pragma once

#include <optional>
#include <string>

namespace fedmoe {

enum class BlasFlavour {
  kOpenBlasOpenMp,      // what libtorch wants: one thread pool, ours
  kOpenBlasPthread,     // threads of its own
  kOpenBlasSequential,  // one thread
  kMkl,
  kReference,  // no optimised kernels
  kUnknown,
};
const char* BlasFlavourName(BlasFlavour flavour);  // "openblas-openmp", ...

// The folder of Debian's libopenblas0-openmp, for LD_LIBRARY_PATH.
extern const char* const kOpenMpBlasFolder;

// From the libraries mapped into this process.
BlasFlavour DetectBlas();
// The rule: `maps` is the text of /proc/self/maps, `openblas_parallel` the value of
// openblas_get_parallel() where a library exports it (0 sequential, 1 pthread, 2 OpenMP).
BlasFlavour ClassifyBlas(const std::string& maps, std::optional<int> openblas_parallel);

// What is wrong and the exact remedy, or empty where the flavour is fine or not known.
// `openmp_installed`: whether kOpenMpBlasFolder has a libblas.so.3.
std::string BlasWarning(BlasFlavour flavour, bool openmp_installed);
std::string BlasWarning(BlasFlavour flavour);  // looks for itself

}  // namespace fedmoe
