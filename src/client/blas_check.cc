#include "client/blas_check.h"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <system_error>

#include <dlfcn.h>
#include <fmt/format.h>

namespace fedmoe {
namespace {

bool Contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

// The file name of a line of /proc/self/maps, without its folder.
std::string FileName(const std::string& line) {
  const std::size_t slash = line.rfind('/');
  return slash == std::string::npos ? std::string() : line.substr(slash + 1);
}

// Debian's two OpenBLAS files: libopenblasp (both threaded flavours) and libopenblas (sequential);
// the folder tells the threaded ones apart.
BlasFlavour ClassifyOpenBlas(const std::string& line, std::optional<int> parallel) {
  if (parallel == 0) return BlasFlavour::kOpenBlasSequential;
  if (parallel == 1) return BlasFlavour::kOpenBlasPthread;
  if (parallel == 2) return BlasFlavour::kOpenBlasOpenMp;
  if (Contains(line, "openmp")) return BlasFlavour::kOpenBlasOpenMp;
  if (Contains(line, "serial")) return BlasFlavour::kOpenBlasSequential;
  if (Contains(line, "pthread")) return BlasFlavour::kOpenBlasPthread;
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

BlasFlavour ClassifyBlas(const std::string& maps, std::optional<int> openblas_parallel) {
  bool reference = false;
  std::istringstream lines(maps);
  std::string line;
  while (std::getline(lines, line)) {
    const std::string file = FileName(line);
    if (file.starts_with("libopenblas")) return ClassifyOpenBlas(line, openblas_parallel);
    if (file.starts_with("libmkl_")) return BlasFlavour::kMkl;
    if (file.starts_with("libblas.so")) reference = true;
  }
  // A libblas.so on its own: OpenBLAS's needs libopenblas beside it.
  return reference ? BlasFlavour::kReference : BlasFlavour::kUnknown;
}

BlasFlavour DetectBlas() {
  std::ifstream file("/proc/self/maps");
  const std::string maps{std::istreambuf_iterator<char>(file), {}};
  std::optional<int> parallel;
  if (void* symbol = dlsym(RTLD_DEFAULT, "openblas_get_parallel")) {
    parallel = reinterpret_cast<int (*)()>(symbol)();
  }
  return ClassifyBlas(maps, parallel);
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
