// Which BLAS this process uses, and what to do about it.
#include "client/blas_check.h"

#include <cstdlib>
#include <filesystem>

#include <gtest/gtest.h>

namespace fedmoe {
namespace {

const std::string kFolder = "/usr/lib/x86_64-linux-gnu/";

TEST(ClassifyBlas, TellsTheFlavoursOfOpenBlasByTheLibrarysOwnWord) {
  const std::string library = kFolder + "openblas-pthread/libblas.so.3";
  EXPECT_EQ(ClassifyBlas(library, 0), BlasFlavour::kOpenBlasSequential);
  EXPECT_EQ(ClassifyBlas(library, 1), BlasFlavour::kOpenBlasPthread);
  EXPECT_EQ(ClassifyBlas(library, 2), BlasFlavour::kOpenBlasOpenMp);
}

TEST(ClassifyBlas, ElseByDebiansFolder) {
  const auto of = [](const std::string& path) {
    return ClassifyBlas(kFolder + path, std::nullopt);
  };
  EXPECT_EQ(of("openblas-openmp/libblas.so.3"), BlasFlavour::kOpenBlasOpenMp);
  EXPECT_EQ(of("openblas-pthread/libopenblasp-r0.3.21.so"), BlasFlavour::kOpenBlasPthread);
  EXPECT_EQ(of("openblas-serial/libopenblas-r0.3.21.so"), BlasFlavour::kOpenBlasSequential);
  EXPECT_EQ(of("libopenblas.so.0"), BlasFlavour::kUnknown);
}

TEST(ClassifyBlas, AnyOtherLibblasIsTheReferenceEvenBesideALoadedOpenBlas) {
  EXPECT_EQ(ClassifyBlas(kFolder + "blas/libblas.so.3.11.0", std::nullopt),
            BlasFlavour::kReference);
  EXPECT_EQ(ClassifyBlas(kFolder + "blas/libblas.so.3.11.0", 2), BlasFlavour::kReference);
}

TEST(ClassifyBlas, KnowsMklAndAdmitsIgnorance) {
  EXPECT_EQ(ClassifyBlas("/opt/intel/libmkl_core.so.2", std::nullopt), BlasFlavour::kMkl);
  EXPECT_EQ(ClassifyBlas("/opt/libtorch/lib/libtorch_cpu.so", std::nullopt), BlasFlavour::kUnknown);
  EXPECT_EQ(ClassifyBlas("", 2), BlasFlavour::kUnknown);
}

TEST(BlasWarning, NamesTheFaultAndTheRemedy) {
  const std::string select = std::string("LD_LIBRARY_PATH=") + kOpenMpBlasFolder;
  EXPECT_EQ(BlasWarning(BlasFlavour::kReference, true),
            "libtorch runs on the reference BLAS, some 20 times slower than OpenBLAS: start this "
            "program with " +
                select);
  EXPECT_EQ(BlasWarning(BlasFlavour::kReference, false),
            "libtorch runs on the reference BLAS, some 20 times slower than OpenBLAS: install "
            "libopenblas0-openmp (apt-get install libopenblas0-openmp), then start this program "
            "with " +
                select);
  EXPECT_EQ(BlasWarning(BlasFlavour::kOpenBlasPthread, true),
            "libtorch runs on the pthread flavour of OpenBLAS, which ignores the thread limit: "
            "start this program with " +
                select);
  EXPECT_EQ(BlasWarning(BlasFlavour::kOpenBlasSequential, true),
            "libtorch runs on the sequential flavour of OpenBLAS, which uses one thread: start "
            "this program with " +
                select);
}

TEST(BlasWarning, IsEmptyWhereNothingIsKnownToBeWrong) {
  for (const BlasFlavour fine :
       {BlasFlavour::kOpenBlasOpenMp, BlasFlavour::kMkl, BlasFlavour::kUnknown}) {
    EXPECT_EQ(BlasWarning(fine, false), "") << BlasFlavourName(fine);
  }
}

// libtorch's BLAS is chosen when the process starts: each choice needs a process of its own, this
// program again, told by kExpected what it should find.
constexpr const char* kExpected = "FEDMOE_TEST_EXPECTED_BLAS";

void ExpectSelected(const std::string& test, const std::string& folder, BlasFlavour flavour) {
  if (const char* expected = std::getenv(kExpected)) {
    EXPECT_STREQ(BlasFlavourName(DetectBlas()), expected);
    return;
  }
  if (!std::filesystem::exists(folder + "/libblas.so.3")) {
    GTEST_SKIP() << folder << " has no libblas.so.3: its package is not installed";
  }
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  const std::string command = "LD_LIBRARY_PATH=" + folder + " " + kExpected + "=" +
                              BlasFlavourName(flavour) + " '" + self + "' --gtest_filter=" + test +
                              " > /dev/null";
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
}

TEST(DetectBlas, LdLibraryPathSelectsOpenMpForOneProcess) {
  ExpectSelected("DetectBlas.LdLibraryPathSelectsOpenMpForOneProcess", kOpenMpBlasFolder,
                 BlasFlavour::kOpenBlasOpenMp);
}

TEST(DetectBlas, LdLibraryPathSelectsTheReferenceForOneProcess) {
  ExpectSelected("DetectBlas.LdLibraryPathSelectsTheReferenceForOneProcess", kFolder + "blas",
                 BlasFlavour::kReference);
}

TEST(DetectBlas, FindsTheBlasThatLibtorchBringsAlong) {
  // This program links libtorch, which links a BLAS: nothing found means that detection is broken.
  EXPECT_NE(DetectBlas(), BlasFlavour::kUnknown);
}

}  // namespace
}  // namespace fedmoe
