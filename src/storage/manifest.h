// Manifests as JSON files, and the names of the files of a version. Internal to storage.
#pragma once

#include <optional>
#include <string>

#include "storage/shard_store.h"

namespace fedmoe {

// Version 12: "000012.safetensors", "000012.moments.safetensors", "000012.json".
std::string ValuesFileName(ModelVersion version);
std::string MomentsFileName(ModelVersion version);
std::string ManifestFileName(ModelVersion version);

// The number that such a name begins with.
ModelVersion VersionOfCheckpointFile(const std::string& name);

// What a file name of the checkpoints directory stands for; nullopt where it is none of ours.
enum class CheckpointFileKind { kManifest, kTensors, kTemporary };
std::optional<CheckpointFileKind> KindOfCheckpointFile(const std::string& name);

std::string ManifestToJson(const Manifest& manifest, const ModelSpec& spec);
// Reads and checks the manifest at `path` against the spec: every shard once, in order, of its
// size, with a digest, in a plainly named file. DATA_LOSS "PATH: what"; FAILED_PRECONDITION for
// another model's.
Result<Manifest> ReadManifest(FileSystem& files, const std::string& path, const ModelSpec& spec);

}  // namespace fedmoe
