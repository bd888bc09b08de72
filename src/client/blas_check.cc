#include "client/blas_check.h"

#include <filesystem>
#include <system_error>

#include <dlfcn.h>
#include <fmt/format.h>

namespace fedmoe {
namespace {

bool Contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

// Debian names both threaded flavours libopenblasp: only the folder tells them apart.
BlasFlavour ClassifyOpenBlas(const std::string& library, std::optional<int> parallel) {
  if (parallel == 0) return BlasFlavour::kOpenBlasSequential;
  if (parallel == 1) return BlasFlavour::kOpenBlasPthread;
  if (parallel == 2) return BlasFlavour::kOpenBlasOpenMp;
  if (Contains(library, "openmp")) return BlasFlavour::kOpenBlasOpenMp;
  if (Contains(library, "serial")) return BlasFlavour::kOpenBlasSequential;
  if (Contains(library, "pthread")) return BlasFlavour::kOpenBlasPthread;
  return BlasFlavour::kUnknown;
}

}  // namespace

const char* const kOpenMpBlasFolder =
#if defined(__aarch64__)
    "/usr/lib/aarch64-linux-gnu/openblas-openmp";
#else
    "/usr/lib/x86_64-linux-gnu/openblas-openmp";
#endif

const char* BlasFlavourName(BlasFlavour flavour) {
  switch (flavour) {
    case BlasFlavour::kOpenBlasOpenMp:
      return "openblas-openmp";
    case BlasFlavour::kOpenBlasPthread:
      return "openblas-pthread";
    case BlasFlavour::kOpenBlasSequential:
      return "openblas-serial";
    case BlasFlavour::kMkl:
      return "mkl";
    case BlasFlavour::kReference:
      return "reference";
    case BlasFlavour::kUnknown:
      return "unknown";
  }
  return "unknown";
}

BlasFlavour ClassifyBlas(const std::string& library, std::optional<int> openblas_parallel) {
  // OpenBLAS may stand behind a libblas.so.3 in a folder of its name.
  if (Contains(library, "openblas")) return ClassifyOpenBlas(library, openblas_parallel);
  const std::string file = std::filesystem::path(library).filename().string();
  if (file.starts_with("libmkl_")) return BlasFlavour::kMkl;
  if (file.starts_with("libblas.so")) return BlasFlavour::kReference;
  return BlasFlavour::kUnknown;
}

BlasFlavour DetectBlas() {
  void* const product = dlsym(RTLD_DEFAULT, "sgemm_");
  Dl_info info{};
  if (product == nullptr || dladdr(product, &info) == 0 || info.dli_fname == nullptr) {
    return BlasFlavour::kUnknown;
  }
  std::error_code error;
  const std::filesystem::path real = std::filesystem::canonical(info.dli_fname, error);
  std::optional<int> parallel;
  if (void* symbol = dlsym(RTLD_DEFAULT, "openblas_get_parallel")) {
    parallel = reinterpret_cast<int (*)()>(symbol)();
  }
  return ClassifyBlas(error ? std::string(info.dli_fname) : real.string(), parallel);
}

std::string BlasWarning(BlasFlavour flavour, bool openmp_installed) {
  const char* fault = nullptr;
  switch (flavour) {
    case BlasFlavour::kReference:
      fault = "libtorch runs on the reference BLAS, some 20 times slower than OpenBLAS";
      break;
    case BlasFlavour::kOpenBlasPthread:
      fault = "libtorch runs on the pthread flavour of OpenBLAS, which ignores the thread limit";
      break;
    case BlasFlavour::kOpenBlasSequential:
      fault = "libtorch runs on the sequential flavour of OpenBLAS, which uses one thread";
      break;
    case BlasFlavour::kOpenBlasOpenMp:
    case BlasFlavour::kMkl:
    case BlasFlavour::kUnknown:
      return "";
  }
  const std::string start =
      fmt::format("start this program with LD_LIBRARY_PATH={}", kOpenMpBlasFolder);
  if (openmp_installed) return fmt::format("{}: {}", fault, start);
  return fmt::format(
      "{}: install libopenblas0-openmp (apt-get install libopenblas0-openmp), then {}", fault,
      start);
}

std::string BlasWarning(BlasFlavour flavour) {
  std::error_code ignored;
  return BlasWarning(
      flavour, std::filesystem::exists(std::string(kOpenMpBlasFolder) + "/libblas.so.3", ignored));
}

}  // namespace fedmoe
