// The IDX format of MNIST and its kin, plain or gzip.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/result.h"

namespace fedmoe {

struct IdxImages {
  int count = 0, rows = 0, columns = 0;
  std::vector<std::uint8_t> pixels;  // count * rows * columns
};

// `path` may lack ".gz"; the plain file is preferred, then the gzip one. Errors, word for word:
//   NOT_FOUND        "PATH: no such file (nor PATH.gz); fetch it with scripts/fetch_data mnist, or
//   set data.path" DATA_LOSS        "PATH: truncated: N bytes where the header says M" DATA_LOSS
//   "PATH: N bytes follow the M that the header says" DATA_LOSS        "PATH: not gzip, or damaged:
//   REASON" INVALID_ARGUMENT "PATH: wrong magic number 0xXXXXXXXX (want 0x00000803 for images)"
//   INVALID_ARGUMENT "PATH: empty: the header says 0 examples"
//   INVALID_ARGUMENT "PATH: RxC images are outside 1 to 4096 a side"
Result<IdxImages> ReadIdxImages(const std::string& path);
// As above, with magic 0x00000801 "for labels".
Result<std::vector<std::uint8_t>> ReadIdxLabels(const std::string& path);
// INVALID_ARGUMENT "PATH: label L of example I is outside 0 to MAX"
Status CheckIdxLabels(std::span<const std::uint8_t> labels, int classes, const std::string& path);

}  // namespace fedmoe
