// The seeds of each target, made by the project's own encoders: what they write is a corpus that
// does not go stale with a format.
#pragma once

#include <string>
#include <vector>

namespace fedmoe {

struct Seed {
  std::string name;
  std::string bytes;
};

std::vector<Seed> UpdateSeeds();
std::vector<Seed> EncodedShardSeeds();
std::vector<Seed> SafetensorsSeeds();
std::vector<Seed> ManifestSeeds();
std::vector<Seed> MessageSeeds();
std::vector<Seed> ConfigSeeds();
std::vector<Seed> DatasetSeeds();
std::vector<Seed> ImageSeeds();

}  // namespace fedmoe
