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

// By the library that this process's sgemm_ comes from. Other libraries may bring an OpenBLAS along
// that libtorch does not use (Debian's LAPACK does), so that being loaded says nothing.
BlasFlavour DetectBlas();
// The rule: `library` is the real path of that library, empty if there is none, `openblas_parallel`
// the value of openblas_get_parallel() where a library exports it (0 sequential, 1 pthread, 2
// OpenMP).
BlasFlavour ClassifyBlas(const std::string& library, std::optional<int> openblas_parallel);

// What is wrong and the exact remedy, or empty where the flavour is fine or not known.
// `openmp_installed`: whether kOpenMpBlasFolder has a libblas.so.3.
std::string BlasWarning(BlasFlavour flavour, bool openmp_installed);
std::string BlasWarning(BlasFlavour flavour);  // looks for itself

}  // namespace fedmoe
