#include "storage/manifest.h"

#include <algorithm>
#include <charconv>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include "storage/json_codec.h"

namespace fedmoe {

FEDMOE_JSON_FIELDS(StoredShard, shard, digest, file, offset, bytes, moments_file, moments_offset,
                   moment_count, steps)

namespace {

constexpr std::uint64_t kMaxManifestBytes = 64ull << 20;
constexpr char kFormat[] = "fedmoe.manifest.v1";
constexpr std::string_view kTensorsSuffix = ".safetensors";
constexpr std::string_view kMomentsSuffix = ".moments.safetensors";
constexpr std::string_view kManifestSuffix = ".json";
constexpr std::string_view kTemporarySuffix = ".tmp";

std::string NameOf(ModelVersion version, std::string_view suffix) {
  std::string digits = std::to_string(version);
  if (digits.size() < 6) digits.insert(0, 6 - digits.size(), '0');
  return digits + std::string(suffix);
}

bool IsNumber(std::string_view text) {
  return text.size() >= 6 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// `name` is a number followed by `suffix`.
bool IsNumbered(std::string_view name, std::string_view suffix) {
  return name.ends_with(suffix) && IsNumber(name.substr(0, name.size() - suffix.size()));
}

bool IsTensorsFile(std::string_view name) {
  return IsNumbered(name, kTensorsSuffix) || IsNumbered(name, kMomentsSuffix);
}

// An empty string, or what is wrong with the shard that stands at `index`.
std::string CheckShard(const StoredShard& shard, int index, const ModelSpec& spec) {
  if (shard.shard != index) return "is out of order";
  if (!IsDigest(shard.digest)) return "has no digest";
  if (shard.bytes != static_cast<std::uint64_t>(spec.ShardBytes(index))) {
    return "has " + std::to_string(shard.bytes) + " bytes, the model needs " +
           std::to_string(spec.ShardBytes(index));
  }
  if (!IsTensorsFile(shard.file)) return "names file \"" + shard.file + "\"";
  if (shard.moment_count < 0 || shard.moment_count > 2) return "has a wrong moment count";
  if ((shard.moment_count > 0) != IsTensorsFile(shard.moments_file)) {
    return "names moments file \"" + shard.moments_file + "\"";
  }
  if (shard.offset % sizeof(float) != 0 || shard.moments_offset % sizeof(float) != 0) {
    return "has a misaligned offset";
  }
  return {};
}

}  // namespace

std::string ValuesFileName(ModelVersion version) { return NameOf(version, kTensorsSuffix); }
std::string MomentsFileName(ModelVersion version) { return NameOf(version, kMomentsSuffix); }
std::string ManifestFileName(ModelVersion version) { return NameOf(version, kManifestSuffix); }

std::optional<CheckpointFileKind> KindOfCheckpointFile(const std::string& name) {
  const std::string_view view = name;
  if (IsNumbered(view, kManifestSuffix)) return CheckpointFileKind::kManifest;
  if (IsTensorsFile(view)) return CheckpointFileKind::kTensors;
  if (view.ends_with(kTemporarySuffix) && IsNumber(view.substr(0, view.find('.')))) {
    return CheckpointFileKind::kTemporary;
  }
  return std::nullopt;
}

ModelVersion VersionOfCheckpointFile(const std::string& name) {
  ModelVersion version = 0;
  std::from_chars(name.data(), name.data() + name.size(), version);
  return version;
}

std::string ManifestToJson(const Manifest& manifest, const ModelSpec& spec) {
  nlohmann::ordered_json shards = nlohmann::ordered_json::array();
  for (const StoredShard& shard : manifest.shards) {
    nlohmann::ordered_json entry;
    entry["name"] = spec.ShardName(shard.shard);
    entry.update(nlohmann::ordered_json(ToJson(shard)));
    shards.push_back(std::move(entry));
  }
  nlohmann::ordered_json json;
  json["format"] = kFormat;
  json["version"] = manifest.version;
  json["spec_digest"] = manifest.spec_digest;
  json["model_digest"] = manifest.model_digest;
  json["shards"] = std::move(shards);
  return json.dump(1) + "\n";
}

Result<Manifest> ReadManifest(FileSystem& files, const std::string& path, const ModelSpec& spec) {
  const auto lost = [&path](const std::string& what) { return DataLoss(path + ": " + what); };
  FEDMOE_ASSIGN_OR_RETURN(const std::string text, ReadFile(files, path, kMaxManifestBytes));
  nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object()) return lost("is not a JSON object");
  if (json.value("format", nlohmann::json()) != kFormat) return lost("is not a fedmoe manifest");
  Manifest manifest;
  JsonReader reader("manifest");
  reader.Read(json["version"], manifest.version);
  reader.Read(json["spec_digest"], manifest.spec_digest);
  reader.Read(json["model_digest"], manifest.model_digest);
  if (json["shards"].is_array()) {
    for (nlohmann::json& shard : json["shards"]) {
      if (shard.is_object()) shard.erase("name");
    }
  }
  reader.Read(json["shards"], manifest.shards);
  if (!reader.status().ok()) return lost(reader.status().message());
  if (!path.ends_with("/" + ManifestFileName(manifest.version))) {
    return lost("is of version " + std::to_string(manifest.version));
  }
  if (const Digest expected = SpecDigest(spec); manifest.spec_digest != expected) {
    return FailedPrecondition(path + ": is of another model: spec " + manifest.spec_digest +
                              ", this run has " + expected);
  }
  if (manifest.shards.size() != static_cast<std::size_t>(spec.ShardCount())) {
    return lost("has " + std::to_string(manifest.shards.size()) + " shards, the model has " +
                std::to_string(spec.ShardCount()));
  }
  for (int i = 0; i < spec.ShardCount(); ++i) {
    const std::string wrong = CheckShard(manifest.shards[static_cast<std::size_t>(i)], i, spec);
    if (!wrong.empty()) return lost("shard " + spec.ShardName(i) + " " + wrong);
  }
  if (ModelDigest(manifest.Digests()) != manifest.model_digest) {
    return lost("the shards' digests do not give the model's digest");
  }
  return manifest;
}

}  // namespace fedmoe
