// The manifest of a model version: an error that names the file, or a manifest that writes and
// reads as itself. Input: the file of version 12.
#include <cstdint>
#include <string>

#include "storage/manifest.h"
#include "tests/fuzz/allocation_meter.h"
#include "tests/fuzz/fuzz_check.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/scratch_folder.h"
#include "tests/fuzz/update_case.h"

namespace fedmoe {
namespace {

std::size_t MostBytes(std::size_t text) { return 256 * text + (std::size_t{64} << 10); }

void CheckManifest(const std::string& text) {
  static const ScratchFolder folder;
  static const ModelSpec spec = UpdateSpec();
  const std::string path = folder.Write(ManifestFileName(12), text);
  const AllocationMeter meter;
  const Result<Manifest> manifest = ReadManifest(PosixFileSystem(), path, spec);
  FUZZ_CHECK(meter.PeakBytes() <= MostBytes(text.size()), std::to_string(meter.PeakBytes()));
  if (!manifest.ok()) {
    const StatusCode code = manifest.status().code();
    FUZZ_CHECK(code == StatusCode::kDataLoss || code == StatusCode::kFailedPrecondition,
               manifest.status().ToString());
    FUZZ_CHECK(manifest.status().message().starts_with(path), manifest.status().ToString());
    return;
  }
  FUZZ_CHECK(manifest->version == 12, std::to_string(manifest->version));
  const std::string again = folder.Write(ManifestFileName(12), ManifestToJson(*manifest, spec));
  const Result<Manifest> read = ReadManifest(PosixFileSystem(), again, spec);
  FUZZ_CHECK(read.ok(), read.status().ToString());
  FUZZ_CHECK(*read == *manifest, "another manifest");
}

}  // namespace
}  // namespace fedmoe

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fedmoe::CheckManifest(fedmoe::FuzzInput(data, size).TakeRest());
  return 0;
}
