// Checkpoint headers: an error, or tensors that share out the file's data without gap or overlap.
// Input: the file.
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "storage/safetensors.h"
#include "tests/fuzz/allocation_meter.h"
#include "tests/fuzz/fuzz_check.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/memory_file.h"

namespace fedmoe {
namespace {

constexpr const char* kPath = "model.safetensors";

// A JSON document in memory costs at most so much of its text.
std::size_t MostBytes(std::size_t text) { return 128 * text + (std::size_t{64} << 10); }

void CheckRanges(const SafetensorsFile& content, std::size_t size) {
  std::uint64_t at = content.tensors.empty() ? size : content.tensors.front().offset;
  for (const TensorInfo& tensor : content.tensors) {
    FUZZ_CHECK(tensor.offset == at, tensor.name);
    FUZZ_CHECK(tensor.bytes <= size - at, tensor.name);
    at += tensor.bytes;
  }
  FUZZ_CHECK(at == size, std::to_string(at));
}

// Written again, it reads as the same tensors.
void CheckWritesAgain(const SafetensorsFile& content) {
  std::vector<TensorInfo> tensors = content.tensors;
  std::string bytes = SafetensorsHeader(tensors, content.metadata);
  FUZZ_CHECK(bytes.size() % 64 == 0, std::to_string(bytes.size()));
  for (const TensorInfo& tensor : tensors) bytes.append(tensor.bytes, '\0');
  const Result<SafetensorsFile> again = ReadSafetensorsHeader(MemoryFile(bytes), kPath);
  FUZZ_CHECK(again.ok(), again.status().ToString());
  FUZZ_CHECK(again->metadata == content.metadata, "metadata");
  FUZZ_CHECK(again->tensors.size() == tensors.size(), std::to_string(again->tensors.size()));
  // Empty tensors may change places among themselves.
  const auto by_name = [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; };
  std::vector<TensorInfo> read = again->tensors;
  std::sort(read.begin(), read.end(), by_name);
  std::sort(tensors.begin(), tensors.end(), by_name);
  for (std::size_t i = 0; i < read.size(); ++i) {
    FUZZ_CHECK(read[i].name == tensors[i].name && read[i].dtype == tensors[i].dtype &&
                   read[i].shape == tensors[i].shape && read[i].offset == tensors[i].offset &&
                   read[i].bytes == tensors[i].bytes,
               tensors[i].name);
  }
}

}  // namespace
}  // namespace fedmoe

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace fedmoe;
  const MemoryFile file(FuzzInput(data, size).TakeRest());
  const AllocationMeter meter;
  const Result<SafetensorsFile> content = ReadSafetensorsHeader(file, kPath);
  FUZZ_CHECK(meter.PeakBytes() <= MostBytes(size), std::to_string(meter.PeakBytes()));
  if (!content.ok()) {
    FUZZ_CHECK(content.status().code() == StatusCode::kDataLoss, content.status().ToString());
    FUZZ_CHECK(content.status().message().starts_with(kPath), content.status().ToString());
    return 0;
  }
  CheckRanges(*content, size);
  CheckWritesAgain(*content);
  return 0;
}
