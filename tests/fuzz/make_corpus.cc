// Writes the seeds: FOLDER/TARGET/NAME.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/fuzz/seeds.h"

namespace fedmoe {
namespace {

bool WriteSeeds(const std::filesystem::path& folder, const std::vector<Seed>& seeds) {
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  for (const Seed& seed : seeds) {
    std::ofstream stream(folder / seed.name, std::ios::binary);
    stream.write(seed.bytes.data(), static_cast<std::streamsize>(seed.bytes.size()));
    if (!stream.good()) {
      std::fprintf(stderr, "cannot write %s\n", (folder / seed.name).c_str());
      return false;
    }
  }
  return true;
}

}  // namespace
}  // namespace fedmoe

int main(int count, char** arguments) {
  using namespace fedmoe;
  if (count != 2) {
    std::fprintf(stderr, "Usage: %s FOLDER\n", arguments[0]);
    return 2;
  }
  const std::filesystem::path folder = arguments[1];
  const bool written = WriteSeeds(folder / "update_blocks", UpdateSeeds()) &&
                       WriteSeeds(folder / "encoded_shards", EncodedShardSeeds()) &&
                       WriteSeeds(folder / "safetensors", SafetensorsSeeds()) &&
                       WriteSeeds(folder / "manifest", ManifestSeeds()) &&
                       WriteSeeds(folder / "protocol_messages", MessageSeeds()) &&
                       WriteSeeds(folder / "yaml_config", ConfigSeeds()) &&
                       WriteSeeds(folder / "dataset_headers", DatasetSeeds()) &&
                       WriteSeeds(folder / "images", ImageSeeds());
  return written ? 0 : 1;
}
