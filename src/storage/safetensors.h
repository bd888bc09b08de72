// The safetensors format: u64 header length, JSON header, data. Any library that knows it opens our
// checkpoints.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/file_system.h"
#include "common/result.h"

namespace fedmoe {

struct TensorInfo {
  std::string name;
  std::string dtype = "F32";
  std::vector<std::int64_t> shape;
  std::uint64_t offset = 0;  // of its data in the file, absolute
  std::uint64_t bytes = 0;
};

// The header for float32 tensors laid out one after another in the order given, padded with spaces
// so that data starts at a multiple of 64. Fills in `offset` and `bytes` of each. `metadata`
// becomes __metadata__.
std::string SafetensorsHeader(std::vector<TensorInfo>& tensors,
                              const std::map<std::string, std::string>& metadata);

struct SafetensorsFile {
  std::vector<TensorInfo> tensors;  // in data order
  std::map<std::string, std::string> metadata;
};

// Parses and checks a header: sizes bounded (header at most 100 MiB), ranges inside the file, no
// gap or overlap, shape times dtype equals range. DATA_LOSS "PATH: what".
Result<SafetensorsFile> ReadSafetensorsHeader(const RandomAccessFile& file,
                                              const std::string& path);

}  // namespace fedmoe
